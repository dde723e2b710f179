"""Exactly once: a stage's work is cut into chunks, and the file of a finished chunk is the only record that it is done.

A chunk is (hash of a file, range of its rows), so it does not depend on how many tasks share the work, and a run may resume with
another number. Its part carries the hash of the settings in its footer; parts made with other settings are refused by name.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pyarrow import ArrowInvalid

from curate.records.errors import UserError
from curate.records.manifest import InputFile, json_sha256
from curate.records.parts import read_footer, write_json
from curate.records.settings import difference

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Chunk:
    """Rows `start` to `end` (exclusive) of `file`; `rows`, when given, lists the chosen ones among them."""

    file: InputFile
    start: int
    end: int
    rows: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        return f"{self.file.sha256.replace(':', '-')[:16]}-{self.start:09d}-{self.end:09d}"

    @property
    def num_rows(self) -> int:
        return self.end - self.start if self.rows is None else len(self.rows)

    def ranges(self) -> list[tuple[int, int]]:
        """Half-open row ranges to read."""
        return [(self.start, self.end)] if self.rows is None else [(row, row + 1) for row in self.rows]


def make_chunks(
    files: Sequence[InputFile], chunk_rows: int, limit: int | None = None, sample: int | None = None, seed: int = 0
) -> list[Chunk]:
    """Cut files into chunks of `chunk_rows`, in the order given.

    `limit` keeps the first rows; `sample` draws that many of all rows uniformly without replacement, the same for the same seed and
    files whatever the chunking.
    """
    total = sum(file.rows for file in files)
    if limit is not None and sample is not None:
        raise UserError("--limit and --sample exclude each other: the first rows, or a random sample of all")
    chosen = (
        np.sort(np.random.default_rng(seed).choice(total, size=sample, replace=False)) if sample is not None and sample < total else None
    )
    chunks, offset = [], 0
    left = total if limit is None else limit
    for file in files:
        stop = min(file.rows, left)
        left -= stop
        for start in range(0, stop, chunk_rows):
            end = min(start + chunk_rows, stop)
            rows = None
            if chosen is not None:
                low, high = np.searchsorted(chosen, [offset + start, offset + end])
                rows = tuple(int(row) - offset for row in chosen[low:high])
            if rows is None or rows:
                chunks.append(Chunk(file, start, end, rows))
        offset += file.rows
    return chunks


@dataclass
class Ledger:
    """The chunks of one stage and the folder that their parts go to. `settings` holds what can change the result."""

    folder: Path
    stage: str
    settings: dict[str, Any]
    chunks: list[Chunk]

    @property
    def settings_hash(self) -> str:
        return json_sha256(self.settings)

    def part(self, chunk: Chunk) -> Path:
        return self.folder / "parts" / f"{chunk.name}.parquet"

    def is_done(self, chunk: Chunk) -> bool:
        return self.part(chunk).exists()

    def missing(self) -> list[Chunk]:
        """Chunks without a part, by one listing of the folder: on a network disk thousands of look-ups are slow, and may be stale."""
        parts = self.folder / "parts"
        done = set(os.listdir(parts)) if parts.is_dir() else set()
        return [chunk for chunk in self.chunks if self.part(chunk).name not in done]

    def failures(self) -> dict[str, str]:
        """Files that broke while being read, with the reason; one small JSON file each, written by the task that met it."""
        return dict(json.loads(path.read_text()) for path in sorted((self.folder / "failures").glob("*.json")))

    def record_failure(self, file: InputFile, reason: str) -> None:
        write_json(self.folder / "failures" / f"{file.sha256.replace(':', '-')[:16]}.json", [f"{file.root}/{file.path}", reason])

    def open(self) -> None:
        """Write the plan of a new stage, or check that the one in the folder was made with the same settings.

        Raises UserError that names every difference, or the part that does not belong here.
        """
        path = self.folder / PLAN_FILE
        plan = {
            "stage": self.stage,
            "settings_hash": self.settings_hash,
            "settings": self.settings,
            "chunks": [{**asdict(chunk), "file": chunk.file.sha256} for chunk in self.chunks],
            "files": [asdict(file) for file in {chunk.file.sha256: chunk.file for chunk in self.chunks}.values()],
        }
        if path.exists():
            old = read_plan(self.folder)
            if old["settings_hash"] != self.settings_hash:
                changed = difference(old["settings"], self.settings)
                raise UserError(f"{self.folder} was begun with other settings ({changed}); use them, or another --out")
            before, now = ({json.dumps(chunk, sort_keys=True) for chunk in chunks} for chunks in (old["chunks"], plan["chunks"]))
            if not before <= now:
                raise UserError(f"{self.folder} was begun on other input files; put them back, or use another --out")
            if before < now:  # a file that could not be read was mended, or one was added: what is done stays valid
                write_json(path, plan)
        elif any((self.folder / "parts").glob("*.parquet")):
            raise UserError(f"{self.folder} holds parts but no {PLAN_FILE}: it is not the beginning of this stage; use another --out")
        else:
            write_json(path, plan)
        names = {f"{chunk.name}.parquet" for chunk in self.chunks}
        for part in (self.folder / "parts").glob("*.parquet"):
            if part.name not in names:
                raise UserError(f"{part} is no chunk of this stage; remove it, or use another --out")
            try:
                footer = read_footer(part)
            except (ArrowInvalid, ValueError) as error:
                raise UserError(f"{part} is damaged ({str(error).splitlines()[0]}); remove it and run the same command again") from None
            if footer.get("settings_hash") != self.settings_hash:
                raise UserError(f"{part} was made with other settings; remove it, or use another --out")


def read_plan(folder: Path) -> dict[str, Any]:
    """The plan that `Ledger.open` wrote. Raises UserError when there is none."""
    try:
        return json.loads((folder / PLAN_FILE).read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} has no {PLAN_FILE}: no stage was begun there") from None
    except ValueError as error:
        raise UserError(f"{folder / PLAN_FILE} is not valid JSON: {error}") from None


def load_ledger(folder: Path) -> Ledger:
    """The ledger of a stage that was begun in `folder`, from its plan alone."""
    plan = read_plan(folder)
    files = {raw["sha256"]: InputFile(**raw) for raw in plan["files"]}
    chunks = [
        Chunk(files[raw["file"]], raw["start"], raw["end"], None if raw["rows"] is None else tuple(raw["rows"])) for raw in plan["chunks"]
    ]
    return Ledger(folder, plan["stage"], plan["settings"], chunks)


def sum_footers(paths: Iterable[Path]) -> dict[str, Any]:
    """Add up the footers of parts: rows, drops, errors and usage."""
    total: dict[str, Any] = {"rows_in": 0, "rows_made": 0, "rows_out": 0, "dropped": {}, "errors": {}, "usage": {}}
    for path in paths:
        footer = read_footer(path)
        for key in ("rows_in", "rows_made"):
            total[key] += footer[key]
        total["rows_out"] += pq.read_metadata(path).num_rows
        for key in ("dropped", "errors", "usage"):
            for name, count in footer[key].items():
                total[key][name] = total[key].get(name, 0) + count
    return total
