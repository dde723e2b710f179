"""`curate frequencies`: how often each behavior occurs in a corpus, with intervals, corrected by gold labels where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.classification import ClassifySettings
from curate.estimation import Errors, Estimate, judge_errors, prediction_powered, rogan_gladen
from curate.gold import IDENTITY, is_weighted
from curate.records.errors import UserError
from curate.records.settings import option
from curate.verification import wilson

if TYPE_CHECKING:
    import polars as pl

ESTIMATES = ("naive", "mean", "ppi", "rogan-gladen")
GOLD_FROM = ("auto", "corpus", "elsewhere")
FEW_POSITIVES = 5  # fewer gold positives than this leave an interval rough
LENGTH_RATIO = 2.0  # gold passages this many times shorter or longer than the documents are of another kind


@dataclass(frozen=True)
class FrequenciesSettings(ClassifySettings):
    """Which labels are counted: those of a finished `curate classify` (--labels), or those that this command makes first."""

    labels: Path | None = option(
        None, "Output folder of `curate classify`; without it this command labels --dataset first, into OUT/labels.", hashed=False
    )
    gold: Path | None = option(
        None,
        "What people said: the folder of `curate audit`, or a Parquet/JSONL file with a column a behavior. Corrects the judge's errors.",
    )
    gold_from: str = option(
        "auto", "Whether the gold passages were drawn from this corpus (prediction-powered) or elsewhere (Rogan-Gladen).", choices=GOLD_FROM
    )
    gold_labels: Path | None = option(
        None, "The same judge's labels of gold passages from elsewhere (default: made into OUT/gold-labels when this command labels)."
    )
    threshold: float = option(0.5, "A behavior counts as shown from this probability.")


def frequencies(
    labels: "pl.DataFrame", behaviors: Sequence[str], threshold: float, shift: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """One row a behavior and estimate: `naive`, the share of documents at or above the threshold (Wilson's 95 % interval), and `mean`
    probability (normal 95 % interval), over rows without an error. Both are the judge's view: no gold label has corrected them.

    `shift` is what a student adds to the log-odds of its probabilities for its scores; for `mean` it is taken back.
    """
    rows = []
    for name in behaviors:
        good = labels.filter(labels["error"].is_null() & labels[f"{name}_score"].is_not_null())
        scores = good[f"{name}_score"].cast(float)
        count = scores.len()
        shown = int((scores >= threshold).sum())
        low, high = wilson(shown, count)
        about = _row(name, count, threshold)
        rows.append({**about, "estimate": "naive", "value": shown / count if count else None, "low": low, "high": high})
        values = unshifted(scores.to_numpy(), added(good, (shift or {}).get(name, 0.0)))
        mean = float(values.mean()) if count else 0.0
        half = 1.959964 * float(values.std(ddof=1)) / count**0.5 if count > 1 else 1.0
        rows.append(
            {**about, "estimate": "mean", "value": mean if count else None, "low": max(mean - half, 0.0), "high": min(mean + half, 1.0)}
        )
    return rows


def added(labels: "pl.DataFrame", shift: float) -> np.ndarray:
    """What was added to the log-odds of each row's probability for its score, shape (n,): `shift` where the student labelled, 0 where a
    language model did (in a cascade)."""
    if "cascade" not in labels.columns:
        return np.full(labels.height, shift)
    return np.where((labels["cascade"].struct.field("judge") == "student").to_numpy(), shift, 0.0)


def unshifted(scores: np.ndarray, shift: np.ndarray | float) -> np.ndarray:
    """A student's probabilities from its scores: sigmoid(logit(score) - shift), a number or one a score (0 leaves it as it is)."""
    with np.errstate(divide="ignore"):
        return np.where(shift == 0, scores, 1 / (1 + np.exp(shift - np.log(scores) + np.log1p(-scores))))


def match_gold(gold: "pl.DataFrame", labels: "pl.DataFrame", behaviors: Sequence[str], also: Sequence[str] = ()) -> "pl.DataFrame":
    """Gold rows whose passage stands among `labels` without an error, with the judge's `<behavior>_score` and the columns `also`: found
    by the row's identity where the gold has one, else by the text. A text that stands in the corpus twice counts once."""
    import polars as pl

    scores = [f"{name}_score" for name in behaviors]
    judged = labels.filter(pl.col("error").is_null()).with_columns(pl.col(name).cast(pl.Float64) for name in scores)
    by_row = gold.filter(pl.col("source_row").is_not_null()).join(
        judged.select(*IDENTITY, *scores, "num_chars", *also), on=list(IDENTITY), how="inner", suffix="_document"
    )
    by_text = gold.filter(pl.col("source_row").is_null() & pl.col("text_sha256").is_not_null()).join(
        judged.unique("text_sha256", keep="first", maintain_order=True).select("text_sha256", *scores, "num_chars", *also),
        on="text_sha256",
        how="inner",
        suffix="_document",
    )
    return pl.concat([by_row, by_text], how="diagonal")


def origin(gold: "pl.DataFrame", matched: "pl.DataFrame", chosen: str) -> str:
    """`corpus` or `elsewhere`, from --gold-from and from how many gold passages stand among the labels.

    Raises UserError when some do and some do not: whether they are a sample of this corpus is then for the user to say.
    """
    if chosen == "corpus" and matched.height == 0:
        raise UserError("none of the gold passages stands among the labels: they are not of this corpus; --gold-from elsewhere")
    if chosen != "auto":
        return chosen
    if 0 < matched.height < gold.height:
        raise UserError(
            f"{matched.height} of {gold.height} gold passages stand among the labels: say whether they were drawn from this corpus "
            "(--gold-from corpus: the others are left out) or elsewhere"
        )
    return "corpus" if matched.height else "elsewhere"


def corrected_by_corpus(
    labels: "pl.DataFrame", matched: "pl.DataFrame", behaviors: Sequence[str], threshold: float
) -> list[dict[str, Any]]:
    """A row `ppi` a behavior: prediction-powered by gold labels that were drawn from the corpus."""
    rows = []
    for name in behaviors:
        known = matched.filter(matched[name].is_not_null() & matched[f"{name}_score"].is_not_null())
        pool = labels.filter(labels["error"].is_null())[f"{name}_score"].cast(float).drop_nulls().to_numpy()
        about = _row(name, len(pool), threshold)
        if known.height < 2:
            rows.append({**about, **_unknown("ppi", known.height)})
            continue
        truth, predicted = known[name].to_numpy(), known[f"{name}_score"].to_numpy()
        weights = known["weight"].to_numpy()
        design = (weights, known["stratum"].to_numpy()) if is_weighted(known) else (None, None)
        estimate = prediction_powered(truth, predicted, pool, *design)
        errors = judge_errors(truth, predicted >= threshold, weights)
        rows.append({**about, **_filled("ppi", estimate, known.height, float(truth.sum()), errors)})
    return rows


def corrected_from_elsewhere(
    labels: "pl.DataFrame", judged_gold: "pl.DataFrame", behaviors: Sequence[str], threshold: float
) -> list[dict[str, Any]]:
    """A row `rogan-gladen` a behavior: the flagged share, corrected with the judge's sensitivity and specificity on other passages."""
    rows = []
    for name in behaviors:
        known = judged_gold.filter(judged_gold[name].is_not_null() & judged_gold[f"{name}_score"].is_not_null())
        scores = labels.filter(labels["error"].is_null())[f"{name}_score"].cast(float).drop_nulls().to_numpy()
        about = _row(name, len(scores), threshold)
        truth = known[name].to_numpy()
        errors = judge_errors(truth, known[f"{name}_score"].to_numpy() >= threshold, known["weight"].to_numpy())
        estimate = None
        if errors is not None and len(scores):
            estimate = rogan_gladen(float(np.mean(scores >= threshold)), len(scores), errors)
        if estimate is None:
            rows.append({**about, **_unknown("rogan-gladen", known.height, errors)})
        else:
            rows.append({**about, **_filled("rogan-gladen", estimate, known.height, float(truth.sum()), errors)})
    return rows


def warnings(gold: "pl.DataFrame", labels: "pl.DataFrame", kind: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader must know about a correction."""
    lines = []
    if kind == "corpus" and not is_weighted(gold):
        lines.append("the gold labels have no weights: they are taken for a uniform draw from the labelled documents")
    lengths = [float(frame["num_chars"].drop_nulls().cast(float).median() or 0.0) for frame in (gold, labels)]  # type: ignore[arg-type]
    if min(lengths) > 0 and max(lengths) / min(lengths) > LENGTH_RATIO:
        lines.append(
            f"the median gold passage has {lengths[0]:.0f} characters, the median document {lengths[1]:.0f}: "
            "the judge's errors on the one are applied to the other"
        )
    for row in rows:
        if row["value"] is None and row["corrected"]:
            lines.append(f"{row['behavior']}: {row['note']}")
        elif row["corrected"] and row["gold_positive"] < FEW_POSITIVES:
            lines.append(f"{row['behavior']}: only {row['gold_positive']:g} gold positives: its interval is rough")
    return lines


def _row(behavior: str, documents: int, threshold: float) -> dict[str, Any]:
    empty = dict.fromkeys(("gold_positive", "sensitivity", "specificity", "effective", "note"))
    return {"behavior": behavior, "documents": documents, "threshold": threshold, "corrected": False, "gold": 0, **empty}


def _filled(name: str, estimate: Estimate, gold: int, positive: float, errors: Errors | None) -> dict[str, Any]:
    return {
        "estimate": name,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "corrected": True,
        "gold": gold,
        "gold_positive": positive,
        "effective": estimate.effective,
        "sensitivity": errors.sensitivity if errors else None,
        "specificity": errors.specificity if errors else None,
    }


def _unknown(name: str, gold: int, errors: Errors | None = None) -> dict[str, Any]:
    if errors is None:
        reason = f"{gold} gold labels of both kinds are too few to correct it"
    else:
        flagged = f"it flags {errors.sensitivity:.2f} of the positives and {1 - errors.specificity:.2f} of the negatives"
        reason = f"on the gold labels the judge is no better than a coin ({flagged})"
    return {"estimate": name, "value": None, "low": 0.0, "high": 1.0, "corrected": True, "gold": gold, "gold_positive": 0.0, "note": reason}
