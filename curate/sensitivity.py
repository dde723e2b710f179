"""`curate sensitivity`: how labels and prevalence move when the same question is asked in other words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.agreement import kappa
from curate.behaviors import Behavior
from curate.classification import ClassifySettings
from curate.prompts import wording_name
from curate.records.errors import UserError
from curate.records.settings import option
from curate.verification import wilson

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class SensitivitySettings(ClassifySettings):
    """Which documents are labelled with every wording, and from which probability on a behavior counts as shown."""

    threshold: float = option(0.5, "A behavior counts as shown from this probability.")


def check(settings: SensitivitySettings, behaviors: Sequence[Behavior]) -> None:
    """Raise UserError where there is nothing to compare."""
    if settings.preset is not None or settings.mode != "score":
        raise UserError("sensitivity asks the questions of mode score: leave --mode and --preset out")
    bare = [item.name for item in behaviors if not item.paraphrases]
    if bare:
        raise UserError(f"{', '.join(bare)}: no other wording of the question; add paraphrases = ['…', '…', '…'] to the [[behavior]] block")


def wording_rows(labels: "pl.DataFrame", behaviors: Sequence[Behavior], threshold: float) -> list[dict[str, Any]]:
    """One row a behavior and wording, over the documents without an error.

    `share` of documents at or above the threshold with Wilson's 95 % interval, `mean` probability, and against the behavior's own
    question (wording 0): `kappa` (None where undefined), `flipped`, the share of documents that get the other label, and `spearman`, the
    rank correlation of the probabilities, on which no threshold bears (None where one of them is constant).
    """
    good = labels.filter(labels["error"].is_null())
    rows = []
    for behavior in behaviors:
        shown, scores = said(good, behavior, threshold), probabilities(good, behavior)
        for number, text in enumerate(behavior.wordings):
            low, high = wilson(int(shown[number].sum()), good.height)
            rows.append(
                {
                    "behavior": behavior.name,
                    "wording": number,
                    "text": text,
                    "documents": good.height,
                    "threshold": threshold,
                    "share": float(shown[number].mean()) if good.height else None,
                    "low": low,
                    "high": high,
                    "mean": float(scores[number].mean()) if good.height else None,
                    "highest": float(scores[number].max()) if good.height else None,
                    "kappa": kappa(shown[0], shown[number]) if number else None,
                    "flipped": float((shown[0] != shown[number]).mean()) if good.height else None,
                    "spearman": rank_correlation(scores[0], scores[number]) if number else None,
                }
            )
    return rows


def spread(labels: "pl.DataFrame", behavior: Behavior, threshold: float) -> dict[str, Any]:
    """How far the wordings of one behavior lie apart: `lowest` and `highest` share, mean and least `kappa` over pairs of wordings, and
    `disputed`, the share of documents that not all wordings label alike."""
    good = labels.filter(labels["error"].is_null())
    shown = said(good, behavior, threshold)
    shares = shown.mean(axis=1) if good.height else np.zeros(len(shown))
    kappas = [value for first, second in combinations(shown, 2) if (value := kappa(first, second)) is not None]
    return {
        "behavior": behavior.name,
        "wordings": len(shown),
        "lowest": float(shares.min()),
        "highest": float(shares.max()),
        "mean_kappa": float(np.mean(kappas)) if kappas else None,
        "least_kappa": min(kappas, default=None),
        "disputed": float((shown.any(axis=0) != shown.all(axis=0)).mean()) if good.height else None,
    }


def said(labels: "pl.DataFrame", behavior: Behavior, threshold: float) -> np.ndarray:
    """Whether each wording labels each document, shape (wordings, documents)."""
    return probabilities(labels, behavior) >= threshold


def probabilities(labels: "pl.DataFrame", behavior: Behavior) -> np.ndarray:
    """What each wording gives each document, shape (wordings, documents)."""
    columns = [f"{wording_name(behavior.name, number)}_score" for number in range(len(behavior.wordings))]
    return np.array([labels[column].cast(float).to_numpy() for column in columns]).reshape(len(columns), labels.height)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's, or None where one of them is constant."""
    from scipy.stats import spearmanr

    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
