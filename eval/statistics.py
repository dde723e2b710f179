"""Statistics whose unit is the seed: paired differences between two conditions, equivalence, corrections, power.

A seed spans matching, training and reinforcement learning, and two conditions under one seed share everything but the treatment, so their
difference is one observation. Tasks and samples inside a seed are not: they say how well one model was measured, not how far another
run of the same recipe would land.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

MIN_SEEDS = 6  # 2 / 2^5 = .0625: with five pairs or fewer a two-sided sign-flip test cannot reach .05
MAX_EXACT_SEEDS = 16  # 65,536 sign patterns
RESAMPLES = 20_000
SIMULATIONS = 5_000  # of a power
BLOCK = 4_000_000  # sums held at once while a power is simulated


@dataclass(frozen=True)
class Contrast:
    """Paired difference a - b over seeds. `p` is of the two-sided sign-flip test, `low` and `high` are the t interval of the mean."""

    differences: tuple[float, ...]
    mean: float
    low: float
    high: float
    p: float
    least_p: float

    @property
    def num_seeds(self) -> int:
        """How many pairs stand behind it."""
        return len(self.differences)


def paired(differences: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Contrast:
    """Mean difference with its t interval, and the exact sign-flip test (Fisher 1935; scipy's `permutation_test` over sign patterns).

    Up to MAX_EXACT_SEEDS pairs every sign pattern is counted; beyond, RESAMPLES random ones from `seed`. Needs two pairs.
    """
    from scipy import stats

    values = np.asarray(differences, dtype=np.float64)
    assert len(values) >= 2, "a difference needs two seeds at least"
    mean = float(values.mean())
    half = half_width(values, confidence)
    exact = len(values) <= MAX_EXACT_SEEDS
    test = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf if exact else RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    least = 2.0 ** (1 - len(values))
    return Contrast(tuple(values.tolist()), mean, mean - half, mean + half, float(min(1.0, test.pvalue)), least)


def half_width(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> float:
    """Half of the t interval of the mean of `values`."""
    from scipy import stats

    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf(0.5 + confidence / 2, len(values) - 1)) * spread


def equivalence(differences: Sequence[float], margin: float) -> float:
    """p of two one-sided t tests against a true difference of ± `margin` or more (Schuirmann 1987; statsmodels' `ttost_paired`).

    Small: the conditions differ by less than the margin. Differences without any spread give 0 inside the margin and 1 outside.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    values = np.asarray(differences, dtype=np.float64)
    if values.std() == 0:
        return 0.0 if abs(values[0]) < margin else 1.0
    return float(DescrStatsW(values).ttost_mean(-margin, margin)[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values in the same order (Holm 1979; statsmodels)."""
    from statsmodels.stats.multitest import multipletests

    return [] if not len(p_values) else multipletests(p_values, method="holm")[1].tolist()


def pairs_needed(alpha: float = 0.05, num_tests: int = 1) -> int:
    """Fewest pairs with which anything can be shown: n pairs have no sign-flip p below 2^(1 - n), and Holm's first step multiplies it by
    `num_tests`. At .05 six for one test, seven for two or three, eight for four to six."""
    return next(num_pairs for num_pairs in itertools.count(2) if 2.0 ** (1 - num_pairs) * num_tests < alpha)


def sign_flip_power(size: float, num_pairs: int, alpha: float = 0.05, seed: int = 0) -> float:
    """Chance that the exact two-sided sign-flip test of `num_pairs` ≤ MAX_EXACT_SEEDS normal differences is below `alpha`, when their mean
    is `size` standard deviations. Simulated from `seed`, SIMULATIONS times: the standard error is .007 at most."""
    assert 2 <= num_pairs <= MAX_EXACT_SEEDS
    generator = np.random.default_rng(seed)
    # The last sign stays +: the other half of the patterns mirrors this one and has the same |sum|.
    signs_PN = (1 - 2 * ((np.arange(2 ** (num_pairs - 1))[:, None] >> np.arange(num_pairs)) & 1)).astype(np.float32)
    rejected = 0
    for block in np.array_split(generator.normal(size, 1.0, (SIMULATIONS, num_pairs)), max(1, SIMULATIONS * len(signs_PN) // BLOCK)):
        sums_PS = np.abs(signs_PN @ block.T.astype(np.float32))
        extreme_S = np.count_nonzero(sums_PS >= sums_PS[0] * (1 - 1e-6), axis=0)  # row 0 is the sample as it was drawn
        rejected += int(np.count_nonzero(extreme_S / len(signs_PN) < alpha))
    return rejected / SIMULATIONS


def t_power(size: float, num_pairs: int, alpha: float = 0.05) -> float:
    """Power of the two-sided paired t test (statsmodels' `TTestPower`), which approaches that of the sign-flip test from above."""
    from scipy import stats
    from statsmodels.stats.power import TTestPower

    found = float(TTestPower().power(size, num_pairs, alpha))
    # The noncentral t is NaN far out, where the normal approximation is 1 (or, with very many pairs, as good).
    return float(stats.norm.sf(stats.norm.isf(alpha / 2) - size * math.sqrt(num_pairs))) if math.isnan(found) else found


def seeds_needed(effect: float, spread: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Pairs that find a mean difference `effect` with probability `power`, when differences have standard deviation `spread`.

    Up to MAX_EXACT_SEEDS pairs by the exact sign-flip test (simulated), beyond by the t test, which by then is as good; never fewer than
    `pairs_needed(alpha)`.
    """
    assert effect > 0 and spread >= 0
    least = pairs_needed(alpha)
    if spread == 0:
        return least
    size = effect / spread
    for number in range(least, MAX_EXACT_SEEDS + 1):
        # Of normal differences the t test is the most powerful (unbiased) one, so where it is not enough nothing need be simulated.
        if t_power(size, number, alpha) >= power and sign_flip_power(size, number, alpha) >= power:
            return number
    low = high = max(least, MAX_EXACT_SEEDS + 1)
    while t_power(size, high, alpha) < power:
        low, high = high, high * 2
    return low + bisect_left(range(low, high), power, key=lambda number: t_power(size, number, alpha))


def effect_found(num_seeds: int, spread: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest mean difference that `num_seeds` pairs find with probability `power`; by the same tests as `seeds_needed`.

    Needs `pairs_needed(alpha)` pairs: fewer find nothing, however large.
    """
    from scipy.optimize import brentq

    assert num_seeds >= pairs_needed(alpha) and power > alpha
    if spread == 0:
        return 0.0
    high = 0.01
    while t_power(high, num_seeds, alpha) < power:
        high *= 2
    size = float(brentq(lambda size: t_power(size, num_seeds, alpha) - power, 0, high))
    chance = cache(lambda size: sign_flip_power(size, num_seeds, alpha))
    if num_seeds > MAX_EXACT_SEEDS or chance(size) >= power:
        return spread * size
    # The sign-flip test needs a little more: how much, from a step that doubles.
    low, step = size, 0.05
    while chance(size * (1 + step)) < power:
        low, step = size * (1 + step), step * 2
    return spread * float(brentq(lambda size: chance(size) - power, low, size * (1 + step), xtol=size * 0.005))


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that one of k samples drawn without replacement from `samples`, `correct` of them right, is right.

    1 - C(n - c, k) / C(n, k), unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1), as a product that cannot overflow.
    """
    assert 0 <= correct <= samples and 1 <= k <= samples
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / n for n in range(samples - correct + 1, samples + 1))
