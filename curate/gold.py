"""Gold labels: what people said, from an audit or from a table, one row a passage."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curate.records.errors import UserError
from curate.records.manifest import FILE_NAME, read_manifest
from curate.records.settings import did_you_mean

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ("file_sha256", "source_row")
ANNOTATIONS = "annotations"


def read_gold(path: Path, behaviors: Sequence[str]) -> "pl.DataFrame":
    """Gold labels of `path`, one row a passage: `file_sha256`, `source_row` (null where it says nothing of them), `text_sha256`,
    `num_chars`, `<behavior>` (share of annotators who saw it; null where nobody was asked), `weight` (how many documents of the
    corpus the passage stands for) and `stratum`.

    `path` is the folder of `curate audit`, or a Parquet or JSONL file with a column a behavior (0, 1, or a share between) and either
    `text` or `file_sha256` and `source_row`; `weight` or `inclusion_probability`, and `stratum`, are honoured where it has them.
    Rows of weight 0 are left out. Raises UserError that names what is missing.
    """
    import polars as pl

    frame = _merged(_annotations(path)) if path.is_dir() else _table(path)
    found = [name for name in behaviors if name in frame.columns]
    if not found:
        near = next((hint for name in behaviors if (hint := did_you_mean(name, frame.columns))), "")
        raise UserError(f"the gold labels {path} have no column of a behavior ({', '.join(behaviors)}){near}")
    if not (set(IDENTITY) <= set(frame.columns) or "text" in frame.columns):
        raise UserError(f"the gold labels {path} need a column `text`, or `file_sha256` and `source_row`, to be found among the labels")
    answers = [pl.col(name).cast(pl.Float64, strict=False).alias(name) for name in found]
    frame = frame.with_columns(*answers, *[pl.lit(None, pl.Float64).alias(name) for name in behaviors if name not in found])
    for name in found:
        if not frame[name].drop_nulls().is_between(0, 1).all():
            raise UserError(f"the gold labels {path} have values outside 0 to 1 in column {name}")
    if "weight" in frame.columns:
        weight = pl.col("weight").cast(pl.Float64)
    elif "inclusion_probability" in frame.columns:
        weight = 1 / pl.col("inclusion_probability").cast(pl.Float64)
    else:
        weight = pl.lit(1.0)
    texts = frame["text"].to_list() if "text" in frame.columns else [None] * frame.height
    frame = frame.with_columns(
        weight.alias("weight"),
        pl.Series("text_sha256", [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in texts], pl.String)
        if "text_sha256" not in frame.columns
        else pl.col("text_sha256"),
        pl.Series("num_chars", [None if text is None else len(text) for text in texts], pl.Int64)
        if "num_chars" not in frame.columns
        else pl.col("num_chars"),
        *[pl.lit(None, kind).alias(key) for key, kind in zip(IDENTITY, (pl.String, pl.Int64)) if key not in frame.columns],
        (pl.col("stratum").cast(pl.String) if "stratum" in frame.columns else pl.lit("all")).fill_null("all").alias("stratum"),
    )
    if frame["weight"].is_null().any() or not (frame["weight"] >= 0).all():
        raise UserError(f"the gold labels {path} have a weight that is no number of at least 0")
    return frame.filter(pl.col("weight") > 0).select(*IDENTITY, "text_sha256", "num_chars", *behaviors, "weight", "stratum")


def is_weighted(gold: "pl.DataFrame") -> bool:
    """Whether the rows stand for different numbers of documents, or were drawn by strata."""
    return gold["weight"].n_unique() > 1 or gold["stratum"].n_unique() > 1


def _annotations(path: Path) -> "pl.DataFrame":
    """The annotations table of an audit, from the audit's folder or its own."""
    import polars as pl

    folder = path / ANNOTATIONS if (path / ANNOTATIONS / FILE_NAME).exists() else path
    manifest = read_manifest(folder)
    if manifest.stage != ANNOTATIONS:
        raise UserError(f"{path} was written by `{manifest.stage}`; gold labels are the folder of `curate audit`, or a file")
    parts = sorted((folder / "parts").glob("*.parquet"))
    frame = pl.concat([pl.read_parquet(part) for part in parts])
    if frame.height == 0:
        raise UserError(f"nobody has answered in the audit {path} yet")
    if frame["start"].is_not_null().any():
        return frame.drop(*IDENTITY)  # windows are passages of a document, not the document
    return frame


def _merged(frame: "pl.DataFrame") -> "pl.DataFrame":
    """One row an item: the share of its annotators who said yes; an unsure answer counts for neither side."""
    import polars as pl

    keys = [name for name in ("item", *IDENTITY, "text_sha256", "num_chars", "weight", "stratum") if name in frame.columns]
    about = {"item", "annotator", "seconds", "evidence_shown", "complete", "start", "end", *keys}
    answers = [name for name, kind in frame.schema.items() if kind == pl.Boolean and name not in about]
    return frame.group_by(keys, maintain_order=True).agg(*[pl.col(name).cast(pl.Float64).mean() for name in answers])


def _table(path: Path) -> "pl.DataFrame":
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_ndjson(path, infer_schema_length=None)
    except FileNotFoundError:
        raise UserError(f"there are no gold labels at {path}") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot read the gold labels {path} (Parquet, or JSONL): {reason}") from None
