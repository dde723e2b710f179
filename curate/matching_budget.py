"""Which matched blocks enter the arms, so that the tokens of all arms are equal and fill the budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """Chosen blocks (indices), the tokens of each arm, and how many blocks were taken out or exchanged to even the tokens."""

    chosen: list[int]
    tokens: tuple[int, ...]
    removed: int


def choose_blocks(tokens: np.ndarray, order: Sequence[int], budget: int, tolerance: float) -> Choice:
    """Choose blocks in `order` until no arm has room for another, then even out the arms.

    A block gives one example to every arm; `tokens` are those of its examples, shape (A, N). A block that would overflow `budget` is
    passed over for a later one that fits. While the largest and the smallest total differ by more than `tolerance` (a share of the
    largest), one change at a time brings the totals closer: an unused block comes in, else one is exchanged for an unused one, else
    one goes out; it ends when no change helps. What fits into the room that is left then, without making the arms uneven again,
    comes in at last. Equal numbers of examples are kept throughout.
    """
    tokens = tokens.astype(np.int64)
    inside = np.zeros(tokens.shape[1], dtype=bool)
    totals = np.zeros(len(tokens), dtype=np.int64)
    for index in order:
        if (totals + tokens[:, index]).max() <= budget:
            inside[index] = True
            totals += tokens[:, index]
    deviations = tokens - tokens.mean(axis=0)  # (A, N): what a block adds to an arm beyond what it adds to all
    sizes = (deviations**2).sum(axis=0)
    removed = 0
    while inside.sum() > 1 and np.ptp(totals) > tolerance * totals.max():
        change = _evening(tokens, deviations, sizes, inside, totals, budget)
        if change is None:
            break
        for index in change:
            removed += bool(inside[index])
            totals += -tokens[:, index] if inside[index] else tokens[:, index]
            inside[index] = not inside[index]
    for index in order:
        after = totals + tokens[:, index]
        if not inside[index] and after.max() <= budget and np.ptp(after) <= tolerance * after.max():
            inside[index] = True
            totals = after
    return Choice([index for index in order if inside[index]], tuple(int(total) for total in totals), removed)


def _evening(
    tokens: np.ndarray, deviations: np.ndarray, sizes: np.ndarray, inside: np.ndarray, totals: np.ndarray, budget: int
) -> tuple[int, ...] | None:
    """The blocks whose change of side (in or out) brings the totals closer, at the least cost in examples; None when nothing helps.

    Closeness is the squared distance of the totals from their mean, `|d|²`; adding block u makes it `|d|² + 2 d·v_u + |v_u|²` with
    the block's deviations v_u, taking it out changes the sign of the middle term. For two arms that is half the squared gap.
    """
    d = totals - totals.mean()
    pull = d @ deviations  # (N,): how far a block pushes into the direction in which the totals are off

    def nearest(candidates: np.ndarray, change: np.ndarray) -> int | None:
        best = int(change.argmin()) if len(change) else 0
        return int(candidates[best]) if len(change) and change[best] < -1e-6 else None

    unused, used = np.flatnonzero(~inside), np.flatnonzero(inside)
    fits = unused[(totals[:, None] + tokens[:, unused]).max(axis=0) <= budget] if len(unused) else unused
    if (added := nearest(fits, 2 * pull[fits] + sizes[fits])) is not None:
        return (added,)
    worst = int(used[pull[used].argmax()])
    if len(unused):
        room = totals - tokens[:, worst]
        fits = unused[(room[:, None] + tokens[:, unused]).max(axis=0) <= budget]
        without = d - deviations[:, worst]
        change = sizes[worst] - 2 * pull[worst] + 2 * (without @ deviations[:, fits]) + sizes[fits]
        if (exchanged := nearest(fits, change)) is not None:
            return worst, exchanged
    out = nearest(used, sizes[used] - 2 * pull[used])
    return None if out is None else (out,)
