"""What is known of the documents behind rewrites."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from curate.records import schemas
from curate.records.errors import UserError
from curate.records.manifest import Manifest, read_manifest
from pipelines.stage import part_files, read_table


def candidates_of(qa: Path) -> Path:
    """The folder of `curate select` that the rewrites in `qa` were made of."""
    return made_of(qa, "candidates")


def made_of(folder: Path, what: str) -> Path:
    """The folder of the stage before: where the first input of `folder` lies. Raises UserError when it was made of nothing."""
    inputs = read_manifest(folder).inputs
    if not inputs:
        raise UserError(f"{folder} was made of no {what}: nothing to go on with")
    return Path(inputs[0].root).parent


def is_adopted(manifest: Manifest) -> bool:
    """Whether these rewrites were made elsewhere and came in through `curate adopt`: then there are no candidates."""
    return manifest.engine == "adopted"


def selection_notes(qa: Path) -> dict[str, Any]:
    """What the selection says of itself (`present`, `habits`, …); of adopted rewrites, what `curate adopt` does."""
    manifest = read_manifest(qa)
    return manifest.notes if is_adopted(manifest) else read_manifest(candidates_of(qa)).notes


def sources_of(qa: Path) -> pl.LazyFrame:
    """The documents behind rewrites, one row for each (file_sha256, source_row), in the columns of the candidates.

    Of adopted rewrites only the scores are known, and only where their table has them; everything else is null.
    """
    if not is_adopted(read_manifest(qa)):
        return pl.scan_parquet([Path(file.root) / file.path for file in part_files(candidates_of(qa), "select")])
    frame, _ = read_table(qa, "rewrite")
    behaviors = [name[len("source_") : -len("_score")] for name in frame.columns if name.startswith("source_") and name.endswith("_score")]
    frame = frame.rename({f"source_{name}_score": f"{name}_score" for name in behaviors}).unique(["file_sha256", "source_row"])
    schema = schemas.candidates(behaviors)
    known = frame.select([name for name in schema.names if name in frame.columns and name not in ("error", "cell")]).to_arrow()
    columns = [
        known[item.name].cast(item.type) if item.name in known.column_names else pa.nulls(known.num_rows, item.type) for item in schema
    ]
    return pl.DataFrame(pa.table(columns, names=schema.names)).lazy()
