"""`curate classify` as a pipeline: read the corpus, label, write."""

import time

from curate.behaviors import behaviors_hash, load_behaviors
from curate.classification import Classify, ClassifySettings
from curate.corpus import find_files
from curate.prompts import ScoringPrompts
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

    Documents are read whole, in windows of whole paragraphs; each question costs one token. The output folder holds one Parquet part
    a chunk; interrupt and repeat the command as you like, finished chunks are kept and each row is written exactly once.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    behaviors = load_behaviors(settings.behaviors)
    prompts = ScoringPrompts(behaviors)
    engine_identity(settings)
    found = find_files(settings.dataset, settings.dataset_revision)
    chunks = make_chunks(found.files, settings.chunk_rows, settings.limit, settings.sample, settings.seed)
    hashed = {**to_dict(settings, hashed_only=True), "prompt_hash": prompts.hash(), "behaviors_hash": behaviors_hash(behaviors)}
    ledger = Ledger(out, "classify", hashed, chunks)
    begin(ledger)
    pipeline = [
        ReadCorpus(ledger, settings.text_key, settings.id_key, settings.max_chars),
        Classify(settings, settings.window_chars, settings.windows, settings.behaviors),
        WriteChunks(ledger, schemas.labels([behavior.name for behavior in behaviors])),
    ]
    execute(pipeline, ledger, RunOptions.of(settings))
    notes = {"behaviors": [behavior.name for behavior in behaviors], "copies_skipped": found.copies}
    return finish(ledger, settings, started, found.failed, prompts.hash(), notes)
