"""What every chunked stage does before and after its pipeline: plan, refuse what does not belong, count, write the manifest."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from curate.engines.settings import STUDENT_ENGINES, STUDENT_NAME, EngineSettings
from curate.records.errors import PartialFailure, UserError, output_error
from curate.records.manifest import InputFile, Manifest, json_sha256, read_manifest
from curate.records.parts import read_footer, write_part
from curate.records.settings import difference, to_dict
from pipelines.ledger import Ledger, sum_footers


def begin(ledger: Ledger) -> None:
    """Make the folder and the plan. Raises OutputError when it cannot be written, UserError when it holds something else."""
    try:
        ledger.folder.mkdir(parents=True, exist_ok=True)
        for path in (ledger.folder / "failures").glob("*.json"):
            path.unlink()  # a file that was broken may have been mended: it gets another try
    except OSError as error:
        raise output_error(ledger.folder, error) from None
    ledger.open()


def finish(
    ledger: Ledger,
    settings: Any,
    started: float,
    failed: dict[str, str] | None = None,
    prompt_hash: str | None = None,
    notes: dict[str, Any] | None = None,
) -> Manifest:
    """Write the manifest from the footers of the parts. Raises PartialFailure, after writing it, when files failed."""
    failures = {**(failed or {}), **ledger.failures()}
    parts = [ledger.part(chunk) for chunk in ledger.chunks if ledger.is_done(chunk)]
    total = sum_footers(parts)
    earlier = read_manifest(ledger.folder).seconds if (ledger.folder / "manifest.json").exists() else 0.0
    model, revision, engine = engine_identity(settings)
    manifest = Manifest(
        stage=ledger.stage,
        settings=to_dict(settings),
        inputs=list({chunk.file.sha256: chunk.file for chunk in ledger.chunks}.values()),
        rows_in=total["rows_in"],
        rows_made=total["rows_made"],
        rows_out=total["rows_out"],
        dropped=total["dropped"],
        errors=total["errors"],
        failed_files=failures,
        prompt_hash=prompt_hash,
        model=model,
        revision=revision,
        engine=engine,
        seed=getattr(settings, "seed", None),
        tokens={key: count for key, count in total["usage"].items() if key.endswith("tokens")},
        seconds=round(earlier + time.monotonic() - started, 3),
        notes={**(notes or {}), "requests": total["usage"].get("requests", 0), **_nested(total["usage"])},
    )
    manifest.write(ledger.folder)
    for leftover in [*ledger.folder.glob("*.tmp"), *(ledger.folder / "parts").glob("*.tmp")]:
        leftover.unlink(missing_ok=True)  # of writers that were killed; every chunk that can be done is done
    if failures:
        listed = "; ".join(f"{path}: {reason}" for path, reason in failures.items())
        raise PartialFailure(f"{len(failures)} file(s) failed, everything else is done in {ledger.folder}: {listed}")
    return manifest


def _nested(usage: dict[str, int]) -> dict[str, dict[str, int]]:
    """Counts named `what/which` as {what: {which: count}}."""
    nested: dict[str, dict[str, int]] = {}
    for key, count in usage.items():
        what, slash, which = key.partition("/")
        if slash:
            nested.setdefault(what, {})[which] = count
    return nested


def engine_identity(settings: Any) -> tuple[str | None, str | None, str | None]:
    """(model, revision, engine) for a manifest; checks early that the model exists and, when it is to run here, can."""
    if not isinstance(settings, EngineSettings):
        return None, None, None
    if settings.engine == "extract":  # no model takes part, whatever --model says
        return None, None, settings.engine
    if settings.engine in STUDENT_ENGINES:
        from curate.student.model import student_revision

        revision = student_revision(settings.student)
        if settings.engine == "student":
            return STUDENT_NAME, revision, settings.engine
        model, judge_revision, _ = engine_identity(replace(settings, engine=settings.cascade_engine))
        return f"{STUDENT_NAME} and {model}", f"{revision} and {judge_revision}", settings.engine
    if settings.engine != "vllm":
        return settings.model, settings.revision, settings.engine
    from curate.engines.models import resolve_model

    here = getattr(settings, "executor", "local") == "local"
    source = resolve_model(settings.model, settings.revision, settings.trust_remote_code, here)
    return source.name, source.revision, settings.engine


def student_identity(settings: EngineSettings, labelling: Any) -> dict[str, str]:
    """What a stage's settings hash must hold of the student, if it takes part; checks early that it can do what is asked."""
    if settings.engine not in STUDENT_ENGINES:
        return {}
    from curate.student.labelling import check_student
    from curate.student.model import student_revision

    check_student(settings, labelling)
    return {"student_revision": student_revision(settings.student)}


