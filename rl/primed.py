"""Primed sets: their table, and the folder that every way of making traces writes."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_part
from rl import traces
from rl.countdown import Task
from rl.prompts import render
from rl.scoring import score
from rl.tasks import FILE_NAME

TRAIN, HELD_OUT = "train", "heldout"
NOT_ASKED_FOR = "not asked for: there were enough"


def schema(counts: Sequence[str]) -> pa.Schema:
    """The table of primed traces with these counts of behaviors."""
    return pa.schema(
        [
            pa.field("prompt", pa.string(), nullable=False),
            pa.field("completion", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("numbers", pa.list_(pa.int64()), nullable=False),
            pa.field("target", pa.int64(), nullable=False),
            pa.field("correct", pa.bool_(), nullable=False),
            *[pa.field(name, pa.int32(), nullable=False) for name in counts],
        ]
    )


SCHEMA = schema(traces.COUNTS)


def row(kind: str, template: str, task: Task, completion: str) -> dict[str, Any]:
    """One row: the completion scored exactly, its behaviors counted by the parser."""
    numbers, target = task
    made = {
        "prompt": render(template, numbers, target),
        "completion": completion,
        "kind": kind,
        "numbers": list(numbers),
        "target": target,
        "correct": score(completion, numbers, target).correct,
    }
    return made | traces.parse(completion, numbers, target).counts()


@dataclass
class Made:
    """Traces in order, what was dropped and why, and what the manifest says besides (fields of `Manifest`, notes)."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    about: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    inputs: list[InputFile] = field(default_factory=list)

    def cut(self, wanted: int, source: str, more: str) -> None:
        """Keep the first `wanted` rows and count the rest. Raises UserError when there are fewer; `more` says how to get them."""
        if len(self.rows) < wanted:
            raise UserError(f"{source} gives {len(self.rows)} traces ({reasons(self.dropped)}), {wanted} were asked for: {more}")
        if extra := len(self.rows) - wanted:
            self.dropped[NOT_ASKED_FOR] += extra
            del self.rows[wanted:]


def write_set(
    out: Path, made: Made, num_train: int, tasks: InputFile, settings: dict[str, Any], seed: int, started: float
) -> dict[str, float]:
    """Write train/, heldout/ and the manifest; `started` is a time.monotonic(). Returns the mean count of each behavior."""
    rows = made.rows
    (out / HELD_OUT / "primed.parquet").unlink(missing_ok=True)  # of an earlier set with other counts
    write_part(out / TRAIN / "primed.parquet", pa.Table.from_pylist(rows[:num_train], SCHEMA))
    if rows[num_train:]:
        write_part(out / HELD_OUT / "primed.parquet", pa.Table.from_pylist(rows[num_train:], SCHEMA))
    means = {name: sum(row[name] for row in rows) / len(rows) for name in traces.COUNTS}
    Manifest(
        stage="prime",
        settings=settings,
        inputs=[tasks, *made.inputs],
        rows_made=len(rows) + sum(made.dropped.values()),
        rows_out=len(rows),
        dropped=dict(made.dropped),
        seed=seed,
        seconds=time.monotonic() - started,
        notes={"share_correct": sum(row["correct"] for row in rows) / len(rows), "counts_per_trace": means, **made.notes},
        **made.about,
    ).write(out)
    return means


def tasks_file(source: Path, num_tasks: int) -> InputFile:
    """The file of tasks, for a manifest."""
    file = source / FILE_NAME if source.is_dir() else source
    return InputFile(str(file), file_sha256(file), num_tasks, file.stat().st_size)


def reasons(dropped: Counter[str]) -> str:
    """`3 × truncated, 2 × correct`."""
    return ", ".join(f"{number} × {reason}" for reason, number in dropped.items()) or "none passed over"
