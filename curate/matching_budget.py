"""Which matched blocks enter the arms, so that the tokens of all arms are equal, fill the budget, and covariates stay balanced."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GOOD_DIFFERENCE = 0.05  # standard deviations
EXACT_BLOCKS = 1_000  # up to here an integer program finds the best choice in seconds; beyond it, single changes are good enough
AIM = 0.8  # of the bound: what is aimed at, because the bound is checked with the standard deviations of the final sets


@dataclass(frozen=True)
class Choice:
    """Chosen blocks (indices), the tokens of each arm, and how many blocks were taken out or exchanged to even the arms."""

    chosen: list[int]
    tokens: tuple[int, ...]
    removed: int


def choose_blocks(tokens: np.ndarray, order: Sequence[int], budget: int, tolerance: float, differences: np.ndarray | None = None) -> Choice:
    """Choose blocks in `order` until no arm has room for another, then even out the arms.

    A block gives one example to every arm; `tokens` are those of its examples, shape (A, N). A block that would overflow `budget` is
    passed over for a later one that fits. `differences`, shape (k, N), say by how many standard deviations the two documents of a
    block differ in each covariate.

    While the largest and the smallest total differ by more than `tolerance` (a share of the largest), or a covariate by more than
    GOOD_DIFFERENCE in the mean, one change at a time brings the arms closer: an unused block comes in, else one is exchanged for an
    unused one, else one goes out; it ends when no change helps. What fits into the room that is left then, without making the arms
    uneven again, comes in at last. Equal numbers of examples are kept throughout. Of up to EXACT_BLOCKS blocks the choice is the best
    one instead: as many tokens as possible under the same conditions, by integer programming (HiGHS).
    """
    tokens = tokens.astype(np.int64)
    blocks = _Blocks(tokens, np.zeros((0, tokens.shape[1])) if differences is None else differences, budget, tolerance)
    for index in order:
        if (blocks.totals + tokens[:, index]).max() <= budget:
            blocks.turn(index)
    filled = blocks.inside.copy()
    if tokens.shape[1] <= EXACT_BLOCKS and not blocks.even(blocks.totals, blocks.sums, int(filled.sum())):
        best = blocks.best()
        if best is not None:
            for index in np.flatnonzero(best != blocks.inside).tolist():
                blocks.turn(index)
            chosen = [index for index in order if best[index]]
            return Choice(chosen, tuple(int(total) for total in blocks.totals), int((filled & ~best).sum()))
    removed = 0
    while blocks.inside.sum() > 1 and not blocks.even(blocks.totals, blocks.sums, int(blocks.inside.sum())):
        change = blocks.evening()
        if change is None:
            break
        for index in change:
            removed += bool(blocks.inside[index])
            blocks.turn(index)
    for index in order:
        after = blocks.totals + tokens[:, index]
        if not blocks.inside[index] and after.max() <= budget:
            sums = blocks.sums + blocks.differences[:, index]
            if blocks.even(after, sums, int(blocks.inside.sum()) + 1):
                blocks.turn(index)
    return Choice([index for index in order if blocks.inside[index]], tuple(int(total) for total in blocks.totals), removed)


class _Blocks:
    """Which blocks are inside, and what they add up to: `totals` of tokens (A,), `sums` of differences (k,)."""

    def __init__(self, tokens: np.ndarray, differences: np.ndarray, budget: int, tolerance: float) -> None:
        self.tokens, self.differences, self.budget, self.tolerance = tokens, differences, budget, tolerance
        self.inside = np.zeros(tokens.shape[1], dtype=bool)
        self.totals = np.zeros(len(tokens), dtype=np.int64)
        self.sums = np.zeros(len(differences))
        self.deviations = tokens - tokens.mean(axis=0)  # (A, N): what a block adds to an arm beyond what it adds to all

    def turn(self, index: int) -> None:
        """Take a block in, or out."""
        sign = -1 if self.inside[index] else 1
        self.totals += sign * self.tokens[:, index]
        self.sums += sign * self.differences[:, index]
        self.inside[index] = not self.inside[index]

    def even(self, totals: np.ndarray, sums: np.ndarray, count: int) -> bool:
        """Whether arms of `count` blocks with these totals and sums are alike enough."""
        return bool(np.ptp(totals) <= self.tolerance * totals.max()) and bool((np.abs(sums) <= AIM * GOOD_DIFFERENCE * count).all())

    def best(self) -> np.ndarray | None:
        """The choice with the most tokens among those that are even, as a mask (N,); None when there is none but the empty one.

        All conditions are linear in what is inside; blocks that the draw chose count a hundredth more than others.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        arms, count = self.tokens.shape
        rows = [*self.tokens.astype(float)]
        highest = [float(self.budget)] * arms
        for first in range(arms):
            for other in range(arms):
                if first != other:
                    # t_first - t_other <= tolerance * largest: the largest is at least t_first, so this is no looser.
                    rows.append((1 - self.tolerance) * self.tokens[first] - self.tokens[other])
                    highest.append(0.0)
        for difference in self.differences:
            rows += [difference - AIM * GOOD_DIFFERENCE, -difference - AIM * GOOD_DIFFERENCE]
            highest += [0.0, 0.0]
        result = milp(
            -self.tokens.mean(axis=0) * (1 + 0.01 * self.inside),
            constraints=LinearConstraint(np.array(rows), -np.inf, np.array(highest)),
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.002, "node_limit": 2_000},
        )
        mask = None if result.x is None else result.x > 0.5
        return mask if mask is not None and mask.any() else None

    def evening(self) -> tuple[int, ...] | None:
        """The blocks whose change of side brings the arms closer, at the least cost in examples; None when nothing helps.

        Closeness is `|d|²` for the vector d of the totals' distances from their mean and of the sums of differences, these in tokens:
        GOOD_DIFFERENCE is worth a thousandth of an arm. Adding block u makes it `|d|² + 2 d·v_u + |v_u|²` with the block's own
        vector v_u; taking it out changes the sign of the middle term. For two arms and no differences it is half the squared gap.
        """
        worth = 0.001 / GOOD_DIFFERENCE * self.totals.max() / max(self.inside.sum(), 1)
        vectors = np.concatenate([self.deviations, worth * self.differences])  # (A + k, N)
        sizes = (vectors**2).sum(axis=0)
        d = np.concatenate([self.totals - self.totals.mean(), worth * self.sums])
        pull = d @ vectors  # (N,): how far a block pushes into the direction in which the arms are off

        def nearest(candidates: np.ndarray, change: np.ndarray) -> int | None:
            best = int(change.argmin()) if len(change) else 0
            return int(candidates[best]) if len(change) and change[best] < -1e-6 else None

        unused, used = np.flatnonzero(~self.inside), np.flatnonzero(self.inside)
        fits = self._fitting(unused, self.totals)
        if (added := nearest(fits, 2 * pull[fits] + sizes[fits])) is not None:
            return (added,)
        worst = int(used[pull[used].argmax()])
        fits = self._fitting(unused, self.totals - self.tokens[:, worst])
        without = d - vectors[:, worst]
        change = sizes[worst] - 2 * pull[worst] + 2 * (without @ vectors[:, fits]) + sizes[fits]
        if (exchanged := nearest(fits, change)) is not None:
            return worst, exchanged
        out = nearest(used, sizes[used] - 2 * pull[used])
        return None if out is None else (out,)

    def _fitting(self, candidates: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """Those of `candidates` for which arms with these totals have room."""
        return candidates[(totals[:, None] + self.tokens[:, candidates]).max(axis=0) <= self.budget] if len(candidates) else candidates
