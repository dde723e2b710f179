"""What a student is worth, on documents that it has not seen: F1, average precision, calibration, thresholds for a stated precision."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from curate.student.distillation import Array, Windows, distill, f1_curve, folds_by_group
from curate.student.model import QUESTIONS, Student, logit, sigmoid, window_features

TARGET_PRECISION, TARGET_RECALL = 0.90, 0.40
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BELOW = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)  # for the cascade
ROUNDS = 500
SOURCE_WINDOWS = 100
Rate = Callable[[Array, Array, Array], float]
Scores = tuple[Array, Array]  # calibrated probabilities and scores, both (windows, targets)


def cross_validated(windows: Windows, what: str, folds: int, seed: int) -> Scores:
    """Scores of every window by a student, distilled anew, that saw no window of its document, or of its source (`what`).

    Inside, the second look is cross-fitted in fewer parts than that of the final student, which costs time and not much else.
    """
    fold = folds_by_group(windows.group, folds, seed + 1) if what == "document" else folds_by_source(windows)
    inner = 3 if what == "document" else 2
    count = len(windows.behaviors) + len(QUESTIONS)
    probability, score = np.full((len(windows), count), np.nan), np.full((len(windows), count), np.nan)
    numbers = np.unique(fold)
    started = time.monotonic()
    for step, number in enumerate(numbers, start=1):
        held = np.flatnonzero(fold == number)
        student = distill(windows.take(np.flatnonzero(fold != number)), inner, seed, {})
        probability[held] = predict(student, windows.take(held))
        score[held] = sigmoid(logit(probability[held]) + student.weights["shift"])
        print(f"cross-validating by {what}: {step} of {len(numbers)}, {time.monotonic() - started:.0f} s", flush=True)
    return probability, score


def predict(student: Student, windows: Windows) -> Array:
    """Calibrated probabilities, (windows, targets)."""
    sentences, whole = student.first_look(windows.sentences)
    raw = student.second_look(window_features(windows.sentences, sentences, whole, windows.length.tolist()))
    return sigmoid(raw * student.weights["platt"][0] + student.weights["platt"][1])


def figures(windows: Windows, scores: Sequence[Scores], seed: int) -> dict[str, Any]:
    """Everything that the card shows, one entry a target; `scores` by document and, when there are any, with the source left out."""
    by_document, by_source = scores[0], scores[-1] if len(scores) > 1 else None
    targets = (*windows.behaviors, *QUESTIONS)
    out: dict[str, Any] = {}
    for column, name in enumerate(targets):
        known = np.flatnonzero(~np.isnan(windows.labels[:, column]))
        truth = windows.labels[known, column] >= 0.5
        weight, group, source = windows.weight[known], windows.group[known], windows.source[known]
        probability, score = by_document[0][known, column], by_document[1][known, column]
        out[name] = {
            "windows": len(known),
            "showing": int(truth.sum()),
            "by_document": summary(truth, score, probability, weight, group, seed),
            "by_source": by_source and summary(truth, by_source[1][known, column], by_source[0][known, column], weight, group, seed),
            "calibration": reliability(truth, probability, weight),
            "thresholds": [at_threshold(truth, score, weight, group, cut, seed) for cut in THRESHOLDS],
            "selecting": selecting(truth, score, weight, group, seed),
            "sources": [
                {
                    "source": str(one),
                    "windows": int((source == one).sum()),
                    "showing": int(truth[source == one].sum()),
                    "f1": f1(truth[source == one], score[source == one] >= 0.5),
                    "f1_left_out": by_source and f1(truth[source == one], by_source[1][known, column][source == one] >= 0.5),
                }
                for one in np.unique(source)
            ],
        }
    count = len(windows.behaviors)
    behavior = np.nanmax(by_document[1][:, :count], axis=1)
    shows = np.nan_to_num(windows.labels[:, :count]) >= 0.5
    out["cascade"] = [
        {
            "below": cut,
            "asked": weighted_mean(behavior >= cut, windows.weight),
            "reached": {
                name: weighted_mean((behavior >= cut)[shows[:, column]], windows.weight[shows[:, column]])
                for column, name in enumerate(windows.behaviors)
            },
        }
        for cut in BELOW
    ]
    return out


def summary(truth: Array, score: Array, probability: Array, weight: Array, group: Array, seed: int) -> dict[str, Any]:
    """F1 at 0.5 as labelled and at the natural prevalence, both with intervals over documents, and average precision."""
    from sklearn.metrics import average_precision_score

    ones = np.ones(len(truth))
    result: dict[str, Any] = {}
    for label, given in (("labelled", ones), ("natural", weight)):
        low, high = interval(f1, truth, score >= 0.5, given, group, seed)
        result[f"f1_{label}"] = {"value": f1(truth, score >= 0.5, given), "low": low, "high": high}
        result[f"average_precision_{label}"] = float(average_precision_score(truth, score, sample_weight=given))
    result["brier"] = weighted_mean((probability - truth) ** 2, weight)
    return result


def f1(truth: Array, flagged: Array, weight: Array | None = None) -> float:
    """F1, weighted; 0 where nothing is flagged and nothing shows."""
    given = np.ones(len(truth)) if weight is None else weight
    return float(f1_curve(flagged[:, None], truth, given)[0])


def at_threshold(truth: Array, score: Array, weight: Array, group: Array, cut: float, seed: int) -> dict[str, Any]:
    """Precision and recall at the natural prevalence from `cut` on, with 95 % intervals over documents."""
    flagged = score >= cut
    entry: dict[str, Any] = {"threshold": cut, "flagged": int(flagged.sum())}
    for name, rate in (("precision", precision), ("recall", recall)):
        low, high = interval(rate, truth, flagged, weight, group, seed)
        entry[name] = {"value": rate(truth, flagged, weight), "low": low, "high": high}
    return entry


def precision(truth: Array, flagged: Array, weight: Array) -> float:
    total = float(weight[flagged].sum())
    return float(weight[flagged & truth].sum()) / total if total else math.nan


def recall(truth: Array, flagged: Array, weight: Array) -> float:
    return float(weight[flagged & truth].sum()) / max(float(weight[truth].sum()), 1e-12)


def selecting(truth: Array, score: Array, weight: Array, group: Array, seed: int) -> dict[str, Any]:
    """The threshold with the most recall at the wanted precision, and how many labels would tell whether it holds.

    The threshold was chosen on these windows, so its precision is somewhat flattered. The number of labels is that of flagged windows
    drawn at random which bring the half-width of a 95 % interval of .90 to .03 (binomial).
    """
    best: dict[str, Any] | None = None
    for cut in np.unique(np.round(score, 3)):
        flagged = score >= cut
        if flagged.sum() >= 10 and precision(truth, flagged, weight) >= TARGET_PRECISION:
            best = at_threshold(truth, score, weight, group, float(cut), seed)
            break  # ascending: the first has the most recall
    needed = math.ceil(1.96**2 * TARGET_PRECISION * (1 - TARGET_PRECISION) / 0.03**2)
    most = at_threshold(truth, score, weight, group, cut_for_recall(truth, score, weight), seed)
    return {"at_precision": best, "at_recall": most, "labels_for_3_points": needed}


def cut_for_recall(truth: Array, score: Array, weight: Array) -> float:
    """The highest score from which the wanted recall is reached."""
    order = np.argsort(-score)
    reached = np.cumsum((weight * truth)[order]) / max(float((weight * truth).sum()), 1e-12)
    return float(score[order][min(int(np.searchsorted(reached, TARGET_RECALL)), len(order) - 1)])


def reliability(truth: Array, probability: Array, weight: Array, bins: int = 10) -> dict[str, Any]:
    """Mean probability and share that shows it, in bins of probability, at the natural prevalence; `ece` is the mean distance."""
    number = np.minimum((probability * bins).astype(int), bins - 1)
    rows = []
    for one in range(bins):
        inside = number == one
        if weight[inside].sum() > 0:
            said, shown = weighted_mean(probability[inside], weight[inside]), weighted_mean(truth[inside], weight[inside])
            rows.append(
                {"from": one / bins, "windows": int(inside.sum()), "weight": float(weight[inside].sum()), "said": said, "shown": shown}
            )
    total = sum(row["weight"] for row in rows) or 1.0
    return {"bins": rows, "ece": sum(row["weight"] * abs(row["said"] - row["shown"]) for row in rows) / total}


def weighted_mean(values: Array, weight: Array) -> float:
    return float((values * weight).sum() / max(float(weight.sum()), 1e-12))


def interval(statistic: Rate, truth: Array, flagged: Array, weight: Array, group: Array, seed: int) -> tuple[float, float]:
    """95 % percentile interval of `statistic` over documents drawn with replacement."""
    _, document = np.unique(group, return_inverse=True)
    count = int(document.max()) + 1
    generator = np.random.default_rng(seed)
    drawn = [np.bincount(generator.integers(count, size=count), minlength=count)[document] for _ in range(ROUNDS)]
    draws = [statistic(truth, flagged, weight * times) for times in drawn]
    found = np.array([value for value in draws if not math.isnan(value)])
    return (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))) if len(found) else (math.nan, math.nan)


def folds_by_source(windows: Windows) -> Array:
    """A fold for each source with at least SOURCE_WINDOWS windows, and one for all the others."""
    _, number, counts = np.unique(windows.source, return_inverse=True, return_counts=True)
    return np.where(counts[number] >= SOURCE_WINDOWS, number, -1)


def mean_f1(found: dict[str, Any], behaviors: Sequence[str], scheme: str, kind: str) -> float:
    return float(np.mean([found[name][scheme][f"f1_{kind}"]["value"] for name in behaviors]))
