"""`curate classify` as a pipeline: read the corpus, label, write."""

import time
from dataclasses import dataclass

from curate.behaviors import behaviors_hash, load_behaviors
from curate.classification import Classify, ClassifySettings, Labelling
from curate.corpus import find_files
from curate.records import schemas
from curate.records.command import require
from curate.records.manifest import Manifest
from curate.records.settings import to_dict
from pipelines.executors import RunOptions, execute
from pipelines.ledger import Ledger, make_chunks
from pipelines.plan import before_labelling
from pipelines.stage import begin, engine_identity, finish, score_shift, student_identity
from pipelines.steps import ReadCorpus, WriteChunks


@dataclass(frozen=True)
class Labelled:
    """A corpus of which every chunk that can be labelled is; `failed` names the files that could not be found readable."""

    ledger: Ledger
    failed: dict[str, str]
    copies: list[str]
    prompt_hash: str
    names: list[str]


def classify(settings: ClassifySettings, planned: bool = False) -> Manifest:
    """Label every document of a corpus: the probability of each behavior, of a problem and of a solution.

    Documents are read whole, in windows of whole paragraphs. In mode `score` each question costs one token; in mode `rationale` the
    judge reasons, quotes its evidence, which must stand in the document, and counts. The output folder holds one Parquet part a
    chunk; interrupt and repeat the command as you like, finished chunks are kept and each row is written exactly once. What it will
    take is printed first; where texts leave this machine, or it is much, it is asked for once (`--yes` agrees beforehand).
    """
    started = time.monotonic()
    settings = settings.resolved()
    done = label_corpus(settings, "classify", settings.labelling(), planned)
    notes = {"behaviors": done.names, "copies_skipped": done.copies, **score_shift(settings, done.names)}
    return finish(done.ledger, settings, started, done.failed, done.prompt_hash, notes)


def label_corpus(settings: ClassifySettings, stage: str, labelling: Labelling, planned: bool = False) -> Labelled:
    """Everything of a labelling stage but its manifest: plan (unless `planned` already), read what is missing, label, write parts."""
    out = require(settings.out, "out", "the folder to write to")
    method = labelling.method()
    engine_identity(settings)
    student = student_identity(settings, labelling)
    found = find_files(settings.dataset, settings.dataset_revision)
    chunks = make_chunks(found.files, settings.chunk_rows, settings.limit, settings.sample, settings.seed)
    behaviors = load_behaviors(settings.behaviors)
    hashed = {**to_dict(settings, hashed_only=True), "prompt_hash": method.hash(), "behaviors_hash": behaviors_hash(behaviors), **student}
    ledger = Ledger(out, stage, hashed, chunks)
    if not planned:
        before_labelling(stage, settings, ledger.missing(), labelling)
    begin(ledger)
    pipeline = [
        ReadCorpus(ledger, settings.text_key, settings.id_key, settings.max_chars),
        Classify(settings, labelling),
        WriteChunks(ledger, schemas.labels(method.names, cascade=settings.engine == "cascade")),
    ]
    execute(pipeline, ledger, RunOptions.of(settings))
    return Labelled(ledger, found.failed, found.copies, method.hash(), method.names)
