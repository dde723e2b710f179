"""`rl pairs`: two primed sets about the same tasks as the two versions of each text, for `curate adopt` and `curate match`.

They take the place of `curate rewrite` where the reader is a tiny model: the exact solver has told each text twice, with the four habits
(`rl prime --kind all`) and straight (`--kind linear`), with the same tasks, attempts and answers.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256, read_manifest
from curate.records.parts import write_part
from curate.records.settings import option, to_dict
from rl.prime_solver import THINK
from rl.prime_traces import EVERY
from rl.primed import TRAIN
from rl.prompts import render
from rl.scoring import OPEN, extract

TABLE = "pairs.parquet"
BEHAVIORS = sorted(EVERY)
SCHEMA = pa.schema(
    [
        *[pa.field(name, pa.string(), nullable=False) for name in ("pair_id", "cell", "question", "thoughts", "answer", "source")],
        pa.field("target", pa.list_(pa.string()), nullable=False),
        *[pa.field(f"source_{name}", pa.float64(), nullable=False) for name in BEHAVIORS],
        *[pa.field(name, pa.float64(), nullable=False) for name in BEHAVIORS],
    ]
)


@dataclass(frozen=True)
class PairsSettings:
    """Settings of `rl pairs`."""

    selected: Path | None = option(None, "Primed set that shows the behaviors: output of `rl prime`")
    stripped: Path | None = option(None, "Primed set about the same tasks that shows none")
    out: Path | None = option(None, f"Folder for {TABLE} and manifest.json", hashed=False)


def run(settings: PairsSettings) -> None:
    """Join two primed sets into the table of rewrites that `curate adopt OUT/pairs.parquet` reads."""
    started = time.monotonic()
    out = require(settings.out, "out")
    folders = (require(settings.selected, "selected"), require(settings.stripped, "stripped"))
    files = [read_set(folder) for folder in folders]
    told, straight = (rows for _, rows in files)
    if [task_of(row) for row in told] != [task_of(row) for row in straight]:
        raise UserError(f"{folders[0]} and {folders[1]} are not about the same tasks in the same order: make them with the same --seed")
    for number, (one, other) in enumerate(zip(told, straight, strict=True)):
        if extract(one["completion"]) != extract(other["completion"]) or not (one["correct"] and other["correct"]):
            raise UserError(
                f"trace {number} of {folders[0]} and of {folders[1]} do not give the same right answer: use the kinds all and linear, "
                "made with the same options"
            )
    shown = sorted({name for row in told for name in BEHAVIORS if row[name]})
    if shows := sorted({name for row in straight for name in BEHAVIORS if row[name]}):
        raise UserError(f"--stripped {folders[1]} shows {', '.join(shows)}: it is the set without behavior, such as --kind linear")
    rows = []
    for number, versions in enumerate(zip(told, straight, strict=True)):
        for cell, row in zip(("selected", "selected_stripped"), versions, strict=True):
            rows.append(version(number, cell, row, versions[0], shown))
    write_part(out / TABLE, pa.Table.from_pylist(rows, SCHEMA))
    Manifest(
        stage="pairs",
        settings=to_dict(settings),
        inputs=[file for file, _ in files],
        rows_in=2 * len(told),
        rows_out=len(rows),
        seconds=time.monotonic() - started,
    ).write(out)
    print(f"{len(told)} texts told twice in {out / TABLE}")


def read_set(folder: Path) -> tuple[InputFile, list[dict[str, Any]]]:
    """The training traces of a primed set. Raises UserError when the folder is none."""
    path = folder / TRAIN / "primed.parquet"
    if not path.is_file() or read_manifest(folder).stage != "prime":
        raise UserError(f"{folder} is no output of `rl prime`: {path} or its manifest is missing")
    rows = pq.read_table(path).to_pylist()
    return InputFile(str(path), file_sha256(path), len(rows), path.stat().st_size), rows


def task_of(row: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    """The numbers and the target of a trace."""
    return tuple(row["numbers"]), row["target"]


def version(number: int, cell: str, row: dict[str, Any], source: dict[str, Any], shown: list[str]) -> dict[str, Any]:
    """One row of the table; `source` is the version that shows the behaviors, as the passage of a rewrite would."""
    numbers, target = task_of(row)
    thoughts = row["completion"].partition(OPEN)[0].removesuffix(f"</{THINK}>\n")  # a last line's end is part of a word of terse traces
    return {
        "pair_id": f"{number:06d}",
        "cell": cell,
        "question": render("short", numbers, target),
        "thoughts": thoughts,
        "answer": extract(row["completion"]) or "",
        "source": "arithmetic by an exact solver",
        "target": shown if cell == "selected" else [],
        **{f"source_{name}": float(source[name] > 0) for name in BEHAVIORS},
        **{name: float(row[name] > 0) for name in BEHAVIORS},
    }
