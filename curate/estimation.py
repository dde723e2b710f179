"""Estimates of a share with 95 % intervals: from a design, from gold labels and a judge, from a judge's known errors.

Every interval stays inside [0, 1] and is not empty where no positive was seen: behaviors are rare, and the normal interval of a rare
share covers too seldom (tests/curate/test_coverage.py measures it).
"""

import math
from dataclasses import dataclass

import numpy as np

Z = 1.959964  # 95 %, two-sided


@dataclass(frozen=True)
class Estimate:
    """A share, its 95 % interval, and the number of simple random draws that would be as precise (`effective`)."""

    value: float
    low: float
    high: float
    effective: float
    notes: tuple[str, ...] = ()


def kish(weights: np.ndarray) -> float:
    """Effective number of equally weighted draws: (sum w)^2 / sum w^2 (Kish 1965); 0 without weight."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def korn_graubard(share: float, standard_error: float, draws: float) -> tuple[float, float, float]:
    """(low, high, effective): Clopper and Pearson's interval with the effective number of draws, share (1 - share) / error^2.

    Korn and Graubard (1998), the interval of survey proportions. Where the error says nothing (none, all, or no spread seen),
    `draws` is the effective number.
    """
    from scipy.stats import beta

    effective = share * (1 - share) / standard_error**2 if standard_error > 0 and 0 < share < 1 else draws
    if effective <= 0:
        return 0.0, 1.0, 0.0
    found, rest = share * effective, (1 - share) * effective
    low = float(beta.ppf(0.025, found, rest + 1)) if found > 0 else 0.0
    high = float(beta.ppf(0.975, found + 1, rest)) if rest > 0 else 1.0
    return low, high, effective


def design_error(residuals: np.ndarray, weights: np.ndarray, strata: np.ndarray) -> float:
    """Standard error of the weighted mean of `residuals`, all of shape (n,), drawn independently within strata.

    Linearised as a ratio (the weights are normalised by their own sum), without a correction for drawing most of a stratum. No
    stratum's spread is taken to be less than that of one case in n + 1: where a behavior is rare, a large stratum in which none was
    found says little, and without this floor the interval covers 80 % (tests/curate/test_coverage.py).
    """
    shares = weights / weights.sum()
    variance = 0.0
    for stratum in np.unique(strata):
        inside = strata == stratum
        values, own = residuals[inside], shares[inside]
        number = len(values)
        spread = own * (values - np.average(values, weights=own))
        variance += max(float((spread**2).sum()) * number / max(number - 1, 1), float((own**2).sum()) / (number + 1))
    return math.sqrt(variance)


def designed(truth: np.ndarray, weights: np.ndarray, strata: np.ndarray) -> Estimate:
    """Share of positives in the population that a stratified sample was drawn from; no judge takes part. Arrays of shape (n,)."""
    share = float(np.average(truth, weights=weights))
    return Estimate(share, *korn_graubard(share, design_error(truth, weights, strata), kish(weights)))


def prediction_powered(
    truth: np.ndarray, predicted: np.ndarray, pool: np.ndarray, weights: np.ndarray | None = None, strata: np.ndarray | None = None
) -> Estimate:
    """Share of positives in the pool's population, from a judge's probabilities for all of it and gold labels for a part.

    `truth` and `predicted` are of shape (n,): gold labels and the judge's probabilities of the same documents, drawn with
    probabilities proportional to 1 / `weights` within `strata`; `pool` (N,) holds the judge's probabilities of all documents. The
    estimate is unbiased however wrong the judge is; the better the judge, the narrower the interval. PPI++ (Angelopoulos, Duchi and
    Zrnic 2023): point and power tuning by ppi_py; with weights or strata the error is that of the design (ppi_py's assumes
    neither). The interval is `korn_graubard`'s, because the normal one covers about 90 % for a rare share.
    """
    from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

    number = len(truth)
    if weights is None and strata is None:
        low, high = (float(np.squeeze(end)) for end in ppi_mean_ci(truth, predicted, pool, alpha=0.05))
        share, error = (low + high) / 2, (high - low) / (2 * Z)
        weights = np.ones(number)
    else:
        weights = np.ones(number) if weights is None else weights
        strata = np.zeros(number, dtype=np.int64) if strata is None else strata
        shares = weights / weights.sum()
        tuning = _power(truth, predicted, pool, shares)
        share = float(np.squeeze(ppi_mean_pointestimate(truth, predicted, pool, lam=tuning, w=weights)))
        residual = design_error(truth - tuning * predicted, weights, strata)
        error = math.hypot(residual, tuning * float(pool.std()) / math.sqrt(len(pool)))
    share = min(max(share, 0.0), 1.0)
    return Estimate(share, *korn_graubard(share, error, kish(weights)))


def _power(truth: np.ndarray, predicted: np.ndarray, pool: np.ndarray, shares: np.ndarray) -> float:
    """How much of the judge is used, in [0, 1]: covariance over variance (PPI++, section 6), the former under the design."""
    spread = float(pool.var())
    if spread == 0:
        return 0.0
    centred = (truth - shares @ truth) * (predicted - shares @ predicted)
    return float(np.clip(shares @ centred / ((1 + len(truth) / len(pool)) * spread), 0, 1))


@dataclass(frozen=True)
class Errors:
    """A judge's sensitivity and specificity on gold labels, with the effective number of positives and negatives behind them."""

    sensitivity: float
    specificity: float
    positives: float
    negatives: float


