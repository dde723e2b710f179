"""The rewrites that may enter a set, with the covariates of their documents and the text that training reads."""

from pathlib import Path
from typing import Any

import polars as pl

from curate.arms import ArmDesign
from curate.matching import count_tokens, prompt_and_completion
from curate.matching_strata import order_keys
from curate.parsing import num_words
from curate.records.errors import UserError
from curate.selection import keep
from pipelines.cleaning import TEXTS, Log
from pipelines.sources import sources_of
from pipelines.stage import read_table

IDENTITY = ["file_sha256", "source_row"]
# What the document of a rewrite brings along: its hash for the draw, and covariates that were fixed before rewriting.
ABOUT_SOURCE = ("text_sha256", "num_chars", "notation_density", "num_windows", "topic", "difficulty")


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
