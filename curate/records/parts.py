"""Files that either exist completely or not at all.

A part is written to a temporary name beside its own, fsynced and renamed, so the file that exists is the record that it is done:
no database, nothing to lock, safe on network disks. Leftovers of a killed writer end in `.tmp` and are never read.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.errors import UserError, output_error

FOOTER_KEY = b"fourhabits"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under `path` only when the block ends well. Raises OutputError when the disk refuses."""
    # Two nodes of a cluster may write the same part under the same process id: after a requeue, or in two jobs at once.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        _discard(temporary)
        raise output_error(path, error) from error
    except BaseException:
        _discard(temporary)
        raise


def _discard(temporary: Path) -> None:
    # What went wrong may also keep us from tidying up; the user must hear of the first, not of this.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False).encode() + b"\n")


def write_part(path: Path, table: pa.Table, footer: Mapping[str, Any] | None = None) -> None:
    """Write `table` as Parquet, atomically, with `footer` (JSON) in its metadata under the key `fourhabits`."""
    metadata = dict(table.schema.metadata or {})
    if footer is not None:
        metadata[FOOTER_KEY] = json.dumps(footer, ensure_ascii=False).encode()
    with atomic_file(path) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")


def read_footer(path: Path) -> dict[str, Any]:
    """The footer that `write_part` stored; empty for a Parquet file that somebody else made. Raises UserError when it is damaged."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata.get(FOOTER_KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the part {path} is damaged ({reason}): remove it and run the same command again") from None
