"""`curate select` as a command: labels in, candidates out. The label table is read lazily: few columns of all rows, all of few rows."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from curate.matching_strata import COLUMNS, check_match_on, coarsen, match_across, order_keys
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest
from curate.selection import Assignment, SelectSettings, assign_cells, score_distribution
from pipelines.stage import part_files, write_table

IDENTITY = ["file_sha256", "source_row"]
ROW = "_row"  # number of a row in the whole label table


def select(settings: SelectSettings) -> Manifest:
    """Choose the documents of the arms: selected (a chosen behavior is shown) and free (none is).

    Thresholds are probabilities, or ranks (`--present top:0.2`) for a judge whose probabilities mean little. The band between the two
    is left out and counted; an empty arm is an error that shows the distribution of scores. With `--matched`, selected and free
    documents are paired on what was fixed before rewriting, and the others left out.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folder = require(settings.labels, "labels", "the output of `curate classify`")
    files = part_files(folder, "classify")
    if not files:
        raise UserError(f"{folder} holds no rows: nothing to go on with")
    table = scan(files).with_row_index(ROW)
    behaviors = schemas.behaviors_in(table.head(0).collect().to_arrow().schema)
    scores = [f"{name}_score" for name in (*behaviors, "problem", "solution")]
    slim = table.select(ROW, *IDENTITY, "error", *scores).collect(engine="streaming")
    rows_in = slim.height
    # With --matched the limit is one of pairs, and drawn among them.
    assigned = assign_cells(slim, behaviors, replace(settings, limit=None) if settings.matched else settings)
    refuse_empty(assigned, slim, behaviors)
    # Of the chosen rows nothing is kept but what the label table does not have: at millions of rows the rest is most of the memory.
    frame, dropped = assigned.frame.drop("error", *scores), assigned.dropped
    about: dict[str, Any] = {}
    assigned = replace(assigned, frame=frame)
    del slim
    if settings.topics is not None:
        topics = scan(part_files(settings.topics, "topics")).select(*IDENTITY, "topic", "difficulty")
        files = [*files, *part_files(settings.topics, "topics")]
        frame = with_topics(frame, topics, settings.topics)
    else:
        frame = frame.with_columns(pl.lit(None, pl.String).alias("topic"), pl.lit(None, pl.Float32).alias("difficulty"))
    if settings.matched:
        frame, about = matched_documents(frame, table, settings, dropped)
    counts = dict(frame.group_by("cell").len().iter_rows())
    carried = [name for name in frame.columns if name == ROW or name not in table.collect_schema().names()]
    full = table.join(frame.select(carried).lazy(), on=ROW, how="inner").collect(engine="streaming").sort(*IDENTITY)
    schema = schemas.candidates(behaviors)
    candidates = full.with_columns(pl.lit(1.0).alias("weight")).select(schema.names).to_arrow().cast(schema)
    notes = {
        "behaviors": behaviors,
        "cells": counts,
        "present": assigned.present,
        "absent": assigned.absent,
        "habits": assigned.habits,
        **about,
    }
    return write_table(out, "select", settings, candidates, files, rows_in, dropped, started, notes)


def scan(files: Sequence[InputFile]) -> pl.LazyFrame:
    """The parts of a stage as one lazy table, in their order."""
    return pl.scan_parquet([Path(file.root) / file.path for file in files])


def refuse_empty(assigned: Assignment, labels: pl.DataFrame, behaviors: Sequence[str]) -> None:
    """Raise UserError, with the distribution of scores, when no document is selected or none is free."""
    counts = dict(assigned.frame.group_by("cell").len().iter_rows())
    for cell, option in (("selected", "--present"), ("free", "--absent")):
        if not counts.get(cell):
            left_out = ", ".join(f"{count} {reason}" for reason, count in assigned.dropped.items()) or "nothing left out"
            scores = score_distribution(labels, behaviors)
            raise UserError(
                f"no document is {cell} ({labels.height} labelled; {left_out}); {scores}; move {option}, --problem or --solution"
            )


def with_topics(frame: pl.DataFrame, topics: pl.LazyFrame, folder: Path) -> pl.DataFrame:
    """Add `topic` and `difficulty`. Raises UserError when the topics are of other documents."""
    known = topics.with_columns(pl.lit(True).alias("_known"))
    joined = frame.lazy().join(known, on=IDENTITY, how="left", maintain_order="left").collect(engine="streaming")
    if joined.height != frame.height or joined["_known"].null_count():
        raise UserError(
            f"{joined['_known'].null_count()} of {frame.height} documents have no topic in {folder}: it was made of other labels"
        )
    return joined.drop("_known")


def matched_documents(
    frame: pl.DataFrame, table: pl.LazyFrame, settings: SelectSettings, dropped: dict[str, int]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Selected and free documents that are alike, one to one; the others are counted in `dropped`. Also what the manifest notes."""
    match_on = check_match_on(settings.match_on)
    stored = [name for name in COLUMNS if name not in frame.columns]
    # Long texts that are needed only in part are cut while they are read: of an address its host, of a hash the digits that order.
    cut = [pl.col("url").str.extract(r"^([a-z]+://[^/?#]+)", 1), pl.col("text_sha256").str.slice(-15)]
    covariates = table.select(ROW, *[name for name in stored if name != "url"], *cut)
    documents = frame.lazy().join(covariates, on=ROW, how="inner").collect(engine="streaming").sort("text_sha256", *IDENTITY)
    first, second = (documents.filter(pl.col("cell") == cell) for cell in ("selected", "free"))
    del documents
    made = coarsen(first, second, match_on)
    if made.constant:
        print(f"note: the same in all documents, so nothing to match on: {', '.join(made.constant)}")
    keys = order_keys(first["text_sha256"], settings.seed), order_keys(second["text_sha256"], settings.seed)
    matched = match_across(made, keys, settings.caliper, settings.limit)
    for cell, unmatched in zip(("selected", "free"), matched.unmatched, strict=True):
        for reason, count in sorted(unmatched.items()):
            dropped[f"{reason} ({cell})"] = count
    if not matched.pairs:
        raise UserError(
            f"no selected document ({first.height}) matches a free one ({second.height}) on {', '.join(match_on)}: "
            f"name fewer covariates with --match-on, or widen --caliper {settings.caliper:g}"
        )
    print(
        f"matched {len(matched.pairs)} of {first.height} selected documents with one of {second.height} free ones on {', '.join(match_on)}"
    )
    kept = pl.concat([first[[a for a, _ in matched.pairs]][ROW], second[[b for _, b in matched.pairs]][ROW]])
    notes = {"matching": {"match_on": match_on, "caliper": settings.caliper, "pairs": len(matched.pairs)}}
    return frame.filter(pl.col(ROW).is_in(kept.implode())), notes
