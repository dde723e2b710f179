"""`curate match` as a command: rewrites in, one folder an arm out."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate.matching import (
    ARM_CELLS,
    ARM_NAMES,
    MatchSettings,
    choose_pairs,
    count_tokens,
    draw_order,
    load_tokenizer,
    pair_within_strata,
    prompt_and_completion,
    standardised_difference,
)
from curate.parsing import num_words, within
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, read_manifest
from curate.records.parts import write_json
from pipelines.stage import read_table, write_table

IDENTITY = ["file_sha256", "source_row"]
BALANCE_FILE = "balance.json"
COVARIATES = ("num_chars", "notation_density", "num_windows", "question_words", "thoughts_words", "num_loss_tokens")


@dataclass(frozen=True)
class Arms:
    """Two frames of equal height: row i of `first` and row i of `second` are a pair."""

    first: pl.DataFrame
    second: pl.DataFrame


def match(settings: MatchSettings) -> Manifest:
    """Make the two sets: the same number of examples and, within the tolerance, of tokens.

    In `pairs` both versions of a document enter or neither does; in `paper` examples are paired inside source and length of the
    source. Whatever does not enter is counted with its reason; what remains unequal stands in `balance.json`.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folder = require(settings.qa, "qa", "the output of `curate rewrite`")
    tokenizer = load_tokenizer(settings.tokenizer)
    qa, files = read_table(folder, "rewrite")
    manifest = read_manifest(folder)
    kind = "extract" if manifest.engine == "extract" else manifest.settings["arms"]
    frame = add_labels(qa, manifest, settings.verified)
    dropped: dict[str, int] = {}
    usable = keep(frame, pl.col("error").is_null(), "rewrite error", dropped)
    if not usable.height:
        raise UserError(f"no rewrite in {folder} is usable: {frame.height} rows, all with an error; its manifest counts the reasons")
    usable = add_text(usable, tokenizer, settings.count)
    arms = siblings(usable, kind, settings, dropped) if kind == "pairs" else strata_pairs(usable, kind, settings, dropped)
    if not arms.first.height:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise UserError(f"no pair can be made of the {frame.height} rewrites ({reasons}); rewrite more documents or relax the tolerances")
    tokens = [arm["num_loss_tokens"].to_numpy() for arm in (arms.first, arms.second)]
    order = draw_order(arms.first["pair_id"].to_list(), settings.seed)
    choice = choose_pairs(tokens[0], tokens[1], order, settings.budget_tokens, settings.tolerance)
    if not choice.chosen:
        raise UserError(
            f"no pair fits into --budget-tokens {settings.budget_tokens}: the shortest has {int(min(tokens[0] + tokens[1]) / 2)} tokens"
        )
    chosen = sorted(choice.chosen)
    dropped["over the budget, or taken out to even the tokens"] = 2 * (arms.first.height - len(chosen))
    sets = [arm[chosen].sort("pair_id") for arm in (arms.first, arms.second)]
    warnings = shortfall(choice.tokens, len(chosen), settings)
    for warning in warnings:
        print(f"note: {warning}")
    write_json(out / BALANCE_FILE, balance(sets))
    return write_sets(out, settings, sets, files, frame.height, dropped, started, kind, warnings)


def keep(frame: pl.DataFrame, condition: pl.Expr, reason: str, dropped: dict[str, int]) -> pl.DataFrame:
    """Rows that meet `condition`; the others are counted under `reason`."""
    kept = frame.filter(condition)
    if kept.height < frame.height:
        dropped[reason] = dropped.get(reason, 0) + frame.height - kept.height
    return kept


def add_labels(qa: pl.DataFrame, manifest: Manifest, verified: Path | None) -> pl.DataFrame:
    """Add covariates and `source_<b>_score` of the document, and `rewrite_<b>_score` when the rewrites were verified."""
    candidates, _ = read_table(Path(manifest.inputs[0].root).parent, "select")
    scores = [name for name in candidates.columns if name.endswith("_score")]
    covariates = ["num_chars", "notation_density", "num_windows", "topic", "difficulty"]
    source = candidates.select(*IDENTITY, *covariates, *[pl.col(name).alias(f"source_{name}") for name in scores])
    frame = qa.join(source, on=IDENTITY, how="left")
    if verified is not None:
        labels, _ = read_table(verified, "verify")
        found = [name for name in labels.columns if name.endswith("_score")]
        rewritten = labels.select("pair_id", "cell", *[pl.col(name).alias(f"rewrite_{name}") for name in found])
        frame = frame.join(rewritten, on=["pair_id", "cell"], how="left")
    return frame


def add_text(frame: pl.DataFrame, tokenizer: Any, count: str) -> pl.DataFrame:
    """Add what training reads and how many of its tokens count."""
    texts = [prompt_and_completion(row) for row in frame.select("question", "thoughts", "answer").iter_rows(named=True)]
    prompts, completions = [prompt for prompt, _ in texts], [completion for _, completion in texts]
    return frame.with_columns(
        pl.Series("prompt", prompts),
        pl.Series("completion", completions),
        pl.Series("num_loss_tokens", count_tokens(tokenizer, prompts, completions, count)),
        pl.Series("question_words", [num_words(text) for text in frame["question"]]),
        pl.Series("thoughts_words", [num_words(text) for text in frame["thoughts"]]),
    )


