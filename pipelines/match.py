"""`curate match` as a command: rewrites in, one folder an arm out."""

import json
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate.arms import ARM_DESIGNS
from curate.contrasts import contrast_lines
from curate.dose import check_dose
from curate.matching import MatchSettings, load_tokenizer
from curate.matching_budget import choose_blocks
from curate.matching_strata import check_match_on
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256, json_sha256, read_manifest
from curate.records.parts import write_json
from curate.selection import keep
from curate.verification import FIDELITY_FILE, faithful
from pipelines.balance import balance, tokens_of
from pipelines.blocks import differences_of, make_blocks, shortfall, versions, ways_out
from pipelines.cleaning import Log, clean
from pipelines.dosing import dosed
from pipelines.sources import candidates_of, is_adopted
from pipelines.stage import hashed_of, part_files, read_table, refuse_other, write_table
from pipelines.usable import add_labels, add_text, usable

BALANCE_FILE = "balance.json"
FILTERED = "filtered"


def match(settings: MatchSettings) -> Manifest:
    """Make the sets: the same number of examples and, within the tolerance, of tokens in every arm.

    Near-duplicates and evaluation problems are taken out. Versions of one document enter together or not at all; documents of
    different kinds are paired inside strata of what was fixed before rewriting. Whatever does not enter is counted with its reason;
    what remains unequal stands in `balance.json`. Verified rewrites make a second, smaller collection of sets in `filtered/`: only
    documents all of whose versions show what they should. It conditions on the outcome of the rewriting, so the unfiltered one is
    primary.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folder = require(settings.qa, "qa", "the output of `curate rewrite`")
    match_on = check_match_on(settings.match_on)
    tokenizer = load_tokenizer(settings.tokenizer)
    qa, files = read_table(folder, "rewrite")
    manifest = read_manifest(folder)
    kind = "extract" if manifest.engine == "extract" else manifest.notes.get("arms") or manifest.settings["arms"]
    design = ARM_DESIGNS[kind]
    check_dose(settings.dose, design, kind)
    files = [*files, *read_besides(folder, manifest, settings)]
    identity = identity_of(settings, tokenizer)
    for arm in design.arms:
        refuse_other(out / arm, "match", hashed_of(settings, files, identity))
    log = Log()
    frame = usable(add_labels(qa, folder, settings.verified), design, folder, settings.seed, log)
    frame = clean(add_text(frame, tokenizer, settings.count), settings, log)
    before = deepcopy(log)
    made = make_sets(frame, kind, settings, match_on, qa.height, log)
    print("\n".join(contrast_lines(kind)))
    made.notes |= filtered_sets(frame, kind, settings, match_on, files, qa.height, before, out / FILTERED, identity)
    return write_sets(out, settings, made, files, qa.height, log, started, kind, identity)


def read_besides(folder: Path, rewritten: Manifest, settings: MatchSettings) -> list[InputFile]:
    """The files other than the rewrites whose content enters the sets: the candidates' covariates, the labels of the rewrites."""
    files = [] if is_adopted(rewritten) else part_files(candidates_of(folder), "select")
    return files if settings.verified is None else [*files, *part_files(settings.verified, "verify")]


def identity_of(settings: MatchSettings, tokenizer: Any) -> dict[str, Any]:
    """What the sets depend on beside settings and inputs: the texts they are held against, the judge's thresholds, the tokenizer."""
    named = [Path(path) for path in (*settings.decontaminate, *settings.countdown_tasks)]
    fidelity = settings.verified / FIDELITY_FILE if settings.verified else None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "held_against": sorted(file_sha256(path) for path in named if path.is_file()),
        "thresholds": json.loads(fidelity.read_text())["thresholds"] if fidelity and fidelity.is_file() else None,
        "tokenizer_sha256": json_sha256(backend.to_str() if backend is not None else tokenizer.get_vocab()),
    }


@dataclass
class Sets:
    """One frame an arm, the balance table, and what goes into the notes of the manifest."""

    arms: list[pl.DataFrame]
    balance: dict[str, Any]
    notes: dict[str, Any]