def judge_errors(truth: np.ndarray, flagged: np.ndarray, weights: np.ndarray) -> Errors | None:
    """Sensitivity and specificity of `flagged` (bool) against `truth` (share of annotators who said yes); None without both kinds."""
    yes, no = weights * truth, weights * (1 - truth)
    if yes.sum() <= 0 or no.sum() <= 0:
        return None
    return Errors(float(yes @ flagged / yes.sum()), float(no @ ~flagged / no.sum()), kish(yes), kish(no))


def rogan_gladen(flagged: float, documents: float, errors: Errors) -> Estimate | None:
    """True share from the share that a judge flags among `documents`, given the judge's errors elsewhere. None: the judge is no better
    than a coin, nothing can be said.

    Rogan and Gladen (1978), with the interval of Lang and Reiczigel (2014), which counts the uncertainty of sensitivity and
    specificity. Assumes that the judge errs here as it did on the gold labels.
    """
    sum_of_rates = errors.sensitivity + errors.specificity
    squared = Z * Z
    sensitivity = (errors.sensitivity * errors.positives + 1) / (errors.positives + 2)
    specificity = (errors.specificity * errors.negatives + 1) / (errors.negatives + 2)
    gain = sensitivity + specificity - 1
    if sum_of_rates - 1 <= 0 or gain <= 0:
        return None
    adjusted = (documents * flagged + squared / 2) / (documents + squared)
    centre = (adjusted + specificity - 1) / gain
    of_sensitivity = sensitivity * (1 - sensitivity) / (errors.positives + 2)
    of_specificity = specificity * (1 - specificity) / (errors.negatives + 2)
    shift = 2 * squared * (centre * of_sensitivity - (1 - centre) * of_specificity)
    variance = adjusted * (1 - adjusted) / (documents + squared) + centre**2 * of_sensitivity + (1 - centre) ** 2 * of_specificity
    half = Z * math.sqrt(variance) / gain
    value = min(max((flagged + errors.specificity - 1) / (sum_of_rates - 1), 0.0), 1.0)
    low, high = (min(max(end, 0.0), 1.0) for end in (centre + shift - half, centre + shift + half))
    effective = value * (1 - value) / ((high - low) / (2 * Z)) ** 2 if high > low else 0.0
    return Estimate(value, min(low, value), max(high, value), effective)
