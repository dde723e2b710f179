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

from curate.arms import ARM_DESIGNS, ArmDesign
from curate.contrasts import contrast_lines
from curate.dose import check_dose
from curate.matching import MatchSettings, count_tokens, load_tokenizer, prompt_and_completion
from curate.matching_budget import choose_blocks
from curate.matching_strata import CONTINUOUS, check_match_on, coarsen, continuous, match_across, order_keys
from curate.parsing import num_words, within
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256, json_sha256, read_manifest
from curate.records.parts import write_json
from curate.records.settings import to_dict
from curate.selection import keep
from curate.verification import FIDELITY_FILE, faithful
from pipelines.balance import balance, tokens_of
from pipelines.cleaning import TEXTS, Log, clean
from pipelines.dosing import dosed
from pipelines.sources import candidates_of, is_adopted, sources_of
from pipelines.stage import part_files, read_table, refuse_other, write_table

IDENTITY = ["file_sha256", "source_row"]
BALANCE_FILE = "balance.json"
FILTERED = "filtered"
FILLED = 0.995  # of the budget: below it a shortfall is said
# What the document of a rewrite brings along: its hash for the draw, and covariates that were fixed before rewriting.
ABOUT_SOURCE = ("text_sha256", "num_chars", "notation_density", "num_windows", "topic", "difficulty")


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
    hashed = {**to_dict(settings, hashed_only=True), **identity_of(files, settings, tokenizer)}
    for arm in design.arms:
        refuse_other(out / arm, "match", hashed)
    log = Log()
    frame = usable(add_labels(qa, folder, settings.verified), design, folder, settings.seed, log)
    frame = clean(add_text(frame, tokenizer, settings.count), settings, log)
    before = deepcopy(log)
    made = make_sets(frame, kind, settings, match_on, qa.height, log)
    print("\n".join(contrast_lines(kind)))
    made.notes |= filtered_sets(frame, kind, settings, match_on, files, qa.height, before, out / FILTERED, hashed)
    return write_sets(out, settings, made, files, qa.height, log, started, kind, hashed)


def read_besides(folder: Path, rewritten: Manifest, settings: MatchSettings) -> list[InputFile]:
    """The files other than the rewrites whose content enters the sets: the candidates' covariates, the labels of the rewrites."""
    files = [] if is_adopted(rewritten) else part_files(candidates_of(folder), "select")
    return files if settings.verified is None else [*files, *part_files(settings.verified, "verify")]


def identity_of(files: Sequence[InputFile], settings: MatchSettings, tokenizer: Any) -> dict[str, Any]:
    """What the sets depend on beside the settings: the content of all files that are read, the judge's thresholds, the tokenizer."""
    named = [Path(path) for path in (*settings.decontaminate, *settings.countdown_tasks)]
    fidelity = settings.verified / FIDELITY_FILE if settings.verified else None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "inputs": sorted(file.sha256 for file in files),
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
    hashed: dict[str, Any],
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
    write_sets(out, settings, made, files, rows_in, log, started, kind, hashed)
    return {"filtered": f"{made.arms[0].height} examples an arm in {out.name}/"}


def add_labels(qa: pl.DataFrame, folder: Path, verified: Path | None) -> pl.DataFrame:
    """Add covariates and `source_<b>_score` of the document, and `rewrite_<b>_score` when the rewrites were verified.

    Raises UserError when rewrites name documents that the candidates do not have.
    """
    candidates = sources_of(folder)
    scores = [name for name in candidates.collect_schema().names() if name.endswith("_score")]
    scored = [pl.col(name).alias(f"source_{name}") for name in scores]
    source = candidates.select(*IDENTITY, *ABOUT_SOURCE, *scored).unique(IDENTITY, keep="first", maintain_order=True).collect()
    qa = qa.drop([name for name in source.columns if name in qa.columns and name not in IDENTITY])
    frame = qa.join(source.with_columns(pl.lit(True).alias("_known")), on=IDENTITY, how="left", maintain_order="left")
    if strangers := frame["_known"].null_count():
        raise UserError(
            f"{strangers} of {frame.height} rewrites in {folder} are of documents that its candidates do not have: "
            "they do not belong together"
        )
    if verified is not None:
        labels, _ = read_table(verified, "verify")
        found = [name for name in labels.columns if name.endswith("_score")]
        rewritten = labels.select(
            "pair_id", "cell", *[pl.col(name).alias(f"rewrite_{name}") for name in found], pl.col("evidence").alias("rewrite_evidence")
        )
        frame = frame.join(rewritten.unique(["pair_id", "cell"], maintain_order=True), on=["pair_id", "cell"], how="left")
    return frame.drop("_known")