def make_sets(frame: pl.DataFrame, kind: str, settings: MatchSettings, match_on: Sequence[str], rows_in: int, log: Log) -> Sets:
    """Match the versions and choose what enters. Raises UserError when nothing can, with the reasons and what would help."""
    design = ARM_DESIGNS[kind]
    families = [versions(frame, cells, settings, log) for cells in design.families]
    blocks = make_blocks(families, design, settings, match_on, log)
    if not blocks[0].height:
        raise UserError(f"no pair can be made of the {rows_in} rewrites ({log.reasons()}); {ways_out(families, design, settings)}")
    tokens = np.stack([arm["num_loss_tokens"].to_numpy() for arm in blocks])
    order = np.argsort(blocks[0]["_key"].to_numpy(), kind="stable").tolist()
    choice = choose_blocks(tokens, order, settings.budget_tokens, settings.tolerance, differences_of(families, blocks, match_on))
    if not choice.chosen:
        raise UserError(
            f"no pair fits into --budget-tokens {settings.budget_tokens}: the shortest has {int(tokens.max(axis=0).min())} tokens"
        )
    log.drop("over the budget, or taken out to even the tokens", len(blocks) * (blocks[0].height - len(choice.chosen)))
    sets = [arm[sorted(choice.chosen)].sort("block_id") for arm in blocks]
    sets, carriers = dosed(sets, design, settings)
    totals = tuple(tokens_of(sets, design).values())
    log.warnings += shortfall(totals, len(choice.chosen), families, design, settings)
    before = [version for family in families for version in family]
    table = balance(before, sets, design, match_on, settings, log)
    for warning in log.warnings:
        print(f"note: {warning}")
    return Sets([arm.drop("_key", "rewrite_evidence", strict=False) for arm in sets], table, {"carriers": carriers})


def filtered_sets(
    frame: pl.DataFrame,
    kind: str,
    settings: MatchSettings,
    match_on: Sequence[str],
    files: list[InputFile],
    rows_in: int,
    log: Log,
    out: Path,
    identity: dict[str, Any],
) -> dict[str, Any]:
    """Sets of the rewrites that show what they should and nothing else, as the judge sees it; a note of what came of them."""
    if settings.verified is None:
        return {}
    started = time.monotonic()
    fidelity = settings.verified / FIDELITY_FILE
    if not fidelity.is_file():
        print(f"note: no filtered sets: {fidelity} is missing; run `curate verify` again")
        return {"filtered": "none: the verification is not finished"}
    present = json.loads(fidelity.read_text())["thresholds"]
    print("filtered sets, beside the primary ones: only rewrites that show what they should")
    good = keep(frame, faithful(list(present), present), "does not show what it should, by the judge", log.dropped)
    try:
        made = make_sets(good, kind, settings, match_on, rows_in, log)
    except UserError as error:
        print(f"note: no filtered sets: {error}")
        return {"filtered": f"none: {error}"}
    write_sets(out, settings, made, files, rows_in, log, started, kind, identity)
    return {"filtered": f"{made.arms[0].height} examples an arm in {out.name}/"}


def write_sets(
    out: Path,
    settings: MatchSettings,
    made: Sets,
    files: list[InputFile],
    rows_in: int,
    log: Log,
    started: float,
    kind: str,
    identity: dict[str, Any],
) -> Manifest:
    """Write one folder an arm, each with its manifest, and the balance and the manifest of the whole beside them."""
    design, sets = ARM_DESIGNS[kind], made.arms
    write_json(out / BALANCE_FILE, made.balance)
    tokens = tokens_of(sets, design)
    for arm, data, cell in zip(design.arms, sets, design.cells, strict=True):
        others = {**log.dropped, f"not in the arm {arm}": sets[0].height * (len(sets) - 1)}
        notes: dict[str, Any] = {"arm": arm, "cell": cell, "arms": kind, "count": settings.count, "tokenizer": settings.tokenizer}
        notes["num_loss_tokens"] = tokens[arm]
        arm_manifest = write_table(
            out / arm,
            "match",
            settings,
            data.to_arrow(),
            files,
            rows_in,
            others,
            started,
            notes,
            shard_rows=settings.shard_rows,
            also_hashed=identity,
        )
    manifest = Manifest(
        stage="match",
        settings=arm_manifest.settings,
        inputs=files,
        rows_in=rows_in,
        rows_out=sum(data.height for data in sets),
        dropped=log.dropped,
        seed=settings.seed,
        tokens=tokens,
        seconds=round(time.monotonic() - started, 3),
        notes={
            "arms": kind,
            "arm_names": list(design.arms),
            "examples_per_arm": sets[0].height,
            "warnings": log.warnings,
            "dose": settings.dose,
            **made.notes,
            **log.notes,
            "hashed": arm_manifest.notes["hashed"],
        },
    )
    manifest.write(out)
    return manifest
