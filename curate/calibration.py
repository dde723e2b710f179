"""`curate calibrate`: probabilities at the level of documents, fitted to gold labels of documents.

A document's raw score is that of its best window, which grows with the number of windows and is only as calibrated as the judge. Platt
scaling (a logistic regression) on the log-odds of the best window and the logarithm of the number of windows mends both at once
(compared with other rules in docs/LOG.md, by `bench/aggregation.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.records.settings import option

if TYPE_CHECKING:
    import polars as pl

LEAST_OF_EACH = 5  # gold documents that show the behavior, and that do not
FOLDS = 5
ALMOST = 1e-4  # scores are kept this far from 0 and 1 before their log-odds are taken


@dataclass(frozen=True)
class CalibrateSettings:
    """Which labels are fitted to which gold labels."""

    labels: Path | None = option(None, "Output folder of `curate classify`.", hashed=False)
    gold: Path | None = option(None, "Gold labels of documents: the folder of `curate audit`, or a Parquet/JSONL file.", hashed=False)
    out: Path | None = option(None, "Folder to write the calibrated labels to.", hashed=False)
    seed: int = option(0, "Seed of the folds that the fit is judged on.", at_least=0)


@dataclass(frozen=True)
class Curve:
    """probability = sigmoid(intercept + slope · log-odds of the best window + per_log_windows · ln(number of windows))."""

    intercept: float
    slope: float
    per_log_windows: float

    def __call__(self, best: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Probabilities of documents from their best window's score and number of windows, both of shape (documents,)."""
        z = features(best, windows) @ np.array([self.slope, self.per_log_windows]) + self.intercept
        return 1 / (1 + np.exp(-z))


def features(best: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """What the curve sees, shape (documents, 2)."""
    kept = np.clip(best, ALMOST, 1 - ALMOST)
    return np.column_stack([np.log(kept / (1 - kept)), np.log(np.maximum(windows, 1))])


def fit(best: np.ndarray, windows: np.ndarray, shown: np.ndarray, weight: np.ndarray) -> Curve:
    """Platt's curve for documents whose truth is known; all arrays have shape (documents,)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=100.0, max_iter=1000).fit(features(best, windows), shown, sample_weight=weight / weight.mean())
    return Curve(float(model.intercept_[0]), *(float(value) for value in model.coef_[0]))


def judged(best: np.ndarray, windows: np.ndarray, shown: np.ndarray, weight: np.ndarray, seed: int) -> np.ndarray:
    """Probability of each gold document from a curve that has not seen it, shape (documents,)."""
    from sklearn.model_selection import StratifiedKFold

    held_out = np.zeros(len(best))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(best, shown):
        held_out[test] = fit(best[train], windows[train], shown[train], weight[train])(best[test], windows[test])
    return held_out


def log_loss(probability: np.ndarray, shown: np.ndarray, weight: np.ndarray) -> float:
    """Weighted mean of -log of the probability of the truth."""
    kept = np.clip(probability, ALMOST, 1 - ALMOST)
    return float(np.average(-np.where(shown, np.log(kept), np.log(1 - kept)), weights=weight))


def calibrate_behavior(name: str, gold: "pl.DataFrame", seed: int) -> tuple[Curve | None, dict[str, Any]]:
    """The curve of one behavior (None with too little gold) and what it gains.

    `gold` has one row a gold document: `<name>` (share of annotators who saw it), `best`, `num_windows`, `<name>_score`, `weight`.
    """
    known = gold.filter(gold[name].is_not_null() & gold["best"].is_not_null())
    shown = (known[name] > 0.5).to_numpy()
    about: dict[str, Any] = {"behavior": name, "gold": len(shown), "positive": int(shown.sum())}
    if min(shown.sum(), (~shown).sum()) < LEAST_OF_EACH:
        return None, about
    best, windows, weight = (known[column].cast(float).to_numpy() for column in ("best", "num_windows", "weight"))
    held_out = judged(best, windows, shown, weight, seed)
    before = known[f"{name}_score"].cast(float).to_numpy()
    curve = fit(best, windows, shown, weight)
    return curve, about | {
        "true": float(np.average(shown, weights=weight)),
        "said_before": float(np.average(before, weights=weight)),
        "said": float(np.average(held_out, weights=weight)),
        "log_loss_before": log_loss(before, shown, weight),
        "log_loss": log_loss(held_out, shown, weight),
        "intercept": curve.intercept,
        "slope": curve.slope,
        "per_log_windows": curve.per_log_windows,
    }


def best_windows(labels: "pl.DataFrame", name: str) -> "pl.Series":
    """The score of each document's best window: the highest in its evidence, which always holds the best one."""
    import polars as pl

    scores = [
        None if row is None else max((item["score"] for item in row if item["behavior"] == name), default=None)
        for row in labels["evidence"].to_list()
    ]
    return pl.Series("best", scores, pl.Float64).fill_null(labels[f"{name}_score"].cast(pl.Float64))


def calibrated(labels: "pl.DataFrame", curves: dict[str, Curve]) -> "pl.DataFrame":
    """The labels with the scores of the behaviors that have a curve replaced; rows with an error stay as they are."""
    import polars as pl

    windows = labels["num_windows"].fill_null(1).cast(pl.Float64).to_numpy()
    columns = []
    for name, curve in curves.items():
        old = labels[f"{name}_score"]
        best = best_windows(labels, name).fill_null(math.nan).to_numpy()
        columns.append(pl.Series(f"{name}_score", curve(best, windows), pl.Float32).set(old.is_null(), None))
    return labels.with_columns(columns)


def warnings(abouts: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader of calibrated labels must know."""
    lines = []
    for about in abouts:
        name, few = about["behavior"], f"{about['positive']} of {about['gold']} gold documents show it"
        if "slope" not in about:
            lines.append(f"{name} is not calibrated: {few}, and {LEAST_OF_EACH} with and without it are needed")
        elif about["slope"] <= 0:
            lines.append(f"{name}: the judge's scores do not rank the gold documents (slope {about['slope']:.2f}); its labels say little")
        elif about["log_loss"] > about["log_loss_before"]:
            lines.append(f"{name}: the curve does not help on gold documents it has not seen; with more gold it may ({few})")
    return lines
