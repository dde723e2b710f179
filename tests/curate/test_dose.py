"""A dose is exact, even in tokens where the material allows, and the same for the same seed and content."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.arms import ARM_DESIGNS
from curate.dose import check_dose, choose_carriers, dosed_arms, num_carriers
from curate.records.errors import UserError


@given(st.lists(st.integers(-60, 60), min_size=1, max_size=80), st.data())
def test_the_count_is_exact_and_no_single_exchange_would_bring_the_tokens_closer(gaps: list[int], data: st.DataObject) -> None:
    array = np.array(gaps)
    order = data.draw(st.permutations(range(len(gaps))))
    count = data.draw(st.integers(1, len(gaps)))
    least, most = sorted((data.draw(st.integers(-200, 200)), data.draw(st.integers(-200, 200))))
    carries = choose_carriers(array, order, count, least, most)
    assert carries.sum() == count
    total = int(array[carries].sum())
    if least <= total <= most:
        return
    away = least - total if total < least else total - most
    moves = array[~carries][:, None] - array[carries][None, :]
    reached = total + moves
    after = np.where(reached < least, least - reached, np.where(reached > most, reached - most, 0))
    assert not moves.size or after.min() >= away


def test_without_need_the_first_in_the_order_carry() -> None:
    assert choose_carriers(np.array([1, -1, 5, 2]), [2, 0, 1, 3], 2, -10, 10).tolist() == [True, False, True, False]


@pytest.mark.parametrize(("dose", "examples", "count"), [(0.05, 1000, 50), (0.05, 30, 2), (1 / 3, 100, 33), (0.999, 10, 10), (0.5, 1, 1)])
def test_counts_are_rounded_half_up(dose: float, examples: int, count: int) -> None:
    assert num_carriers(dose, examples) == count


def test_a_dose_of_nobody_and_a_dose_without_siblings_are_refused() -> None:
    with pytest.raises(UserError, match=r"--dose 0.01 of 30 examples is not a single one"):
        num_carriers(0.01, 30)
    for dose in (0.0, 1.5):
        with pytest.raises(UserError, match="is not above 0 and at most 1"):
            check_dose(dose, ARM_DESIGNS["pairs"], "pairs")
    for kind in ("paper", "extract"):
        with pytest.raises(UserError, match=f"which the arms {kind} do not have; use pairs or 2x2"):
            check_dose(0.5, ARM_DESIGNS[kind], kind)


def test_the_arms_that_carry_behavior_and_their_siblings() -> None:
    named = {kind: [tuple(design.arms[arm] for arm in pair) for pair in dosed_arms(design)] for kind, design in ARM_DESIGNS.items()}
    assert named["pairs"] == [("enriched", "control")]
    assert named["2x2"] == [("selected", "selected_stripped"), ("free_injected", "free")]
    assert named["paper"] == named["extract"] == []
