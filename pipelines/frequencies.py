"""`curate frequencies` as a command: labels in (or made first), a table of prevalences out."""

import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from curate.classification import ClassifySettings
from curate.gold import read_gold
from curate.prevalence import FrequenciesSettings, corrected_by_corpus, corrected_from_elsewhere, match_gold, origin, warnings
from curate.prevalence import frequencies as estimate
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256, read_manifest
from pipelines.classify import classify
from pipelines.stage import hashed_of, read_table, refuse_other, write_table

TABLE = pa.schema(
    [
        *[pa.field(name, pa.string(), nullable=False) for name in ("behavior", "estimate")],
        *[pa.field(name, pa.float64()) for name in ("value", "low", "high")],
        pa.field("corrected", pa.bool_()),
        *[pa.field(name, pa.int64()) for name in ("documents", "gold")],
        *[pa.field(name, pa.float64()) for name in ("gold_positive", "effective", "threshold", "sensitivity", "specificity")],
        pa.field("note", pa.string()),
    ]
)


def frequencies(settings: FrequenciesSettings) -> Manifest:
    """How often each behavior occurs, with 95 % intervals, corrected for the judge's errors by gold labels where there are any.

    `--labels` counts labels that exist; without it `--dataset` is labelled first, as by `curate classify` and with all its options:
    `--dataset openwebmath --sample 200000` is the study of the paper, on rows drawn uniformly from all. Estimates: `naive` (share at
    or above --threshold) and `mean` (probability; the student's, from which its score is moved) are the judge's; `ppi` is
    prediction-powered by gold labels of this corpus (their weights honoured); `rogan-gladen` uses the judge's sensitivity and
    specificity on gold labels from elsewhere.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    if settings.gold is not None and not settings.gold.exists():
        raise UserError(f"there are no gold labels at {settings.gold}")
    folder = label_first(settings, out) if settings.labels is None else refuse_both(settings)
    labels, files = read_table(folder, "classify")
    behaviors = schemas.behaviors_in(labels.to_arrow().schema)
    rows = estimate(labels, behaviors, settings.threshold, read_manifest(folder).notes.get("score_shift"))
    notes: list[str] = []
    if settings.gold is not None:
        gold = read_gold(settings.gold, behaviors)
        corrected, kind = correct(settings, out, gold, labels, behaviors)
        notes = warnings(gold, labels, kind, corrected)
        rows += corrected
        files = [*files, *gold_files(settings.gold)]
    refuse_other(out, "frequencies", hashed_of(settings, files))
    rows.sort(key=lambda row: behaviors.index(row["behavior"]))
    show(rows, settings, notes)
    table = pa.Table.from_pylist(rows, schema=TABLE)
    about = {"warnings": notes}
    return write_table(
        out, "frequencies", settings, table, files, labels.height, {"summarised": labels.height}, started, about, rows_made=len(rows)
    )


def label_first(settings: FrequenciesSettings, out: Path) -> Path:
    """Label the dataset as `curate classify` does, into a folder below `out`, and return it."""
    classify(replace(classify_settings(settings), out=out / "labels"))
    return out / "labels"


def classify_settings(settings: FrequenciesSettings) -> ClassifySettings:
    return ClassifySettings(**{item.name: getattr(settings, item.name) for item in fields(ClassifySettings)})


def refuse_both(settings: FrequenciesSettings) -> Path:
    """--labels, after checking that nothing was asked for that only a labelling could use."""
    given = [
        item.name for item in fields(ClassifySettings) if item.name not in ("out", "seed") and getattr(settings, item.name) != item.default
    ]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"--labels takes labels that exist; {names} would change how they are made: leave one or the other out")
    assert settings.labels is not None
    return settings.labels


def correct(
    settings: FrequenciesSettings, out: Path, gold: pl.DataFrame, labels: pl.DataFrame, behaviors: list[str]
) -> tuple[list[dict[str, Any]], str]:
    """Corrected rows, and where the gold passages come from (`corpus` or `elsewhere`)."""
    matched = match_gold(gold, labels, behaviors)
    kind = origin(gold, matched, settings.gold_from)
    if kind == "corpus":
        return corrected_by_corpus(labels, matched, behaviors, settings.threshold), kind
    judged = match_gold(gold, read_table(gold_labels(settings, out), "classify")[0], behaviors)
    if judged.height == 0:
        raise UserError(f"none of the gold passages stands among {settings.gold_labels or out / 'gold-labels'}: label the gold file itself")
    return corrected_from_elsewhere(labels, judged, behaviors, settings.threshold), kind


def gold_labels(settings: FrequenciesSettings, out: Path) -> Path:
    """Labels of gold passages from elsewhere by the same judge: --gold-labels, or made now with the settings of the labelling."""
    if settings.gold_labels is not None:
        return settings.gold_labels
    assert settings.gold is not None
    if settings.labels is not None or settings.gold.is_dir():
        raise UserError(
            "these gold passages are not of this corpus, so the judge must label them too: `curate classify --from-manifest "
            f"{settings.labels or out / 'labels'} --dataset GOLD.parquet --out DIR`, then --gold-labels DIR"
        )
    target = out / "gold-labels"
    one = replace(classify_settings(settings), dataset=(str(settings.gold),), dataset_revision=None, sample=None, limit=None)
    classify(replace(one, text_key="text", out=target))
    return target


def gold_files(path: Path) -> list[InputFile]:
    """What was read as gold, with hashes."""
    found = [path] if path.is_file() else sorted(path.glob("**/parts/*.parquet"))
    return [InputFile(str(item.relative_to(path.parent)), file_sha256(item), 0, item.stat().st_size, str(path.parent)) for item in found]


def show(rows: list[dict[str, Any]], settings: FrequenciesSettings, notes: list[str]) -> None:
    for row in rows:
        value = "   ?  " if row["value"] is None else f"{row['value']:.4f}"
        of = f"{row['documents']} documents" + (f", {row['gold']} gold labels" if row["corrected"] else "")
        print(f"{row['behavior']:20} {row['estimate']:12} {value}  [{row['low']:.4f}, {row['high']:.4f}] of {of}")
    for line in notes:
        print(f"note: {line}")
    if settings.gold is None:
        print("not corrected for the judge's errors: no gold labels were given (--gold)")
