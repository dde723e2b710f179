"""`curate select` as a command: labels in, candidates out."""

import time

import polars as pl

from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import Manifest
from curate.selection import SelectSettings, assign_cells, score_distribution
from pipelines.stage import read_table, write_table


def select(settings: SelectSettings) -> Manifest:
    """Choose the documents of the arms: selected (a chosen behavior is shown) and free (none is).

    Thresholds are probabilities, or ranks (`--present top:0.2`) for a judge whose probabilities mean little. The band between the two
    is left out and counted; an empty arm is an error that shows the distribution of scores.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    labels, files = read_table(require(settings.labels, "labels", "the output of `curate classify`"), "classify")
    behaviors = schemas.behaviors_in(labels.to_arrow().schema)
    assigned = assign_cells(labels, behaviors, settings)
    frame, dropped = assigned.frame, assigned.dropped
    counts = dict(frame.group_by("cell").len().iter_rows())
    for cell, option in (("selected", "--present"), ("free", "--absent")):
        if not counts.get(cell):
            left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "nothing left out"
            scores = score_distribution(labels, behaviors)
            raise UserError(
                f"no document is {cell} ({labels.height} labelled; {left_out}); {scores}; move {option}, --problem or --solution"
            )
    nothing = [pl.lit(None, pl.String).alias("topic"), pl.lit(None, pl.Float32).alias("difficulty"), pl.lit(1.0).alias("weight")]
    table = frame.with_columns(nothing).select(schemas.candidates(behaviors).names).to_arrow().cast(schemas.candidates(behaviors))
    notes = {"behaviors": behaviors, "cells": counts, "present": assigned.present, "absent": assigned.absent, "habits": assigned.habits}
    return write_table(out, "select", settings, table, files, labels.height, dropped, started, notes)
