"""How well labels agree: kappa of two judges; average precision and area under the ROC curve of scores, ties handled exactly."""

from collections.abc import Sequence

import numpy as np


def average_precision(scores: Sequence[float], truth: Sequence[bool]) -> float | None:
    """Mean precision over the positives, documents of equal score taken in together; None without a positive.

    Scores that say nothing give the share of positives. Same definition as `sklearn.metrics.average_precision_score`.
    """
    found, taken = _cumulative(scores, truth)
    if not len(found) or found[-1] == 0:
        return None
    gained = np.diff(found, prepend=0) / found[-1]
    return float((gained * found / taken).sum())


def roc_auc(scores: Sequence[float], truth: Sequence[bool]) -> float | None:
    """Probability that a random positive scores higher than a random negative, a tie counted half; None without both kinds."""
    found, taken = _cumulative(scores, truth)
    if not len(found) or found[-1] == 0 or found[-1] == taken[-1]:
        return None
    true_rate = np.concatenate([[0.0], found / found[-1]])
    false_rate = np.concatenate([[0.0], (taken - found) / (taken[-1] - found[-1])])
    return float(((true_rate[1:] + true_rate[:-1]) / 2 * np.diff(false_rate)).sum())


def _cumulative(scores: Sequence[float], truth: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Positives and documents at or above each distinct score, best first: two arrays, shape (number of distinct scores,)."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    sorted_scores = np.asarray(scores, dtype=np.float64)[order]
    last_of_tie = np.append(np.diff(sorted_scores) != 0, True)[: len(order)]
    found = np.cumsum(np.asarray(truth, dtype=np.int64)[order])[last_of_tie]
    taken = np.arange(1, len(order) + 1)[last_of_tie]
    return found, taken


def kappa(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> float | None:
    """Cohen's kappa of two judges; None where it is undefined: no item, or both give one and the same answer throughout."""
    one, other = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if not len(one):
        return None
    by_chance = one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean())
    return float(((one == other).mean() - by_chance) / (1 - by_chance)) if by_chance < 1 else None
