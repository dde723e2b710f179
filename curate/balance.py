"""How alike the arms are: standardised differences and KS distances, before and after matching, and behavior instances by tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.matching_budget import GOOD_DIFFERENCE
from curate.matching_strata import origin

if TYPE_CHECKING:
    import polars as pl

EVIDENCE_SCORE = 0.5  # a span counts as an instance from this score on
# What is matched on by its name among the settings, and the column that the balance table shows for it.
MATCHED_COLUMNS = {
    "source": "origin",
    "length": "log2_chars",
    "topic": "topic",
    "notation": "notation_density",
    "difficulty": "difficulty",
}
CATEGORIES = ("origin", "topic")
HELD_OUT = (
    "license",
    "num_windows",
    "source_problem_score",
    "source_solution_score",
    "question_words",
    "thoughts_words",
    "num_loss_tokens",
)


def standardised_difference(first: np.ndarray, second: np.ndarray) -> float | None:
    """Difference of means over the pooled standard deviation; 0 for equal constants, None where there is nothing to compare."""
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not len(first) or not len(second):
        return None
    spread = float(np.sqrt((first.var() + second.var()) / 2))
    difference = float(first.mean() - second.mean())
    return difference / spread if spread > 0 else (0.0 if difference == 0 else None)


def ks_distance(first: np.ndarray, second: np.ndarray) -> float | None:
    """Largest difference of the two distribution functions, in 0..1 (Kolmogorov and Smirnov); None where one side is empty."""
    from scipy.stats import ks_2samp

    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not len(first) or not len(second):
        return None
    with np.errstate(divide="ignore"):  # of its p-value, which nobody needs
        return float(ks_2samp(first, second, method="asymp").statistic)


def category_differences(first: Sequence[str], second: Sequence[str]) -> tuple[float, float, str]:
    """Of a categorical covariate: the largest standardised difference over its categories (of their 0/1 indicators), the total
    variation distance (in 0..1, in place of KS), and the category that differs most."""
    names, codes = np.unique(np.array([*first, *second]), return_inverse=True)
    shares = [np.bincount(part, minlength=len(names)) / max(len(part), 1) for part in (codes[: len(first)], codes[len(first) :])]
    spread = np.sqrt((shares[0] * (1 - shares[0]) + shares[1] * (1 - shares[1])) / 2)
    gap = shares[0] - shares[1]
    differences = np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0)
    worst = int(np.abs(differences).argmax())
    return float(differences[worst]), float(np.abs(gap).sum() / 2), str(names[worst])


Frames = tuple["pl.DataFrame", "pl.DataFrame"]


def comparable(before: Frames, after: Frames) -> list[Frames]:
    """The frames with the covariates that exist only for comparing: log2 of characters, and where a document is from, by the hosts
    that are common before matching."""
    import polars as pl

    both = pl.concat([frame.select("source", "source_file", "url") for frame in before])
    named = both.with_columns(origin()).unique(["source", "source_file", "url"])

    def completed(frame: "pl.DataFrame") -> "pl.DataFrame":
        joined = frame.join(named, on=["source", "source_file", "url"], how="left", nulls_equal=True, maintain_order="left")
        return joined.with_columns(pl.col("num_chars").log(2).alias("log2_chars"))

    return [(completed(first), completed(second)) for first, second in (before, after)]


def compare(
    before: Frames,
    after: Frames,
    names: tuple[str, str],
    match_on: Sequence[str],
) -> list[dict[str, Any]]:
    """One row a covariate of two arms: means, standardised difference and KS distance, before and after matching.

    `kind` is `matched`, `held out`, or `behavior` for what the arms are meant to differ in. Covariates that no row has are left out.
    """
    before, after = comparable(before, after)
    matched = [MATCHED_COLUMNS[name] for name in match_on]
    scores = [name for name in after[0].columns if name.endswith("_score")]
    behaviors = [name for name in scores if name not in HELD_OUT and not name.endswith(("_problem_score", "_solution_score"))]
    others = [name for name in MATCHED_COLUMNS.values() if name not in matched]
    held_out = [*others, *HELD_OUT, *[name for name in scores if name not in HELD_OUT and name not in behaviors]]
    rows = []
    for kind, columns in (("matched", matched), ("held out", held_out), ("behavior", behaviors)):
        for name in columns:
            if name in after[0].columns and any(frame[name].drop_nulls().len() for frame in before):
                rows.append({"covariate": name, "kind": kind, **_row(name, before, after, names)})
    return rows


def _row(name: str, before: Frames, after: Frames, arms: tuple[str, str]) -> dict[str, Any]:
    import polars as pl

    if after[0].schema[name] == pl.String:
        sides = [[frame[name].fill_null("unknown").to_list() for frame in frames] for frames in (before, after)]
        (first_smd, first_ks, _), (smd, ks, worst) = (category_differences(*side) for side in sides)
        return {"smd_before": first_smd, "smd": smd, "ks_before": first_ks, "ks": ks, "category": worst, **dict.fromkeys(arms)}
    values = [[frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for frame in frames] for frames in (before, after)]
    means = [float(np.nanmean(side)) if not np.isnan(side).all() else None for side in values[1]]
    return {
        "smd_before": standardised_difference(*values[0]),
        "smd": standardised_difference(*values[1]),
        "ks_before": ks_distance(*values[0]),
        "ks": ks_distance(*values[1]),
        "category": None,
        **dict(zip(arms, means, strict=True)),
    }


def beyond(rows: Sequence[Mapping[str, Any]], bound: float = GOOD_DIFFERENCE) -> list[str]:
    """The matched covariates whose standardised difference stays beyond `bound`, with the difference."""
    return [
        f"{row['covariate']} {row['smd']:+.3f}"
        for row in rows
        if row["kind"] == "matched" and row["smd"] is not None and abs(row["smd"]) > bound
    ]


def instances(
    arm: "pl.DataFrame", behaviors: Sequence[str], cues: Mapping[str, Sequence[str]], texts: Sequence[str]
) -> tuple[dict[str, float], str]:
    """Behavior instances for every 1,000 tokens that the loss sees, and what was counted.

    `evidence`: spans that the judge of the rewrites marked with a score of at least one half. Without verified labels `cues`: phrases
    of the behavior in `texts`, which neither find every instance nor only instances.
    """
    import polars as pl

    tokens = max(int(arm["num_loss_tokens"].sum()), 1)
    if "rewrite_evidence" in arm.columns and arm["rewrite_evidence"].drop_nulls().len():
        spans = arm["rewrite_evidence"].drop_nulls().explode().drop_nulls().struct.unnest()
        found = spans.filter(pl.col("score") >= EVIDENCE_SCORE) if spans.height else spans
        counts = dict(found["behavior"].value_counts().iter_rows()) if found.height else {}
        return {name: 1000 * counts.get(name, 0) / tokens for name in behaviors}, "evidence"
    lowered = [text.lower() for text in texts]
    return {name: 1000 * sum(text.count(cue) for text in lowered for cue in cues.get(name, ())) / tokens for name in behaviors}, "cues"
