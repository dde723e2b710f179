"""Stored responses: a part that exists is done, and belongs to the settings in its footer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.records.errors import UserError
from curate.records.parts import read_footer, write_part
from curate.records.settings import difference


def part_is_done(path: Path, record: dict[str, Any]) -> bool:
    """Whether `path` was written before, with the settings `record`. Raises UserError when it was written with others."""
    if not path.exists():
        return False
    if changed := difference(read_footer(path).get("settings", {}), record):
        raise UserError(f"{path} was made with other settings ({changed}); choose another --out")
    return True


def part(path: Path, record: dict[str, Any], make: Callable[[], pa.Table]) -> Path:
    """The part `path`, made and written now unless it is done. Raises UserError when it was written with other settings."""
    if not part_is_done(path, record):
        write_part(path, make(), {"settings": record})
    return path
