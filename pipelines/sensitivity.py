"""`curate sensitivity` as a pipeline: read the corpus, label with every wording, write, compare the wordings."""

import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from curate.behaviors import load_behaviors
from curate.records.manifest import Manifest
from curate.records.parts import write_part
from curate.sensitivity import SensitivitySettings, check, spread, wording_rows
from pipelines.classify import label_corpus
from pipelines.stage import finish
from pipelines.steps import count_alike

TABLE_FILE = "wordings.parquet"


def sensitivity(settings: SensitivitySettings) -> Manifest:
    """How far labels and prevalence hang on the wording: labels the same documents with each wording of each question.

    The wordings of a window are asked one after the other, so the window is read once. Writes every label (columns
    `<behavior>~<wording>_score`) and `wordings.parquet`: prevalence for each wording with its interval; kappa, the share of flipped
    labels and the rank correlation of the probabilities against the behavior's own question.
    """
    started = time.monotonic()
    settings = settings.resolved()
    behaviors = load_behaviors(settings.behaviors)
    check(settings, behaviors)
    done = label_corpus(settings, "sensitivity", settings.labelling(wordings=True))
    parts = sorted((done.ledger.folder / "parts").glob("*.parquet"))
    notes: dict[str, Any] = {"behaviors": [behavior.name for behavior in behaviors]}
    if parts:
        labels = pl.concat([pl.read_parquet(path) for path in parts])
        rows = wording_rows(labels, behaviors, settings.threshold)
        spreads = [spread(labels, behavior, settings.threshold) for behavior in behaviors]
        write_part(Path(done.ledger.folder) / TABLE_FILE, pa.Table.from_pylist(rows))
        show(rows, spreads)
        if broken := labels.height - rows[0]["documents"]:
            print(f"left out, with an error: {broken} of {labels.height} documents: {count_alike(labels['error'].drop_nulls())}")
        notes |= {"wordings": rows, "spread": spreads}
    return finish(done.ledger, settings, started, done.failed, done.prompt_hash, notes)


def show(rows: list[dict[str, Any]], spreads: list[dict[str, Any]]) -> None:
    """The table for a terminal."""
    for about in spreads:
        own = [row for row in rows if row["behavior"] == about["behavior"]]
        ratio = f", {about['highest'] / about['lowest']:.1f} times" if about["lowest"] else ""
        print(
            f"{about['behavior']}: prevalence {about['lowest']:.3f} to {about['highest']:.3f}{ratio}; {percent(about['disputed'])} of "
            f"{own[0]['documents']} documents disputed; kappa between wordings {number(about['mean_kappa'])} (least "
            f"{number(about['least_kappa'])})"
        )
        if own[0]["documents"] and not about["highest"]:
            most = max(row["highest"] for row in own)
            print(f"  no probability reaches --threshold {own[0]['threshold']:g}, the highest is {most:.3f}: see the rank correlation")
        for row in own:
            against = "  the question as it is asked"
            if row["wording"]:
                against = f"  kappa {number(row['kappa'])}  flipped {percent(row['flipped'])}  rank {number(row['spearman'])}"
            share = "no document" if row["share"] is None else f"{row['share']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            print(f"  {row['wording']}  {share}  mean {number(row['mean'])}{against}  {row['text']}")


def number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