def usable(frame: pl.DataFrame, design: ArmDesign, folder: Path, seed: int, log: Log) -> pl.DataFrame:
    """Rows of the design's cells with a question, thoughts and an answer, in the order of the draw. Raises UserError for none."""
    rows, in_all = frame.height, dict(frame.group_by("cell").len().iter_rows())
    frame = keep(frame, pl.col("error").is_null(), "rewrite error", log.dropped)
    if not frame.height:
        raise UserError(f"no rewrite in {folder} is usable: {rows} rows, all with an error; its manifest counts the reasons")
    frame = keep(frame, pl.col("cell").is_in(design.cells), "of a cell that has no arm", log.dropped)
    for cell in design.cells:
        if cell in in_all and cell not in frame["cell"]:
            raise UserError(
                f"no usable rewrite in the cell {cell}: all {in_all[cell]} have an error; the manifest of {folder} counts the reasons"
            )
    for name in TEXTS:
        frame = keep(frame, pl.col(name).str.strip_chars().str.len_chars() > 0, f"empty {name}", log.dropped)
    content = frame.select(pl.coalesce("text_sha256", "pair_id")).to_series()
    return frame.with_columns(pl.Series("_key", order_keys(content, seed))).sort("_key", "pair_id", "cell")


def add_text(frame: pl.DataFrame, tokenizer: Any, count: str) -> pl.DataFrame:
    """Add what training reads and how many of its tokens count."""
    texts = [prompt_and_completion(row) for row in frame.select(TEXTS).iter_rows(named=True)]
    prompts, completions = [prompt for prompt, _ in texts], [completion for _, completion in texts]
    return frame.with_columns(
        pl.Series("prompt", prompts, dtype=pl.String),
        pl.Series("completion", completions, dtype=pl.String),
        pl.Series("num_loss_tokens", count_tokens(tokenizer, prompts, completions, count)),
        pl.Series("question_words", [num_words(text) for text in frame["question"]], dtype=pl.Int64),
        pl.Series("thoughts_words", [num_words(text) for text in frame["thoughts"]], dtype=pl.Int64),
    )


def versions(frame: pl.DataFrame, cells: Sequence[str], settings: MatchSettings, log: Log) -> list[pl.DataFrame]:
    """The versions of each document of a family, one frame a cell, row i of all being the same document.

    A document stays when all its versions exist and the words of their thoughts agree within the tolerance.
    """
    frame = frame.filter(pl.col("cell").is_in(cells))
    whole = (pl.len().over("pair_id") == len(cells)) & (pl.col("cell").n_unique().over("pair_id") == len(cells))
    frame = keep(frame, whole, "sibling missing", log.dropped).sort("_key", "pair_id")
    made = [frame.filter(pl.col("cell") == cell) for cell in cells]
    agree = np.ones(made[0].height, dtype=bool)
    for other in made[1:]:
        words = zip(made[0]["thoughts_words"], other["thoughts_words"], strict=True)
        agree &= np.array([within(second, first, settings.length_tolerance) for first, second in words], dtype=bool)
    log.drop("length outside", len(cells) * int((~agree).sum()))
    return [version.filter(pl.Series(agree)) for version in made]