def siblings(frame: pl.DataFrame, kind: str, settings: MatchSettings, dropped: dict[str, int]) -> Arms:
    """Both versions of each document, when both exist and their lengths agree."""
    cells = ARM_CELLS[kind]
    frame = keep(frame, pl.len().over("pair_id") == 2, "sibling missing", dropped)
    first, second = (frame.filter(pl.col("cell") == cell).sort("pair_id") for cell in cells)
    words = zip(first["thoughts_words"], second["thoughts_words"], strict=True)
    agree = [within(other, target, settings.length_tolerance) for target, other in words]
    if not all(agree):
        dropped["length outside"] = 2 * (len(agree) - sum(agree))
    return Arms(first.filter(pl.Series(agree, dtype=pl.Boolean)), second.filter(pl.Series(agree, dtype=pl.Boolean)))


def strata_pairs(frame: pl.DataFrame, kind: str, settings: MatchSettings, dropped: dict[str, int]) -> Arms:
    """Rows of different documents, paired inside source and length (factors of two) of the source document."""
    cells = ARM_CELLS[kind]
    frame = frame.with_columns(pl.col("num_chars").log(2).floor().alias("_length_bin")).sort("pair_id")
    first, second = (frame.filter(pl.col("cell") == cell) for cell in cells)
    pairs = pair_within_strata(first, second, ("source", "_length_bin"), settings.seed)
    for arm, cell in zip((first, second), cells, strict=True):
        if arm.height > len(pairs):
            dropped[f"no partner ({cell})"] = arm.height - len(pairs)
    return Arms(first[[a for a, _ in pairs]].drop("_length_bin"), second[[b for _, b in pairs]].drop("_length_bin"))


def shortfall(tokens: tuple[int, int], pairs: int, settings: MatchSettings) -> list[str]:
    """What the user must know when the arms are smaller, or less even, than asked for."""
    warnings = []
    smaller = min(tokens)
    if smaller < settings.budget_tokens * (1 - settings.tolerance):
        share = smaller / settings.budget_tokens
        need = pairs / max(share, 1e-9)
        warnings.append(
            f"the arms hold {tokens[0]:,} and {tokens[1]:,} tokens in {pairs} examples each, {share:.1%} of the budget of "
            f"{settings.budget_tokens:,}; about {need:,.0f} usable pairs would fill it"
        )
    gap = abs(tokens[0] - tokens[1]) / max(tokens)
    if gap > settings.tolerance:
        warnings.append(
            f"the arms' tokens differ by {gap:.2%}, more than --tolerance {settings.tolerance:.2%}: too few pairs to even them out"
        )
    return warnings


def balance(sets: list[pl.DataFrame]) -> dict[str, Any]:
    """Means and standardised mean differences of the arms, for every covariate and label at hand."""
    scores = [name for name in sets[0].columns if name.endswith("_score")]
    rows = []
    for name in [*COVARIATES, *scores]:
        first, second = (arm[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for arm in sets)
        means = [float(np.nanmean(values)) if not np.isnan(values).all() else None for values in (first, second)]
        row = {"covariate": name, **dict(zip(ARM_NAMES, means, strict=True))}
        rows.append({**row, "standardised_difference": standardised_difference(first, second)})
    return {
        "examples": sets[0].height,
        "tokens": {arm: int(data["num_loss_tokens"].sum()) for arm, data in zip(ARM_NAMES, sets, strict=True)},
        "rows": rows,
    }


def write_sets(
    out: Path,
    settings: MatchSettings,
    sets: list[pl.DataFrame],
    files: list[InputFile],
    rows_in: int,
    dropped: dict[str, int],
    started: float,
    kind: str,
    warnings: list[str],
) -> Manifest:
    """Write one folder an arm, each with its manifest, and the manifest of the whole beside them."""
    for arm, data, cell in zip(ARM_NAMES, sets, ARM_CELLS[kind], strict=True):
        others = {**dropped, f"not in the arm {arm}": sets[0].height}
        notes: dict[str, Any] = {"arm": arm, "cell": cell, "arms": kind, "count": settings.count, "tokenizer": settings.tokenizer}
        notes["num_loss_tokens"] = int(data["num_loss_tokens"].sum())
        write_table(out / arm, "match", settings, data.to_arrow(), files, rows_in, others, started, notes)
    both = pl.concat(sets)
    tokens = {arm: int(data["num_loss_tokens"].sum()) for arm, data in zip(ARM_NAMES, sets, strict=True)}
    manifest = Manifest(
        stage="match",
        settings=read_manifest(out / ARM_NAMES[0]).settings,
        inputs=files,
        rows_in=rows_in,
        rows_out=both.height,
        dropped={reason: count for reason, count in dropped.items() if count},
        seed=settings.seed,
        tokens=tokens,
        seconds=round(time.monotonic() - started, 3),
        notes={
            "arms": kind,
            "examples_per_arm": sets[0].height,
            "warnings": warnings,
            "hashed": read_manifest(out / ARM_NAMES[0]).notes["hashed"],
        },
    )
    manifest.write(out)
    return manifest
