"""`curate adopt` as a command: a table of rewrites in, a qa folder out."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.adoption import SHOWN, AdoptSettings, adopt_rows
from curate.behaviors import load_behaviors
from curate.reading import BadFile, count_rows, file_format, read_rows
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from pipelines.stage import write_table


def adopt(settings: AdoptSettings) -> Manifest:
    """Take rewrites that were made elsewhere, for `curate verify` and `curate match`: the table is read, hashed and checked.

    Where it says which behaviors the rewrites show, verify reports the judge's precision and recall against it.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    file = input_file(require(settings.table, "table", "a Parquet or JSONL file of rewrites"))
    behaviors = [behavior.name for behavior in load_behaviors(settings.behaviors)]
    adopted = adopt_rows(rows_of(file), file, behaviors, settings)
    for note in adopted.notes:
        print(f"note: {note}")
    scores = [pa.field(f"source_{name}_score", pa.float32()) for name in behaviors]
    schema = pa.schema([*schemas.QA, *scores, *[pa.field(f"gold_{name}", pa.bool_()) for name in behaviors]])
    table = pa.Table.from_pylist(adopted.rows, schema=schema)
    errors = [row["error"] for row in adopted.rows if row["error"]]
    notes: dict[str, Any] = {"arms": adopted.arms, "behaviors": behaviors, "habits": behaviors, "warnings": adopted.notes}
    notes["present"] = dict.fromkeys(behaviors, SHOWN)
    manifest = write_table(out, "rewrite", settings, table, [file], file.rows, adopted.dropped, started, notes)
    manifest.engine = "adopted"
    manifest.errors = {error: errors.count(error) for error in sorted(set(errors))}
    manifest.write(out)
    print(f"{table.num_rows} rewrites for the arms {adopted.arms}, {len(errors)} with an error: {out}")
    return manifest


def input_file(path: Path) -> InputFile:
    """The table as an input with its hash. Raises UserError when it cannot be read."""
    if file_format(path.name) is None or not path.is_file():
        raise UserError(f"{path} is {'neither Parquet nor JSONL by its name' if path.is_file() else 'not a file'}")
    root = str(path.parent.resolve())
    try:
        rows = count_rows(root, path.name)
    except (BadFile, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no rows")
    return InputFile(path.name, file_sha256(path), rows, path.stat().st_size, root)


def rows_of(file: InputFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, values) of the table. Raises UserError for a row that is no object."""
    try:
        for row in read_rows(file.root, file.path, [(0, file.rows)]):
            if row.error:
                raise UserError(f"{file.root}/{file.path}, row {row.number}: {row.error}")
            yield row.number, row.values
    except BadFile as error:
        raise UserError(f"cannot read {file.root}/{file.path}: {error}") from None
