"""Usefulness: of several responses to one task, do those with a behavior succeed more often, at equal length?

By conditional logistic regression, a stratum a task: only tasks with both a right and a wrong response inform, and what a task is like
cancels. Length enters as a restricted cubic spline of log tokens, because success need not rise or fall evenly with it. A response that was
cut off has no known length and is left out. It describes what goes with success in one model's samples; it is not an experiment.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_TASKS = 10  # informative tasks below which no odds ratio is given
KNOTS = (0.05, 0.35, 0.65, 0.95)  # quantiles of log length; F. E. Harrell, Regression Modeling Strategies (2015), table 2.3
ITERATIONS, CLOSE = 40, 1e-8
LARGEST_ERROR = 20.0  # standard error of log odds beyond which nothing was estimated
Z_95 = 1.959963984540054
Array = NDArray[np.float64]


def usefulness(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Odds ratio of success for a response with the behavior `name` against one without, at equal length, with a 95 % Wald interval.

    Compared are responses to the same numbers and target, of one step and one file, whose `correct` and `num_tokens` are known.
    `cut_off` were left out. The odds ratio is None with fewer than FEWEST_TASKS tasks that can tell, or when it has no bound.
    """
    known = [row for row in rows if row["correct"] is not None and row["num_tokens"] is not None]
    whole = [row for row in known if not row["truncated"]]
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in whole:
        groups[row["file"], row["step"], tuple(row["numbers"]), row["target"]].append(row)
    mixed = [group for group in groups.values() if len({row["correct"] for row in group}) == 2]
    informative = sum(len({row[name] > 0 for row in group}) == 2 for group in mixed)
    found: dict[str, Any] = {"informative_tasks": informative, "cut_off": len(known) - len(whole)}
    found |= {"odds_ratio": None, "low": None, "high": None}
    if informative < FEWEST_TASKS:
        return found
    sizes = np.array([len(group) for group in mixed])
    right = np.array([row["correct"] for group in mixed for row in group])
    shown = np.array([row[name] > 0 for group in mixed for row in group], dtype=np.float64)
    length = np.log([max(row["num_tokens"], 1) for group in mixed for row in group])
    fitted = conditional_logit(right, np.column_stack([shown, spline(length)]), sizes)
    if fitted is None:
        return found
    log_odds, error = fitted
    low, high = log_odds - Z_95 * error, log_odds + Z_95 * error
    return found | {"odds_ratio": float(np.exp(log_odds)), "low": float(np.exp(low)), "high": float(np.exp(high))}


def spline(values: Array) -> Array:
    """Restricted cubic spline of `values` (n,), linear beyond the outer knots: columns (n, 0 to 3), fewer where values coincide."""
    knots = np.unique(np.quantile(values, KNOTS))
    columns = [values - values.mean()] if np.ptp(values) > 0 else []
    if len(knots) > 2:
        last, before = knots[-1], knots[-2]
        for knot in knots[:-2]:
            bent = _cube(values, knot) - _cube(values, before) * (last - knot) / (last - before)
            bent += _cube(values, last) * (before - knot) / (last - before)
            columns.append(bent / (last - knots[0]) ** 2)
    return np.column_stack(columns) if columns else np.empty((len(values), 0))


def _cube(values: Array, knot: float) -> Array:
    return np.maximum(values - knot, 0) ** 3


def conditional_logit(right: NDArray[np.bool_], features: Array, sizes: NDArray[np.int_]) -> tuple[float, float] | None:
    """Coefficient of the first of `features` (n, p) and its standard error, given how many of each group are right.

    The exact conditional likelihood, by Newton's method. Groups stand one after another and have `sizes` (g,) members. None when the
    first feature cannot be told from the others inside groups, or has no finite coefficient.
    """
    starts = np.cumsum(sizes) - sizes
    centred = features - np.repeat(np.add.reduceat(features, starts) / sizes[:, None], sizes, axis=0)
    if np.linalg.matrix_rank(centred) == np.linalg.matrix_rank(centred[:, 1:]):
        return None
    beta = np.zeros(features.shape[1])
    value, gradient, information = _likelihood(beta, right, centred, sizes)
    for _ in range(ITERATIONS):
        inverse = np.linalg.pinv(information, hermitian=True)
        step = inverse @ gradient
        if gradient @ step < CLOSE:  # Newton's decrement: what is left to gain
            error = float(np.sqrt(max(inverse[0, 0], 0.0)))
            return (float(beta[0]), error) if 0 < error < LARGEST_ERROR else None
        for _ in range(ITERATIONS):
            after = _likelihood(beta + step, right, centred, sizes)
            if after[0] >= value:
                break
            step = step / 2
        beta, (value, gradient, information) = beta + step, after
    return None


def _likelihood(beta: Array, right: NDArray[np.bool_], features: Array, sizes: NDArray[np.int_]) -> tuple[float, Array, Array]:
    """Conditional log-likelihood at `beta`, its gradient (p,) and its information (p, p).

    The denominator of a group sums over all ways to place its number of right responses: an elementary symmetric polynomial of the odds,
    built up member by member with its first two derivatives (M. H. Gail, J. H. Lubin, L. V. Rubinstein, Biometrika 68, 1981). All groups go
    on together, kept in scale by what is subtracted into `scale`.
    """
    num, width = len(sizes), len(beta)
    members = np.repeat(np.arange(num), sizes)
    place = np.arange(len(right)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.bincount(members, right, num).astype(int)
    # The fewer of right and wrong are placed: to place the wrong ones is the same likelihood with every sign turned.
    turned = chosen * 2 > sizes
    signs = np.where(turned, -1.0, 1.0)[members]
    placed = np.where(turned, sizes - chosen, chosen)
    taken = right ^ turned[members]
    most = int(placed.max())
    x = np.zeros((num, int(sizes.max()), width))
    x[members, place] = features * signs[:, None]
    present = np.arange(x.shape[1]) < sizes[:, None]
    log_odds = x @ beta
    f0, f1, f2 = np.zeros((num, most + 1)), np.zeros((num, most + 1, width)), np.zeros((num, most + 1, width, width))
    f0[:, 0] = 1.0
    scale = np.zeros(num)
    within = np.arange(most + 1) <= placed[:, None]
    for turn in range(x.shape[1]):
        here = x[:, turn, None, :]  # (groups, 1, p)
        odds = np.where(present[:, turn], np.exp(log_odds[:, turn]), 0.0)[:, None]
        g0, g1, g2 = f0[:, :-1], f1[:, :-1], f2[:, :-1]
        outer = here[..., :, None] * g1[..., None, :]
        new2 = g2 + outer + outer.swapaxes(-1, -2) + g0[..., None, None] * here[..., :, None] * here[..., None, :]
        new1 = g1 + g0[..., None] * here
        f2[:, 1:] += odds[..., None, None] * new2
        f1[:, 1:] += odds[..., None] * new1
        f0[:, 1:] += odds * g0
        f0[~within], f1[~within], f2[~within] = 0.0, 0.0, 0.0
        largest = f0.max(axis=1)
        scale += np.log(largest)
        f0 /= largest[:, None]
        f1 /= largest[:, None, None]
        f2 /= largest[:, None, None, None]
    rows = np.arange(num)
    total, first, second = f0[rows, placed], f1[rows, placed], f2[rows, placed]
    mean = first / total[:, None]
    spread = second / total[:, None, None] - mean[:, :, None] * mean[:, None, :]
    signed = features * signs[:, None]
    value = (signed @ beta)[taken].sum() - (np.log(total) + scale).sum()
    return float(value), signed[taken].sum(axis=0) - mean.sum(axis=0), spread.sum(axis=0)
