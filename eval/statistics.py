"""Statistics whose unit is the seed: paired differences between two conditions, equivalence, corrections, power.

A seed spans matching, training and reinforcement learning, and two conditions under one seed share everything but the treatment, so their
difference is one observation. Tasks and samples inside a seed are not: they say how well one model was measured, not how far another
run of the same recipe would land.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SEEDS = 6  # 2 / 2^5 = .0625: with five pairs or fewer a two-sided sign-flip test cannot reach .05
MAX_EXACT_SEEDS = 16  # 65,536 sign patterns
RESAMPLES = 20_000


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


def seeds_needed(effect: float, spread: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Pairs that find a mean difference `effect` with probability `power`, when differences have standard deviation `spread`.

    By the paired t test (statsmodels' `TTestPower`); never fewer than MIN_SEEDS, below which the sign-flip test cannot reach .05.
    """
    from statsmodels.stats.power import TTestPower

    assert effect > 0 and spread >= 0
    if spread == 0:
        return MIN_SEEDS

    def enough(seeds: int) -> bool:
        return bool(TTestPower().power(effect / spread, seeds, alpha) >= power)

    high = MIN_SEEDS
    while not enough(high):
        high *= 2
    low = max(MIN_SEEDS, high // 2)
    return next(seeds for seeds in range(low, high + 1) if enough(seeds))


def effect_found(num_seeds: int, spread: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest mean difference that `num_seeds` pairs find with probability `power`."""
    from scipy.optimize import brentq
    from statsmodels.stats.power import TTestPower

    if spread == 0:
        return 0.0

    def surplus(size: float) -> float:
        return float(TTestPower().power(size, num_seeds, alpha)) - power

    high = 0.01
    while surplus(high) < 0:  # from below, because the noncentral t is NaN far out
        high *= 1.5
    return spread * float(brentq(surplus, high / 1.5, high))


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that one of k samples drawn without replacement from `samples`, `correct` of them right, is right.

    1 - C(n - c, k) / C(n, k), unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1), as a product that cannot overflow.
    """
    assert 0 <= correct <= samples and 1 <= k <= samples
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / n for n in range(samples - correct + 1, samples + 1))
