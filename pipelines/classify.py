"""`curate classify` as a pipeline: read the corpus, label, write."""

import time

from curate.behaviors import behaviors_hash, load_behaviors
from curate.classification import Classify, ClassifySettings
from curate.corpus import find_files
from curate.records import schemas
from curate.records.command import require
from curate.records.manifest import Manifest
from curate.records.settings import to_dict
from pipelines.executors import RunOptions, execute
from pipelines.ledger import Ledger, make_chunks
from pipelines.stage import begin, engine_identity, finish
from pipelines.steps import ReadCorpus, WriteChunks


def classify(settings: ClassifySettings) -> Manifest:
    """Label every document of a corpus: the probability of each behavior, of a problem and of a solution.

    Documents are read whole, in windows of whole paragraphs. In mode `score` each question costs one token; in mode `rationale` the
    judge reasons, quotes its evidence, which must stand in the document, and counts. The output folder holds one Parquet part a
    chunk; interrupt and repeat the command as you like, finished chunks are kept and each row is written exactly once.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    behaviors = load_behaviors(settings.behaviors)
    labelling = settings.labelling()
    prompt_hash = labelling.method().hash()
    engine_identity(settings)
    found = find_files(settings.dataset, settings.dataset_revision)
    chunks = make_chunks(found.files, settings.chunk_rows, settings.limit, settings.sample, settings.seed)
    hashed = {**to_dict(settings, hashed_only=True), "prompt_hash": prompt_hash, "behaviors_hash": behaviors_hash(behaviors)}
    ledger = Ledger(out, "classify", hashed, chunks)
    begin(ledger)
    pipeline = [
        ReadCorpus(ledger, settings.text_key, settings.id_key, settings.max_chars),
        Classify(settings, labelling),
        WriteChunks(ledger, schemas.labels([behavior.name for behavior in behaviors])),
    ]
    execute(pipeline, ledger, RunOptions.of(settings))
    notes = {"behaviors": [behavior.name for behavior in behaviors], "copies_skipped": found.copies}
    return finish(ledger, settings, started, found.failed, prompt_hash, notes)
