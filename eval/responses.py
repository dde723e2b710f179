"""Responses to Countdown tasks from Parquet files of any origin: what is read, what is left out, and why.

In a folder, greedy responses beside sampled ones are left out (they are no draw from the model, and would be counted with those that
are), and so are the tables that `evals traces` wrote itself. A file that is named is read whatever it is.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.errors import UserError
from curate.records.manifest import InputFile, file_sha256
from curate.records.parts import read_footer

GREEDY = re.compile(r"(?:^|[-_./])greedy(?:[-_./]|$)", re.IGNORECASE)
STAGE = "traces"  # in the footer of our own table
NEEDED = ("numbers", "target", "response")
TRUTHS, WHOLE = ("correct", "truncated"), ("step", "num_tokens")
NO_RESPONSE, NO_TASK, NOT_DRAWN = "no response (null)", "no numbers or no target (null)", "not drawn (--limit)"


@dataclass
class Responses:
    """One source: rows with `file`, numbers, target, response, task, step, correct, num_tokens and truncated (None where there is none)."""

    rows: list[dict[str, Any]]
    files: list[InputFile]
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)  # files


def read(source: Path, limit: int | None, seed: int) -> Responses:
    """Every response of a file or of the files below a folder, or `limit` of them drawn by `seed`.

    Raises UserError when there is none, or when a file cannot be read or holds something else.
    """
    found = Responses([], [])
    for file in _files(source, found.left_out):
        table = _table(file)
        found.files.append(InputFile(str(file), file_sha256(file), table.num_rows, file.stat().st_size))
        absent = dict.fromkeys(("task", *WHOLE, *TRUTHS))
        for row in table.to_pylist():
            reason = NO_RESPONSE if row["response"] is None else NO_TASK if row["numbers"] is None or row["target"] is None else None
            if reason is not None:
                found.dropped[reason] += 1
                continue
            row["numbers"] = numbers_of(row["numbers"], file)
            found.rows.append({"file": str(file)} | absent | row)
    if not found.rows:
        dropped = ", ".join(f"{count} × {reason}" for reason, count in found.dropped.items())
        raise UserError(f"{source} holds no responses ({dropped or 'its files have no rows'})")
    if limit is not None and limit < len(found.rows):
        chosen = np.random.default_rng([seed, len(found.rows)]).choice(len(found.rows), limit, replace=False)
        found.dropped[NOT_DRAWN] = len(found.rows) - limit
        found.rows = [found.rows[place] for place in sorted(chosen.tolist())]
    return found


def schema(rows: Sequence[dict[str, Any]], counts: Sequence[str], judged: Sequence[str]) -> pa.Schema:
    """Of traces.parquet: the rows of `read` with their source, a column for each of `counts`, and two for each of `judged`."""
    task = pa.string() if any(isinstance(row["task"], str) for row in rows) else pa.int64()
    columns: dict[str, pa.DataType] = {"source": pa.string(), "file": pa.string(), "task": task, "step": pa.int64()}
    columns |= {"numbers": pa.list_(pa.int64()), "target": pa.int64(), "response": pa.string()}
    columns |= {"correct": pa.bool_(), "num_tokens": pa.int64(), "truncated": pa.bool_()} | {name: pa.int32() for name in counts}
    for name in judged:
        columns |= {f"judge_{name}": pa.int32(), f"judge_{name}_problem": pa.string()}
    return pa.schema(list(columns.items()))


def numbers_of(value: Any, file: Path) -> list[int]:
    """Whole numbers from a list, or from a list as JSON text. Raises UserError for anything else."""
    read = value
    if isinstance(value, str):
        try:
            read = json.loads(value)
        except ValueError:
            read = None
    if not isinstance(read, list) or not all(type(number) is int for number in read):
        raise UserError(f"{file}: numbers {str(value)[:60]!r} are no list of whole numbers, nor such a list as JSON text")
    return read


def _files(source: Path, left_out: list[str]) -> list[Path]:
    if source.is_file():
        return [source]
    files = sorted(source.rglob("*.parquet"))
    if not files:
        raise UserError(f"no Parquet files in {source}" if source.exists() else f"{source} does not exist")
    others = [file for file in files if not _ours(file)]
    sampled = [file for file in others if not GREEDY.search(file.relative_to(source).as_posix())]
    kept = sampled or others or files  # nothing is mixed where all are of one sort
    left_out += sorted(map(str, set(files) - set(kept)))
    return kept


def _ours(file: Path) -> bool:
    try:
        return read_footer(file).get("stage") == STAGE
    except UserError:
        return False  # it will be said that it cannot be read


def _table(file: Path) -> pa.Table:
    """The columns that are ours, checked for their types."""
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {file}: {str(error).splitlines()[0]}") from None
    if missing := [name for name in NEEDED if name not in table.column_names]:
        raise UserError(f"{file} has no column {missing[0]}; responses need {', '.join(NEEDED)}")
    table = table.select([name for name in (*NEEDED, "task", *WHOLE, *TRUTHS) if name in table.column_names])
    for column in table.schema:
        fits, meant = _meant(column.name)
        if not (fits(column.type) or pa.types.is_null(column.type)):
            raise UserError(f"{file}: column {column.name} is {column.type}; {meant} is meant")
    return table


def _meant(name: str) -> tuple[Callable[[pa.DataType], bool], str]:
    """Whether a column's type will do, and what is said when it does not."""
    if name == "numbers":
        return lambda kind: _is_text(kind) or _is_list(kind), "a list of whole numbers, or such a list as JSON text,"
    if name == "response":
        return _is_text, "text"
    if name in TRUTHS:
        return pa.types.is_boolean, "true or false"
    if name == "task":
        return lambda kind: _is_text(kind) or pa.types.is_integer(kind), "a whole number or text"
    return pa.types.is_integer, "a whole number"


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
