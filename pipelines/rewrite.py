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
from pipelines.plan import before_rewriting
from pipelines.stage import begin, engine_identity, finish, part_files
from pipelines.steps import ReadTable, WriteChunks


def rewrite(settings: RewriteSettings) -> Manifest:
    """Rewrite candidates as question, thoughts and answer, in the cells of the chosen arms.

    `pairs` writes every selected document twice: `preserve` keeps the behaviors that it shows, `strip` tells the same solution
    straight, at the same length; problem and answer are asked for once and shared. `2x2` does this, and writes every free document
    twice too: as it is, and with behaviors worked in (`inject`). When the selection was made for some habits alone, the rewrites
    keep, or get, only those. An answer that cannot be used is asked for once more; every outcome is counted in the manifest.
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
    habits = habits_of(folder, [behavior.name for behavior in behaviors])
    prompt_hash = rewriting_hash(behaviors, habits)
    hashed = {**to_dict(settings, hashed_only=True), "prompt_hash": prompt_hash, "behaviors_hash": behaviors_hash(behaviors)}
    ledger = Ledger(out, "rewrite", hashed, chunks)
    before_rewriting("rewrite", settings, sum(chunk.num_rows for chunk in ledger.missing()))
    begin(ledger)
    pipeline = [ReadTable(ledger), AttachText(files, text_key), Rewrite(settings, habits), WriteChunks(ledger, schemas.QA)]
    execute(pipeline, ledger, RunOptions.of(settings))
    notes = {"arms": settings.arms, "habits": habits, "outcomes": outcomes(ledger)}
    return finish(ledger, settings, started, prompt_hash=None if settings.engine == "extract" else prompt_hash, notes=notes)


def habits_of(candidates: Path, behaviors: list[str]) -> list[str]:
    """The behaviors that the selection was made for. Raises UserError when the rewriter is to know others than the labels did."""
    notes = read_manifest(candidates).notes
    labelled, habits = notes.get("behaviors", behaviors), notes.get("habits", behaviors)
    if unknown := [name for name in labelled if name not in behaviors]:
        raise UserError(f"the documents were labelled for {unknown[0]!r}, which is not defined here: use the same --behaviors")
    return habits


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
