"""`curate rewrite` as a pipeline: read the candidates, fetch their text, rewrite, write."""

import time
from pathlib import Path

from curate.attach import AttachText
from curate.behaviors import behaviors_hash, load_behaviors
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256, read_manifest
from curate.records.settings import to_dict
from curate.rewrite_prompts import rewriting_hash
from curate.rewriting import Rewrite, RewriteSettings, check_arms
from pipelines.executors import RunOptions, execute
from pipelines.ledger import Ledger, make_chunks
from pipelines.stage import begin, engine_identity, finish, part_files
from pipelines.steps import ReadTable, WriteChunks


def rewrite(settings: RewriteSettings) -> Manifest:
    """Rewrite candidates as question, thoughts and answer, in the cells of the chosen arms.

    `pairs` writes every selected document twice: `preserve` keeps the behaviors that it shows, `strip` tells the same solution
    straight, at the same length; problem and answer are asked for once and shared. An answer that cannot be used is asked for once
    more; every outcome is counted in the manifest.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folder = require(settings.candidates, "candidates", "the output of `curate select`")
    check_arms(settings)
    behaviors = load_behaviors(settings.behaviors)
    if settings.engine != "extract":
        engine_identity(settings)
    files, text_key = corpus_of(folder)
    chunks = make_chunks(part_files(folder, "select"), settings.chunk_rows, settings.limit)
    prompt_hash = rewriting_hash(behaviors)
    hashed = {**to_dict(settings, hashed_only=True), "prompt_hash": prompt_hash, "behaviors_hash": behaviors_hash(behaviors)}
    ledger = Ledger(out, "rewrite", hashed, chunks)
    begin(ledger)
    pipeline = [ReadTable(ledger), AttachText(files, text_key), Rewrite(settings), WriteChunks(ledger, schemas.QA)]
    execute(pipeline, ledger, RunOptions.of(settings))
    notes = {"arms": settings.arms, "outcomes": outcomes(ledger)}
    return finish(ledger, settings, started, prompt_hash=None if settings.engine == "extract" else prompt_hash, notes=notes)


def outcomes(ledger: Ledger) -> dict[str, int]:
    """How often each attempt ended in each way."""
    from pipelines.ledger import sum_footers

    usage = sum_footers(ledger.part(chunk) for chunk in ledger.chunks if ledger.is_done(chunk))["usage"]
    return {key.removeprefix("outcome_"): count for key, count in sorted(usage.items()) if key.startswith("outcome_")}


def corpus_of(candidates: Path) -> tuple[list[InputFile], str]:
    """The corpus files behind a candidates folder, through its labels, checked to be unchanged; and the column of their text."""
    manifest = read_manifest(Path(read_manifest(candidates).inputs[0].root).parent)
    for file in manifest.inputs:
        path = Path(file.root) / file.path
        if not file.root.startswith("hf://"):
            if not path.is_file():
                raise UserError(f"{path}, which was labelled, is gone; put it back")
            if file_sha256(path) != file.sha256:
                raise UserError(f"{path} has changed since it was labelled: labels and corpus do not belong together")
    return manifest.inputs, manifest.settings.get("text_key", "text")
