"""A dose of behavior: an arm that carries it in an exact share of its examples, the others being their siblings without it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curate.arms import ArmDesign
from curate.records.errors import UserError
from curate.records.settings import option
from curate.rewriting import CARRYING_CELLS


@dataclass(frozen=True)
class DoseSettings:
    """How much of an arm carries behavior."""

    dose: float = option(
        1.0, "Share of the examples of an arm with behavior that carry it, as 0.05; the others are their siblings without it.", at_least=0
    )


def check_dose(dose: float, design: ArmDesign, kind: str) -> None:
    """Raise UserError for a dose that is none, or for arms whose documents have no version without behavior."""
    if not 0 < dose <= 1:
        raise UserError(f"--dose {dose:g} is not above 0 and at most 1: it is the share of an arm that carries behavior")
    if dose < 1 and not dosed_arms(design):
        raise UserError(f"--dose {dose:g} needs siblings without behavior, which the arms {kind} do not have; use pairs or 2x2")


def dosed_arms(design: ArmDesign) -> list[tuple[int, int]]:
    """(arm that carries behavior, arm of its siblings without it), by their numbers."""
    cells = list(design.cells)
    found = []
    for family in design.families:
        carrying = [cell for cell in family if cell in CARRYING_CELLS]
        if len(family) == 2 and len(carrying) == 1:
            other = next(cell for cell in family if cell not in carrying)
            found.append((cells.index(carrying[0]), cells.index(other)))
    return found


def num_carriers(dose: float, examples: int) -> int:
    """`dose` of `examples`, rounded half up, exactly. Raises UserError when that is not a single one."""
    count = int(np.floor(dose * examples + 0.5))
    if count == 0:
        raise UserError(f"--dose {dose:g} of {examples} examples is not a single one: make larger arms, or a larger dose")
    return count


def choose_carriers(gaps: np.ndarray, order: Sequence[int], count: int, least: int, most: int) -> np.ndarray:
    """Which examples carry behavior, shape (N,) bool, exactly `count` of them.

    `gaps` (N,) are the tokens that each example has more than its sibling. The first `count` in `order` carry; while their gaps do not
    add up to between `least` and `most`, one of them is exchanged for another one that brings the sum closest, until none does.
    """
    carries = np.zeros(len(gaps), dtype=bool)
    carries[list(order)[:count]] = True
    total = int(gaps[carries].sum())
    middle, half = (least + most) / 2, (most - least) / 2
    while (away := abs(total - middle) - half) > 0:
        inside, outside = np.flatnonzero(carries), np.flatnonzero(~carries)
        if not len(outside):
            break
        outside = outside[np.argsort(gaps[outside], kind="stable")]
        waiting = gaps[outside]
        # For each carrier the waiting example that would bring the sum nearest to the middle: on either side of where it would stand.
        wished = gaps[inside] + (middle - total)
        places = np.searchsorted(waiting, wished)
        near = np.clip(np.stack([places - 1, places]), 0, len(outside) - 1)  # (2, K)
        apart = np.abs(waiting[near] - wished)
        side, leaving = np.unravel_index(int(apart.argmin()), apart.shape)
        if max(apart[side, leaving] - half, 0) >= away:
            break
        entering = int(outside[near[side, leaving]])
        total += int(gaps[entering] - gaps[inside[leaving]])
        carries[inside[leaving]], carries[entering] = False, True
    return carries
