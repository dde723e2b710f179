"""The datatrove steps that every pipeline begins and ends with: read chunks, write chunks.

Between them documents carry in `metadata`: `chunk` (its name), `row` (identity and carried columns), `error` (why the row cannot be
used, or None). A transform adds `rows` (0 or more rows to write), and, where they apply, `dropped`, `made` and `usage` (counts).
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from curate.reading import BadFile, Row, document_error, read_rows
from curate.records.parts import write_part
from pipelines.ledger import Chunk, Ledger

HEARTBEAT_SECONDS = 1.0
HEARTBEAT = "heartbeat-"  # a file each, no folder: jobs_status takes every folder of logs/ for a job


class ReadChunks(PipelineStep):
    """Yields one Document for every row of this task's unfinished chunks, broken rows included.

    A chunk is read completely before its first document is handed on, so a file that breaks off fails whole chunks: the file is
    recorded as failed with the reason, and the other files go on.
    """

    type = "READER"
    name = "chunks"

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger
        self.columns: tuple[str, ...] | None = None  # of Parquet files, those that are read; None: all
        # What is missing is read once, where the pipeline is made: every task then divides the same list.
        self.todo = ledger.missing()

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        mine = [chunk for chunk in self.todo[rank::world_size] if not self.ledger.is_done(chunk)]
        for file, chunks in groupby(mine, key=lambda chunk: chunk.file):
            try:
                for chunk, rows in _rows_by_chunk(list(chunks), self.columns):
                    for row in rows:
                        document = self.document(chunk, row)
                        self.update_doc_stats(document)
                        yield document
            except (BadFile, OSError) as error:
                self.ledger.record_failure(file, str(error))
                self.stat_update("failed_files")

    def document(self, chunk: Chunk, row: Row) -> Document:
        """How a row becomes a Document; overridden for other tables."""
        raise NotImplementedError


class ReadCorpus(ReadChunks):
    """Rows of a corpus, with their identity: the hash of their file and their number in it."""

    name = "corpus"

    def __init__(self, ledger: Ledger, text_key: str, id_key: str, max_chars: int) -> None:
        super().__init__(ledger)
        self.text_key, self.id_key, self.max_chars = text_key, id_key, max_chars
        self.columns = (text_key, id_key, "source", "url", "license")

    def document(self, chunk: Chunk, row: Row) -> Document:
        values = row.values
        error = row.error or document_error(values, self.text_key, self.max_chars)
        identity = {
            "file_sha256": chunk.file.sha256,
            "source_file": chunk.file.path,
            "source_row": row.number,
            "id": _text_or_none(values.get(self.id_key)),
            "source": _text_or_none(values.get("source")) or chunk.file.path,
            "url": _text_or_none(values.get("url")),
            "license": _text_or_none(values.get("license")),
        }
        text = values[self.text_key] if error is None else ""
        return Document(text=text, id=f"{chunk.name}/{row.number}", metadata={"chunk": chunk.name, "row": identity, "error": error})


class ReadTable(ReadChunks):
    """Rows of a table that another stage wrote: they carry their identity themselves."""

    name = "table"

    def document(self, chunk: Chunk, row: Row) -> Document:
        error = row.error or row.values.get("error")
        return Document(text="", id=f"{chunk.name}/{row.number}", metadata={"chunk": chunk.name, "row": row.values, "error": error})


class WriteChunks(PipelineStep):
    """Gathers the rows of each chunk and writes its part when the last one has arrived, in the order of the input.

    The footer holds the settings hash, the rows in and made, what was dropped and why, and the engine's usage.
    """

    type = "WRITER"
    name = "chunks"

    def __init__(self, ledger: Ledger, schema: pa.Schema) -> None:
        super().__init__()
        self.ledger, self.schema = ledger, schema

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        chunks = {chunk.name: chunk for chunk in self.ledger.chunks}
        waiting: dict[str, list[Document]] = {}
        heartbeat = Heartbeat(self.ledger.folder, rank)
        # When writing fails, the steps before this one are closed here: an engine that the interpreter's end would close hangs it.
        with closing(data) if hasattr(data, "close") else nullcontext():
            for document in data:
                heartbeat.count(1)
                chunk = chunks[document.metadata["chunk"]]
                document.text = ""
                gathered = waiting.setdefault(chunk.name, [])
                gathered.append(document)
                if len(gathered) == chunk.num_rows:
                    with self.track_time("chunk"):
                        self._write(chunk, waiting.pop(chunk.name))
                    heartbeat.reset()
        assert not waiting, f"rows went missing inside the pipeline: chunks {sorted(waiting)} never filled"
        yield from ()

    def _write(self, chunk: Chunk, documents: list[Document]) -> None:
        documents.sort(key=lambda document: int(document.id.rpartition("/")[2]))
        dropped: Counter[str] = Counter()
        usage: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        made = 0
        for document in documents:
            metadata = document.metadata
            rows += metadata["rows"]
            dropped.update(metadata.get("dropped", {}))
            usage.update(metadata.get("usage", {}))
            made += metadata.get("made", 0)
        errors.update(error_kind(row["error"]) for row in rows if row.get("error"))
        lost = len(documents) + made - len(rows) - sum(dropped.values())
        assert lost == 0, f"chunk {chunk.name}: {lost} rows neither written nor dropped with a reason"
        footer = {
            "stage": self.ledger.stage,
            "settings_hash": self.ledger.settings_hash,
            "rows_in": len(documents),
            "rows_made": made,
            "dropped": dict(dropped),
            "errors": dict(errors),
            "usage": dict(usage),
        }
        write_part(self.ledger.part(chunk), pa.Table.from_pylist(rows, schema=self.schema), footer)


class Heartbeat:
    """How many rows of unfinished chunks a task has done: one small file a task, for the progress bar alone."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / "logs" / f"{HEARTBEAT}{rank:05d}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rows = 0
        self._written = 0.0

    def count(self, rows: int) -> None:
        self._rows += rows
        if time.monotonic() - self._written >= HEARTBEAT_SECONDS:
            self._written = time.monotonic()
            self._path.write_text(str(self._rows))

    def reset(self) -> None:
        """A chunk was written: what counts from now on are the rows after it (a slight undercount for chunks in flight)."""
        self._rows = 0
        self._path.write_text("0")


