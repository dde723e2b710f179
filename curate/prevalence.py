"""`curate frequencies`: how often each behavior occurs in the labelled documents, with intervals."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.records.settings import option
from curate.verification import wilson

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class FrequenciesSettings:
    """Which labels are counted, and from which probability on a behavior counts as shown."""

    labels: Path | None = option(None, "Output folder of `curate classify`.", hashed=False)
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    threshold: float = option(0.5, "A behavior counts as shown from this probability.")


def frequencies(labels: "pl.DataFrame", behaviors: list[str], threshold: float) -> list[dict[str, Any]]:
    """One row a behavior and estimate: `share` of documents at or above the threshold (Wilson's 95 % interval), and `mean` probability
    (normal 95 % interval), over rows without an error. Both are the judge's view: no gold label has corrected them."""
    rows = []
    for name in behaviors:
        scores = labels.filter(labels["error"].is_null())[f"{name}_score"].cast(float).drop_nulls()
        count = scores.len()
        shown = int((scores >= threshold).sum())
        low, high = wilson(shown, count)
        about = {"behavior": name, "documents": count, "threshold": threshold, "corrected": False}
        rows.append({**about, "estimate": "share", "value": shown / count if count else None, "low": low, "high": high})
        mean = float(scores.mean() or 0.0)  # type: ignore[arg-type]
        half = 1.959964 * float(scores.std() or 0.0) / count**0.5 if count > 1 else 1.0  # type: ignore[arg-type]
        rows.append(
            {**about, "estimate": "mean", "value": mean if count else None, "low": max(mean - half, 0.0), "high": min(mean + half, 1.0)}
        )
    return rows
