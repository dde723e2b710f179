"""`curate select`: which documents enter the arms. Reads the labels alone, lazily."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curate.matching_strata import MatchingSettings
from curate.records.errors import UserError
from curate.records.settings import did_you_mean, option

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class SelectSettings(MatchingSettings):
    """Which behaviors make a document selected, how sure the labels must be, and what else it needs."""

    labels: Path | None = option(None, "Output folder of `curate classify`.", hashed=False)
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    habits: tuple[str, ...] = option(("any",), "Behaviors that make a document selected: any, or names of behaviors.")
    present: str = option(
        "0.5", "A behavior counts as shown from this probability; `top:0.2`: in the fifth of the documents that score highest on it."
    )
    absent: str = option("0.2", "A document is free when every behavior lies below this; `bottom:0.5`: in the lower half on each of them.")
    problem: str = option("0.5", "Least probability that the document states a problem, or top:SHARE.")
    solution: str = option("0.5", "Least probability that the document contains a solution, or top:SHARE.")
    limit: int | None = option(None, "Keep at most N selected and N free documents, drawn at random.", at_least=1)
    topics: Path | None = option(None, "Output folder of `curate topics`: adds topic and difficulty.", hashed=False)
    matched: bool = option(False, "Keep only selected and free documents that match one to one: what is not is then not rewritten.")
    seed: int = option(0, "Seed of that draw.", at_least=0)


def thresholds(cut: str, word: str, labels: "pl.DataFrame", behaviors: Sequence[str]) -> dict[str, float]:
    """The score that `cut` means for each behavior: a probability, or with `word:share` a quantile of the documents' scores.

    `word` is top or bottom. Raises UserError for anything else.
    """
    head, colon, number = cut.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if (colon and head != word) or not 0 <= value <= 1:
        raise UserError(f"{cut!r} is neither a probability nor `{word}:` with a share, such as {word}:0.2")
    if not colon:
        return dict.fromkeys(behaviors, value)
    share = 1 - value if word == "top" else value
    return {name: float(labels[f"{name}_score"].quantile(share, "higher") or 0.0) for name in behaviors}


def choose_habits(habits: Sequence[str], behaviors: Sequence[str]) -> list[str]:
    """The behaviors that `--habits` names. Raises UserError for one that the labels do not have."""
    if list(habits) == ["any"]:
        return list(behaviors)
    unknown = [name for name in habits if name not in behaviors]
    if unknown:
        raise UserError(
            f"the labels have no behavior {unknown[0]!r}{did_you_mean(unknown[0], behaviors)}; they have {', '.join(behaviors)}"
        )
    return list(habits)


def keep(frame: "pl.DataFrame", condition: "pl.Expr", reason: str, dropped: dict[str, int]) -> "pl.DataFrame":
    """Rows that meet `condition`; the others are counted in `dropped` under `reason`."""
    kept = frame.filter(condition)
    if kept.height < frame.height:
        dropped[reason] = dropped.get(reason, 0) + frame.height - kept.height
    return kept


@dataclass(frozen=True)
class Assignment:
    """Label rows with the columns `cell` (selected or free) and `carries`, rows left out by reason, the thresholds that were used, and
    the behaviors that make a document selected."""

    frame: "pl.DataFrame"
    dropped: dict[str, int]
    present: dict[str, float]
    absent: dict[str, float]
    habits: list[str]


def assign_cells(labels: "pl.DataFrame", behaviors: Sequence[str], settings: SelectSettings) -> Assignment:
    """Assign documents to cells.

    A document is `selected` when a chosen behavior reaches its `present` threshold, `free` when every behavior (chosen or not) is
    below its `absent` threshold; what lies between is left out. Rows with an error, without a problem or without a solution are left
    out first; quantiles are taken of the rows that remain.
    """
    import polars as pl

    chosen = choose_habits(settings.habits, behaviors)
    dropped: dict[str, int] = {}

    frame = keep(labels, pl.col("error").is_null(), "label error", dropped)
    for name, cut in (("problem", settings.problem), ("solution", settings.solution)):
        least = thresholds(cut, "top", frame, [name])[name]
        frame = keep(frame, pl.col(f"{name}_score") >= least, f"no {name}", dropped)
    frame = frame.sort("file_sha256", "source_row")
    present = thresholds(settings.present, "top", frame, behaviors)
    absent = thresholds(settings.absent, "bottom", frame, behaviors)
    shown = pl.any_horizontal(*[pl.col(f"{name}_score") >= present[name] for name in chosen])
    free = pl.all_horizontal(*[pl.col(f"{name}_score") < absent[name] for name in behaviors])
    cell = pl.when(shown).then(pl.lit("selected")).when(free).then(pl.lit("free"))
    frame = keep(frame.with_columns(cell.alias("cell")), pl.col("cell").is_not_null(), "between the arms", dropped)
    if settings.limit is not None:
        order = pl.int_range(pl.len()).shuffle(seed=settings.seed).over("cell")
        frame = keep(frame.with_columns(order.alias("_order")), pl.col("_order") < settings.limit, "over the limit", dropped).drop("_order")
    return Assignment(carried(frame, chosen, present, settings.seed), dropped, present, absent, chosen)


def carried(frame: "pl.DataFrame", habits: Sequence[str], present: Mapping[str, float], seed: int) -> "pl.DataFrame":
    """Add `carries`: the behaviors that a document's version with behavior should show.

    For a selected document these are the habits that it shows. A free one is given, by a seeded draw, those of a selected one, so that
    what `inject` adds is as frequent, and as often together, as what `preserve` keeps.
    """
    import numpy as np
    import polars as pl

    shown = pl.concat_list([pl.when(pl.col(f"{name}_score") >= present[name]).then(pl.lit(name)) for name in habits]).list.drop_nulls()
    frame = frame.with_columns(shown.alias("carries"))
    cells = frame["cell"].to_numpy()
    donors, free = np.flatnonzero(cells == "selected"), np.flatnonzero(cells == "free")
    if len(donors) and len(free):
        origin = np.arange(frame.height)
        origin[free] = donors[np.random.default_rng([seed, 0x1A3]).integers(len(donors), size=len(free))]
        frame = frame.with_columns(frame["carries"].gather(origin))
    return frame


def score_distribution(labels: "pl.DataFrame", behaviors: Sequence[str]) -> str:
    """One line with the quantiles of each behavior's score: what a user needs to choose a threshold."""
    lines = []
    for name in behaviors:
        scores = labels[f"{name}_score"].drop_nulls()
        if scores.len() == 0:
            return "no document has scores"
        quantiles = " ".join(f"{scores.quantile(q):.2f}" for q in (0.5, 0.9, 0.99, 1.0))
        lines.append(f"{name} {quantiles}")
    return "scores at the 50th, 90th, 99th percentile and the highest: " + ", ".join(lines)