def score_shift(settings: EngineSettings, behaviors: Sequence[str]) -> dict[str, dict[str, float]]:
    """For a manifest: what the student, if it takes part, adds to log-odds for its scores (see its card), by behavior."""
    if settings.engine not in STUDENT_ENGINES:
        return {}
    from curate.student.model import load_student

    student = load_student(settings.student)
    return {"score_shift": {name: float(student.weights["shift"][student.targets.index(name)]) for name in behaviors}}


def part_files(folder: Path, stage: str | None = None) -> list[InputFile]:
    """The parts of a finished stage as input files, in a stable order. Raises UserError when the stage is unfinished or another one."""
    import pyarrow.parquet as pq

    from curate.records.manifest import file_sha256

    manifest = read_manifest(folder)
    if stage is not None and manifest.stage != stage:
        inside = [path.parent for path in sorted(folder.glob("*/manifest.json")) if read_manifest(path.parent).stage == stage]
        hint = f": {inside[0]}" if inside else ""
        raise UserError(f"{folder} was written by `{manifest.stage}`; the output of `{stage}` is needed here{hint}")
    parts = sorted((folder / "parts").glob("*.parquet"))
    for part in parts:
        read_footer(part)  # a damaged part is named
    rows = [pq.read_metadata(part).num_rows for part in parts]
    if sum(rows) != manifest.rows_out:
        raise UserError(f"{folder} holds {sum(rows)} rows but its manifest says {manifest.rows_out}; run `curate {manifest.stage}` again")
    root = str((folder / "parts").resolve())
    return [InputFile(part.name, file_sha256(part), count, part.stat().st_size, root) for part, count in zip(parts, rows, strict=True)]


def read_table(folder: Path, stage: str) -> tuple[Any, list[InputFile]]:
    """All rows of a finished stage as a polars frame, with the files they came from."""
    import polars as pl

    files = part_files(folder, stage)
    frames = [pl.read_parquet(Path(file.root) / file.path) for file in files]
    if not frames:
        raise UserError(f"{folder} holds no rows: nothing to go on with")
    return pl.concat(frames), files


def write_table(
    out: Path,
    stage: str,
    settings: Any,
    table: Any,
    files: list[InputFile],
    rows_in: int,
    dropped: dict[str, int],
    started: float,
    notes: dict[str, Any] | None = None,
    rows_made: int = 0,
    name: str = "part",
    shard_rows: int | None = None,
    also_hashed: dict[str, Any] | None = None,
) -> Manifest:
    """Write the output of a stage that fits in memory: its parts and the manifest. A folder with other settings is refused.

    `also_hashed` names what changes the result and is neither a setting nor an input.
    The table is one part, or as many equal ones as it takes for none to have more than `shard_rows` rows.
    """
    hashed = hashed_of(settings, files, also_hashed)
    refuse_other(out, stage, hashed)
    footer = {"stage": stage, "settings_hash": json_sha256(hashed)}
    shards = max(1, -(-table.num_rows // shard_rows)) if shard_rows else 1
    names = [f"{name}.parquet"] if shards == 1 else [f"{name}-{number:05d}-of-{shards:05d}.parquet" for number in range(shards)]
    for path in (out / "parts").glob("*.parquet"):
        if path.name not in names:
            path.unlink()  # of an earlier version that cut otherwise: settings and inputs are the same
    for number, shard in enumerate(names):
        start, end = (table.num_rows * edge // shards for edge in (number, number + 1))
        write_part(out / "parts" / shard, table.slice(start, end - start), footer)
    manifest = Manifest(
        stage=stage,
        settings=to_dict(settings),
        inputs=files,
        rows_in=rows_in,
        rows_made=rows_made,
        rows_out=table.num_rows,
        dropped=dropped,
        seed=getattr(settings, "seed", None),
        seconds=round(time.monotonic() - started, 3),
        notes={**(notes or {}), "settings_hash": footer["settings_hash"], "hashed": hashed},
    )
    manifest.write(out)
    return manifest


def hashed_of(settings: Any, files: list[InputFile], also_hashed: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the output of such a stage depends on: settings, the content of its inputs, and what else is named."""
    return {**to_dict(settings, hashed_only=True), "inputs": sorted(file.sha256 for file in files), **(also_hashed or {})}


def refuse_other(out: Path, stage: str, hashed: dict[str, Any]) -> None:
    """Raise UserError when `out` holds another stage, or this one made with other settings or inputs."""
    if not (out / "manifest.json").exists():
        return
    old = read_manifest(out)
    before = old.notes.get("hashed", {})
    if old.stage != stage:
        raise UserError(f"{out} holds the output of `{old.stage}`; use another --out")
    if before != hashed:
        raise UserError(f"{out} was made with other settings ({difference(before, hashed)}); use them, or another --out")
