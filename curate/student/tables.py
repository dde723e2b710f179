"""Labelled windows as tables: read, put together with their texts, checked."""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.corpus import find_files
from curate.reading import read_rows
from curate.records.errors import UserError
from curate.records.manifest import InputFile
from curate.student.distillation import Windows, evidence_sentences
from curate.student.features import Extractor
from curate.student.model import QUESTIONS
from curate.student.settings import SHIPPED, DistillSettings

if TYPE_CHECKING:
    import polars as pl

LABELS_FILE = "labels.parquet"
LEAST_SHOWING = 20  # windows that show a behavior: fewer teach nothing


def read_windows(settings: DistillSettings, names: Sequence[str]) -> tuple["pl.DataFrame", list[InputFile]]:
    """One row a window with its text. Raises UserError for missing columns, texts that are not found, or too few windows."""
    import polars as pl

    inputs = find_files([shipped_labels() if name == SHIPPED else name for name in settings.windows])
    for path, reason in inputs.failed.items():
        raise UserError(f"cannot read {path}: {reason}")
    frames = []
    for file in inputs.files:
        frame = pl.read_parquet(Path(file.root) / file.path)
        missing = [name for name in (*names, *QUESTIONS, "doc", "source") if name not in frame.columns]
        if missing:
            raise UserError(f"{file.path} has no column {', '.join(missing)}: a student is taught what its windows are labelled for")
        if "text" not in frame.columns:
            frame = add_texts(frame, settings, file.path)
        frames.append(frame)
    windows = pl.concat(frames, how="diagonal_relaxed")
    for name in names:
        showing = int((windows[name] >= 0.5).sum())
        if showing < LEAST_SHOWING or showing == windows.height:
            raise UserError(
                f"{showing} of {windows.height} windows show {name}: a student needs at least {LEAST_SHOWING}, and some that do not"
            )
    return windows, inputs.files


def shipped_labels() -> str:
    return str(files("curate").joinpath("student", LABELS_FILE))


def add_texts(frame: "pl.DataFrame", settings: DistillSettings, name: str) -> "pl.DataFrame":
    """Add `text`, cut from the documents of --corpus by `doc`, `start`, `end`; each document is checked against `text_sha256`."""
    import polars as pl

    if not settings.corpus:
        raise UserError(
            f"the windows of {name} have no text: --corpus names the documents that they were cut from (see the student's card)"
        )
    wanted = dict(frame.select("doc", "text_sha256").unique().iter_rows())
    texts: dict[str, str] = {}
    for file in find_files(settings.corpus).files:
        for row in read_rows(file.root, file.path, [(0, file.rows)], (settings.id_key, settings.text_key)):
            key, text = str(row.values.get(settings.id_key)), row.values.get(settings.text_key)
            if key in wanted and isinstance(text, str) and hashlib.sha256(text.encode()).hexdigest() == wanted[key]:
                texts[key] = text
    lost = [key for key in wanted if key not in texts]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(wanted)} documents of {name} are not in --corpus, or differ from what was labelled (first: {lost[0]})"
        )
    cut = [texts[doc][start:end] for doc, start, end in frame.select("doc", "start", "end").iter_rows()]
    return frame.with_columns(pl.Series("text", cut))


def labelled_windows(frame: "pl.DataFrame", names: Sequence[str]) -> Windows:
    """Features and labels of `frame`, see Windows."""
    texts = frame["text"].to_list()
    where = Extractor().extract(texts)
    labels = np.stack([frame[name].cast(float).fill_null(float("nan")).to_numpy() for name in (*names, *QUESTIONS)], axis=1)
    spans: list[list[tuple[int, int, int]]] = [[] for _ in texts]
    if "evidence" in frame.columns:
        for number, quotes in enumerate(frame["evidence"].to_list()):
            spans[number] = [
                (names.index(quote["behavior"]), quote["start"], quote["end"]) for quote in quotes or () if quote["behavior"] in names
            ]
    weight: Any = frame["weight"].fill_null(1.0).to_numpy() if "weight" in frame.columns else np.ones(len(texts))
    return Windows(
        behaviors=tuple(names),
        sentences=where,
        evidence=evidence_sentences(where, spans, len(names)),
        labels=labels,
        weight=weight,
        group=frame["doc"].to_numpy(),
        source=frame["source"].fill_null("").to_numpy(),
        length=np.array([len(text) for text in texts]),
    )