def error_kind(error: str) -> str:
    """An error message with N for each number, so that like errors are counted together."""
    return re.sub(r"\S*\d[^\s:;,]*", "N", " ".join(error.split()))[:120]


def count_alike(errors: Iterable[str]) -> str:
    """Like errors counted together, the most frequent first: `no answer (3), time-out (1)`."""
    return ", ".join(f"{why} ({count})" for why, count in Counter(map(error_kind, errors)).most_common())


def _rows_by_chunk(chunks: list[Chunk], columns: tuple[str, ...] | None) -> Iterator[tuple[Chunk, list[Row]]]:
    """Rows of several chunks of one file in one pass, each chunk complete."""
    file = chunks[0].file
    rows = read_rows(file.root, file.path, [span for chunk in chunks for span in chunk.ranges()], columns)
    for chunk in chunks:
        gathered: list[Row] = []
        while len(gathered) < chunk.num_rows:
            row = next(rows, None)
            if row is None:
                raise BadFile(f"has fewer rows than when the stage began ({chunk.end} expected); the file has changed")
            gathered.append(row)
        yield chunk, gathered


def _text_or_none(value: Any) -> str | None:
    if value is None:
        return None
    # A lone surrogate, which JSON can hold, fits into no table.
    return str(value).encode("utf-8", "backslashreplace").decode()


def heartbeat_rows(folder: Path) -> int:
    """Rows done in chunks that are still open, over all tasks."""
    total = 0
    for path in (folder / "logs").glob(f"{HEARTBEAT}*"):
        try:
            total += int(path.read_text() or 0)
        except (OSError, ValueError):
            continue
    return total


def clear_heartbeats(folder: Path) -> None:
    """Forget what tasks of an earlier run were doing."""
    for path in (folder / "logs").glob(f"{HEARTBEAT}*"):
        os.unlink(path)
