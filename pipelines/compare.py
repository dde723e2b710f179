"""`curate compare` as a command: two label tables in, one table of agreement and cost out."""

import time
from typing import Any

import pyarrow as pa

from curate.comparison import IDENTITY, CompareSettings, agreement, cost, ways
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import Manifest, read_manifest
from pipelines.stage import read_table, write_table
from pipelines.steps import count_alike


def compare(settings: CompareSettings) -> Manifest:
    """Two ways of labelling the same documents side by side: kappa per behavior, seconds, tokens.

    For the two modes: `curate classify --mode score --out A`, `curate classify --mode rationale --out B` on the same --dataset (and
    --limit or --sample), then `curate compare --first A --second B`. Documents with an error in one of them are left out and counted.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folders = [
        require(settings.first, "first", "an output of `curate classify`"),
        require(settings.second, "second", "another output of `curate classify`, of the same documents"),
    ]
    manifests = [read_manifest(folder) for folder in folders]
    (first, files), (second, more) = (read_table(folder, "classify") for folder in folders)
    known, others = (schemas.behaviors_in(table.to_arrow().schema) for table in (first, second))
    behaviors = [name for name in known if name in others]
    common = first.join(second, on=IDENTITY, how="inner", suffix="_second")
    if common.is_empty() or not behaviors:
        missing = "document" if common.is_empty() else "behavior"
        raise UserError(f"{folders[0]} and {folders[1]} have no {missing} in common: label the same --dataset both times")
    good = common.filter(common["error"].is_null() & common["error_second"].is_null())
    costs = [cost(manifest) for manifest in manifests]
    names = ways(*manifests)
    if good.is_empty():
        show([], costs, names)  # what they took is known all the same
        errors = (common["error"].drop_nulls(), common["error_second"].drop_nulls())
        reasons = "; ".join(f"{folder}: {count_alike(own)}" for folder, own in zip(folders, errors) if len(own))
        raise UserError(f"none of the {common.height} common documents has a label without an error in both: {reasons}")
    rows = agreement(good, behaviors, settings.threshold)
    show(rows, costs, names)
    dropped = {"labelled": good.height, "error in one of them": common.height - good.height, "only in one": first.height - common.height}
    notes = {
        "first": names[0],
        "second": names[1],
        "cost_first": costs[0],
        "cost_second": costs[1],
        "only_in_second": second.height - common.height,
    }
    counted = {reason: count for reason, count in dropped.items() if count}
    return write_table(
        out, "compare", settings, pa.Table.from_pylist(rows), [*files, *more], first.height, counted, started, notes, rows_made=len(rows)
    )


def show(rows: list[dict[str, Any]], costs: list[dict[str, Any]], names: tuple[str, str]) -> None:
    """The table for a terminal."""
    width = max(12, *map(len, names))
    print(f"{'':28} {names[0]:>{width}} {names[1]:>{width}}")
    for key in costs[0]:
        values = [f"{one[key]:,.2f}" if isinstance(one[key], float) else f"{one[key]:,}" for one in costs]
        print(f"{key.replace('_', ' '):28} {values[0]:>{width}} {values[1]:>{width}}")
    for row in rows:
        agreed = "undefined" if row["kappa"] is None else f"{row['kappa']:.2f}"
        print(
            f"{row['behavior'] + ' shown':28} {row['share_first']:{width}.1%} {row['share_second']:{width}.1%}  kappa {agreed}, "
            f"{row['differ']:.1%} of {row['documents']} documents differ"
        )