def make_blocks(
    families: list[list[pl.DataFrame]], design: ArmDesign, settings: MatchSettings, match_on: Sequence[str], log: Log
) -> list[pl.DataFrame]:
    """One frame an arm, row i of all being a block: the versions of one document, or those of two that are matched."""
    if len(families) == 1:
        rows = [list(range(families[0][0].height))]
    else:
        first, second = families[0][0], families[1][0]
        made = coarsen(first, second, match_on)
        if made.constant:
            print(f"note: the same in all documents, so nothing to match on: {', '.join(made.constant)}")
        tokens = [np.sum([version["num_loss_tokens"].to_numpy() for version in family], axis=0) for family in families]
        matched = match_across(made, (first["_key"].to_numpy(), second["_key"].to_numpy()), settings.caliper, sizes=(tokens[0], tokens[1]))
        rows = [[pair[side] for pair in matched.pairs] for side in (0, 1)]
        for cells, unmatched in zip(design.families, matched.unmatched, strict=True):
            for reason, count in sorted(unmatched.items()):
                log.drop(f"{reason} ({' and '.join(cells)})", count * len(cells))
        unmatched_of = {" and ".join(cells): dict(counts) for cells, counts in zip(design.families, matched.unmatched, strict=True)}
        log.notes["matching"] = {
            "match_on": list(match_on),
            "caliper": settings.caliper,
            "pairs": len(matched.pairs),
            "unmatched": unmatched_of,
        }
        left = "; ".join(
            f"{name}: {', '.join(f'{n} {why}' for why, n in sorted(why.items())) or 'none'}" for name, why in unmatched_of.items()
        )
        print(f"matched {len(matched.pairs)} pairs of documents on {', '.join(match_on)} (caliper {settings.caliper:g}); unmatched: {left}")
    names = families[0][0][rows[0]]["pair_id"].alias("block_id")
    return [version[picked].with_columns(names) for family, picked in zip(families, rows, strict=True) for version in family]


def differences_of(families: list[list[pl.DataFrame]], blocks: list[pl.DataFrame], match_on: Sequence[str]) -> np.ndarray | None:
    """By how many standard deviations the two documents of each block differ, shape (k, N); None where a block has one document."""
    if len(families) == 1 or not blocks[0].height:
        return None
    first, second = blocks[0], blocks[len(families[0])]
    rows = []
    for name in (name for name in CONTINUOUS if name in match_on):
        values = continuous(first, name), continuous(second, name)
        spread = np.sqrt((np.nanvar(values[0]) + np.nanvar(values[1])) / 2) if np.isfinite(np.concatenate(values)).any() else 0.0
        rows.append(np.nan_to_num((values[0] - values[1]) / (spread or 1.0)))
    return np.stack(rows) if rows else None


def ways_out(families: list[list[pl.DataFrame]], design: ArmDesign, settings: MatchSettings) -> str:
    """What would bring more examples, in the order in which it is worth trying."""
    sizes = ", ".join(f"{family[0].height} {cells[0]}" for family, cells in zip(families, design.families, strict=True))
    ways = [f"label or rewrite more documents (usable now: {sizes})"]
    if len(families) > 1:
        ways += [f"name fewer covariates than --match-on {' '.join(settings.match_on)}", f"widen --caliper {settings.caliper:g}"]
    if any(len(family) > 1 for family in families):
        ways.append(f"widen --length-tolerance {settings.length_tolerance:g}")
    return "to get more: " + "; ".join(ways)


def shortfall(
    tokens: tuple[int, ...], blocks: int, families: list[list[pl.DataFrame]], design: ArmDesign, settings: MatchSettings
) -> list[str]:
    """What the user must know when the arms are smaller, or less even, than asked for."""
    warnings = []
    smaller = min(tokens)
    if smaller < FILLED * settings.budget_tokens:
        share = smaller / settings.budget_tokens
        need = blocks / max(share, 1e-9)
        warnings.append(
            f"the arms hold {' and '.join(f'{total:,}' for total in tokens)} tokens in {blocks} examples each, {share:.1%} of the budget "
            f"of {settings.budget_tokens:,}: {settings.budget_tokens - smaller:,} are missing; about {need:,.0f} usable "
            f"pairs would fill it; {ways_out(families, design, settings)}"
        )
    gap = (max(tokens) - smaller) / max(tokens)
    if gap > settings.tolerance:
        warnings.append(
            f"the arms' tokens differ by {gap:.2%}, more than --tolerance {settings.tolerance:.2%}: too few pairs to even them out"
        )
    return warnings


def write_sets(
    out: Path,
    settings: MatchSettings,
    made: Sets,
    files: list[InputFile],
    rows_in: int,
    log: Log,
    started: float,
    kind: str,
    hashed: dict[str, Any],
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
            also_hashed=hashed,
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
