"""`curate verify` as a pipeline: read the rewrites, label them again, write, compare with their sources."""

import time
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from curate.behaviors import behaviors_hash, load_behaviors
from curate.classification import Classify, Labelling
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import Manifest, read_manifest
from curate.records.parts import write_json
from curate.records.settings import to_dict
from curate.verification import FIDELITY_FILE, AsPassage, VerifySettings, against_gold, family, fidelity, fidelity_lines
from curate.windows import default_window_chars
from pipelines.executors import RunOptions, execute
from pipelines.ledger import Ledger, make_chunks
from pipelines.plan import before_rewriting
from pipelines.sources import candidates_of, is_adopted, made_of, selection_notes, sources_of
from pipelines.stage import begin, engine_identity, finish, part_files, read_table, student_identity
from pipelines.steps import ReadTable, WriteChunks


def verify(settings: VerifySettings) -> Manifest:
    """Label every rewrite again and report, for each cell and behavior, what was kept, lost and gained, before anything is dropped.

    The judge (`--model`) should not be the rewriter; one of the same family draws a warning that also stands in the manifest.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folder = require(settings.qa, "qa", "the output of `curate rewrite`")
    behaviors = load_behaviors(settings.behaviors)
    names = [behavior.name for behavior in behaviors]
    labelling = Labelling(settings.window_chars or default_window_chars(settings.engine), behaviors_file=settings.behaviors)
    prompt_hash = labelling.method().hash()
    check_behaviors(folder, names)
    engine_identity(settings)
    student = student_identity(settings, labelling)
    chunks = make_chunks(part_files(folder, "rewrite"), settings.chunk_rows, settings.limit)
    hashed = {**to_dict(settings, hashed_only=True), "prompt_hash": prompt_hash, "behaviors_hash": behaviors_hash(behaviors), **student}
    ledger = Ledger(out, "verify", hashed, chunks)
    before_rewriting("verify", settings, sum(chunk.num_rows for chunk in ledger.missing()))
    begin(ledger)
    schema = pa.schema(
        [
            *schemas.labels(names, settings.engine == "cascade"),
            pa.field("pair_id", pa.string()),
            pa.field("cell", pa.string()),
            pa.field("target", pa.list_(pa.string())),
        ]
    )
    pipeline = [
        ReadTable(ledger),
        AsPassage(),
        Classify(settings, labelling),
        WriteChunks(ledger, schema),
    ]
    execute(pipeline, ledger, RunOptions.of(settings))
    found = compare(out, folder, names)
    write_json(out / FIDELITY_FILE, found)
    print("\n".join(fidelity_lines(found["rows"])))
    judge, _, engine = engine_identity(settings)
    warnings = [*judge_warnings(judge or "", read_manifest(folder).model), *instrument_warnings(judge, engine, folder)]
    return finish(ledger, settings, started, prompt_hash=prompt_hash, notes={"warnings": warnings, "behaviors": names})


def check_behaviors(qa: Path, names: list[str]) -> None:
    """Raise UserError when the rewrites are to be judged for other behaviors than their sources were: nothing could be compared."""
    found = list(selection_notes(qa)["present"])
    if sorted(found) != sorted(names):
        raise UserError(f"the sources were labelled for {', '.join(found)}, not for {', '.join(names)}: use the same --behaviors")


def judge_warnings(judge: str, rewriter: str | None) -> list[str]:
    """What a reader must know about who judged whom."""
    # The judge of a cascade is the student and a language model.
    if rewriter in (None, "none") or family(rewriter) not in map(family, judge.split(" and ")):
        return []
    warning = (
        f"the judge {judge} is of the same family as the rewriter {rewriter}: it may share its blind spots; "
        "judge with another (--model; --judge-model of `curate run`)"
    )
    print(f"warning: {warning}")
    return [warning]


def instrument_warnings(judge: str | None, engine: str | None, qa: Path) -> list[str]:
    """What a reader must know when the sources were labelled by another judge than their rewrites."""
    if is_adopted(read_manifest(qa)):
        return []
    labels = made_of(candidates_of(qa), "labels")
    if not (labels / "manifest.json").is_file():  # moved away since; who labelled is then not known
        return []
    labelled = read_manifest(labels)
    if (labelled.model, labelled.engine) == (judge, engine):
        return []
    warning = (
        f"the sources were labelled by {labelled.model} ({labelled.engine}), the rewrites are judged by {judge} ({engine}): kept, lost and "
        "gained, and the filtered sets, compare two instruments at the thresholds of the first"
    )
    print(f"warning: {warning}")
    return [warning]


def compare(verified: Path, qa: Path, behaviors: list[str]) -> dict[str, Any]:
    """Fidelity of the rewrites to the target of their cells, with the thresholds that the selection used."""
    thresholds = selection_notes(qa)["present"]
    paths = sorted((verified / "parts").glob("*.parquet"))
    labels = pl.concat([pl.read_parquet(path) for path in paths])
    present = {name: thresholds[name] for name in behaviors}
    sources = sources_of(qa).select("file_sha256", "source_row", *[f"{name}_score" for name in behaviors]).collect()
    rows = fidelity(labels, sources, behaviors, present)
    made, _ = read_table(qa, "rewrite")
    truth = [column for column in made.columns if column.startswith("gold_")]
    known = labels.join(made.select("pair_id", "cell", *truth), on=["pair_id", "cell"], how="left") if truth else None
    return {
        "thresholds": present,
        "judged": labels.height,
        "errors": int(labels["error"].is_not_null().sum()),
        "rows": rows,
        "judge": [] if known is None else against_gold(known, behaviors, present),
    }
