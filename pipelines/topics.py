"""`curate topics` as a pipeline: fit on a sample, then read labels, fetch their text, assign, write."""

import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from curate.attach import AttachText, fetch_rows
from curate.matching_strata import order_keys
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256, read_manifest
from curate.records.parts import write_json
from curate.records.settings import to_dict
from curate.topic_clusters import AssignTopics, TopicModel, TopicsSettings, check_text, default_topics, fit_topics, read_model
from pipelines.executors import RunOptions, execute
from pipelines.ledger import Ledger, make_chunks
from pipelines.stage import begin, finish, part_files
from pipelines.steps import ReadTable, WriteChunks

MODEL_FILE = "topics.json"
TABLE = pa.schema([*schemas.IDENTITY, pa.field("topic", pa.string()), pa.field("difficulty", pa.float32())])


def topics(settings: TopicsSettings) -> Manifest:
    """Give every labelled document a topic and a difficulty, for `curate select --topics`.

    Topics are clusters of TF-IDF vectors, made from a sample drawn by content and stored as `topics.json`; difficulty is a readability
    grade of the prose. Takes labels, or candidates where only those matter; the text is read from the corpus that was labelled and
    checked against its hash.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folder = require(settings.labels, "labels", "the output of `curate classify` or `curate select`")
    manifest = read_manifest(folder)
    if manifest.stage not in ("classify", "select"):
        raise UserError(f"{folder} was written by `{manifest.stage}`; the output of `classify` or `select` is needed here")
    labelled = manifest if manifest.stage == "classify" else read_manifest(Path(manifest.inputs[0].root).parent)
    text_key = labelled.settings.get("text_key", "text")
    parts = part_files(folder)
    if not parts:
        raise UserError(f"{folder} holds no rows: nothing to go on with")
    hashed = {**to_dict(settings, hashed_only=True), "inputs": sorted(file.sha256 for file in parts)}
    ledger = Ledger(out, "topics", hashed, make_chunks(parts, settings.chunk_rows))
    begin(ledger)
    if not (out / MODEL_FILE).exists():
        write_json(out / MODEL_FILE, fit(parts, labelled.inputs, text_key, settings).to_json())
    pipeline = [ReadTable(ledger), AttachText(labelled.inputs, text_key), AssignTopics(out / MODEL_FILE), WriteChunks(ledger, TABLE)]
    execute(pipeline, ledger, RunOptions(settings.executor, settings.tasks, settings.slurm))
    made = read_model(out / MODEL_FILE)
    print(f"{len(made.names)} topics: {', '.join(made.names)}")
    return finish(ledger, settings, started, notes={"topics": made.names, "model_sha256": file_sha256(out / MODEL_FILE)})


def fit(parts: Sequence[InputFile], corpus: Sequence[InputFile], text_key: str, settings: TopicsSettings) -> TopicModel:
    """The topics of a sample of the labelled documents, drawn by the hash of their text."""
    table = pl.scan_parquet([Path(file.root) / file.path for file in parts]).filter(pl.col("error").is_null())
    rows = table.select("file_sha256", "source_file", "source_row", "text_sha256").collect(engine="streaming")
    if not rows.height:
        raise UserError("no topics can be made: every labelled document has an error")
    drawn = rows.with_columns(pl.Series("_key", order_keys(rows["text_sha256"], settings.seed)))
    drawn = drawn.sort("_key", "file_sha256", "source_row").head(settings.fit_documents)
    wanted = list(zip(drawn["file_sha256"], drawn["source_row"], strict=True))
    found = fetch_rows({file.sha256: file for file in corpus}, wanted, (text_key,))
    texts = []
    for row, identity in zip(drawn.iter_rows(named=True), wanted, strict=True):
        text = found[identity].get(text_key) or ""
        check_text(row, text)
        texts.append(text)
    return fit_topics(texts, settings.num_topics or default_topics(rows.height), settings.seed)
