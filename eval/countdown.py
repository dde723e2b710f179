"""`evals countdown`: what a model can do on Countdown tasks, measured once and read in several ways.

Each task is answered `--samples-per-task` times at T=1 and once greedily. From the same responses: accuracy with intervals, pass@k
(unbiased), accuracy within a response budget (a response cut after B tokens is what sampling with that limit would have given), and
sequential against parallel use of the same budget (one response of B tokens, or n of B/n with the right one recognised, which the game
allows). Several `--data` folders give several rows: held-out operand counts and ranges are task sets like any other (`rl tasks`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_json, write_part
from curate.records.progress import progress
from curate.records.settings import option, to_dict
from eval import statistics
from rl.evaluate import wilson
from rl.parts import part_is_done
from rl.scoring import NUMBER_RULES, SYNTAXES
from rl.tasks import FILE_NAME, read_tasks

SAMPLED, GREEDY = "sampled", "greedy"
NOISE = 11  # purpose number of this stage's random streams, unlike those of `rl ppo`
SUMMARY = "summary.json"


@dataclass(frozen=True)
class CountdownSettings:
    """Settings of `evals countdown`."""

    model: str | None = option(None, "A Hugging Face folder or name, or the output folder of `train` or `rl ppo`")
    data: tuple[Path, ...] = option((), "Tasks: folders of `rl tasks` or Parquet files; repeat for several sets")
    out: Path | None = option(None, "Folder for responses/, summary.json and manifest.json", hashed=False)
    split: str = option("test", "Which rows of the task files", choices=("test", "train"))
    limit: int | None = option(None, "Only the first N tasks of each set", at_least=1)
    samples_per_task: int = option(4, "Responses a task at T=1", at_least=1)
    greedy: bool = option(True, "One greedy response a task as well")
    preset: str = option("four-habits", "Prompt, BOS and limits as in this preset of `rl ppo`", choices=("four-habits", "modern", "tiny"))
    template: str | None = option(None, "tinyzero, short, set, or a text with {numbers} and {target} [preset]")
    max_prompt_tokens: int | None = option(None, "Longer prompts are refused and counted [preset]", at_least=1)
    max_response_tokens: int | None = option(None, "Tokens of a response [preset]", at_least=1)
    budget_tokens: tuple[str, ...] = option(
        ("128", "256", "512", "1024", "2048"), "Response budgets to report; those over the limit are left out"
    )
    scorer: str = option("exact", "exact, or the reference's with its defects", choices=("exact", "tinyzero"))
    syntax: str = option("default", "What the exact scorer reads as an expression", choices=SYNTAXES)
    numbers_rule: str = option("all", "Use every number once, or any of them at most once", choices=NUMBER_RULES)
    sampler: str = option("torch", "Where responses come from", choices=("torch", "vllm"))
    tasks_per_part: int = option(256, "Tasks answered and stored at once; a run that was interrupted goes on part by part", at_least=1)
    max_sampler_rows: int = option(1024, "Responses generated at once: less memory when lower", hashed=False, at_least=1)
    device: str = option("auto", "auto, cpu or cuda", hashed=False)
    dtype: str = option("auto", "Compute dtype", choices=("auto", "float32", "bfloat16", "float64"))
    seed: int = option(0, "Seed of the sampling noise", at_least=0)


def run(settings: CountdownSettings) -> None:
    """Accuracy (T=1 and greedy), pass@k, accuracy by response budget, sequential against parallel, lengths, behaviors."""
    started = time.monotonic()
    out = require(settings.out, "out")
    require(settings.model, "model")
    sets = [(path, read_tasks(path, settings.split)[: settings.limit]) for path in require(settings.data, "data")]
    if empty := [str(path) for path, tasks in sets if not tasks]:
        raise UserError(f"no {settings.split} tasks in {', '.join(empty)}")
    budgets = _budgets(settings)
    parts, refused = answer(settings, sets, out)
    found: list[dict[str, Any]] = [
        {"data": str(path), "num_tasks": len(tasks), "refused_prompts": refused[place]} | summarise(parts[place], settings, budgets)
        for place, (path, tasks) in enumerate(sets)
    ]
    files = [path / FILE_NAME if path.is_dir() else path for path, _ in sets]
    num_answered = sum(row["num_answered"] for row in found)
    manifest = Manifest(
        stage="countdown",
        settings=to_dict(settings),
        inputs=[InputFile(str(f), file_sha256(f), len(tasks), f.stat().st_size) for f, (_, tasks) in zip(files, sets)],
        rows_in=sum(len(tasks) for _, tasks in sets),
        rows_out=num_answered,
        dropped={"prompt over --max-prompt-tokens": sum(refused)} if sum(refused) else {},
        model=settings.model,
        engine=settings.sampler,
        seed=settings.seed,
        seconds=time.monotonic() - started,
    )
    write_json(out / SUMMARY, {"model": settings.model, "sets": found})
    manifest.write(out)
    for row in found:
        show(row)


def answer(settings: CountdownSettings, sets: Sequence[tuple[Path, Sequence[Any]]], out: Path) -> tuple[list[list[Path]], list[int]]:
    """Make the parts that are missing. Returns the files of each set in order, and its number of refused prompts."""
    from eval.model import Loaded

    loaded = Loaded.load(settings)
    record = to_dict(settings, hashed_only=True)
    prompted = [loaded.prompts(tasks) for _, tasks in sets]
    parts: list[list[Path]] = []
    passes = [(SAMPLED, settings.samples_per_task, 1.0)] + ([(GREEDY, 1, 0.0)] if settings.greedy else [])
    per_task = sum(samples for _, samples, _ in passes)
    total = sum(len(those.tasks) for those, _ in prompted) * per_task
    with progress("responses", total, unit="responses") as advance:
        for place, (those, _) in enumerate(prompted):
            files: list[Path] = []
            for name, samples, temperature in passes:
                for first in range(0, len(those.tasks), settings.tasks_per_part):
                    last = min(first + settings.tasks_per_part, len(those.tasks))
                    path = out / "responses" / f"set-{place}-{name}-{first:07d}.parquet"
                    files.append(path)
                    if not part_is_done(path, record):
                        seed = (settings.seed, NOISE, place, first, int(name == GREEDY))
                        table = loaded.respond(those, range(first, last), samples, temperature, seed)
                        write_part(path, table, {"settings": record})
                    advance((last - first) * samples)
            parts.append(files)
    return parts, [refused for _, refused in prompted]


def summarise(files: Sequence[Path], settings: CountdownSettings, budgets: Sequence[int]) -> dict[str, Any]:
    """All numbers of one task set from its stored responses."""
    rows = {name: pl.concat([pl.read_parquet(f) for f in files if f"-{name}-" in f.name] or [pl.DataFrame()]) for name in (SAMPLED, GREEDY)}
    sampled = rows[SAMPLED]
    by_task = sampled.group_by("task", maintain_order=True).agg(pl.col("correct").sum(), pl.len().alias("n"))
    found: dict[str, Any] = {"num_answered": len(by_task), "samples_per_task": settings.samples_per_task}
    for name, table in rows.items():
        if len(table):
            found[name] = _share(table) | {
                "tokens": table["num_tokens"].mean(),
                "truncated": table["truncated"].mean(),
                "reasons": {row["reason"]: row["count"] for row in table["reason"].value_counts(sort=True).iter_rows(named=True)},
                "behaviors": {
                    b: table[b].mean() for b in ("attempts", "verification", "backtracking", "subgoal_setting", "backward_chaining")
                },
            }
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= settings.samples_per_task]
    pairs = list(zip(by_task["correct"].to_list(), by_task["n"].to_list()))
    found["pass_at_k"] = {k: float(np.mean([statistics.pass_at_k(c, n, k) for c, n in pairs])) for k in ks}
    counted = sampled.with_columns(pl.col("numbers").list.len().alias("operands"))
    found["by_operands"] = {int(n): _share(group) for (n,), group in sorted(counted.group_by("operands"))}
    found["by_budget"] = {b: float(np.mean((sampled["correct"] & (sampled["tokens_to_answer"] <= b)).to_numpy())) for b in budgets}
    found["sequential_against_parallel"] = [parallel(sampled, budget, ks) for budget in budgets]
    return found


def _share(table: pl.DataFrame) -> dict[str, Any]:
    """Accuracy with its interval: Wilson's for one response a task; else by tasks, whose responses are not independent."""
    tasks = table.group_by("task").agg(pl.col("correct").mean(), pl.len())
    accuracy = float(np.mean(table["correct"].to_numpy()))
    if tasks["len"].max() == 1:
        low, high = wilson(int(table["correct"].sum()), len(table))
    else:
        half = statistics.half_width(tasks["correct"].to_numpy()) if len(tasks) > 1 else 1.0
        low, high = max(0.0, accuracy - half), min(1.0, accuracy + half)
    return {"accuracy": accuracy, "low": low, "high": high, "responses": len(table)}


def parallel(sampled: pl.DataFrame, budget: int, ks: Sequence[int]) -> dict[str, Any]:
    """Accuracy for `budget` tokens a task, spent on n responses of budget/n each; n = 1 is sequential."""
    row: dict[str, Any] = {"budget_tokens": budget}
    for k in ks:
        within = sampled.with_columns((pl.col("correct") & (pl.col("tokens_to_answer") <= budget // k)).alias("right"))
        by_task = within.group_by("task").agg(pl.col("right").sum(), pl.len())
        row[f"best_of_{k}"] = float(np.mean([statistics.pass_at_k(c, n, k) for c, n in zip(by_task["right"], by_task["len"])]))
    return row


def show(row: dict[str, Any]) -> None:
    """One task set in plain text."""
    refused = f", {row['refused_prompts']} prompts refused" if row["refused_prompts"] else ""
    print(f"{row['data']}: {row['num_answered']} tasks, {row['samples_per_task']} samples each at T=1{refused}")
    for name in (SAMPLED, GREEDY):
        if name in row:
            item = row[name]
            behaviors = ", ".join(f"{key} {value:.2f}" for key, value in item["behaviors"].items())
            print(f"  {name}: {item['accuracy']:.3f} [{item['low']:.3f}, {item['high']:.3f}], {item['tokens']:.0f} tokens, ", end="")
            print(f"{item['truncated']:.1%} truncated; a response: {behaviors}")
    print("  pass@k: " + ", ".join(f"{k}: {value:.3f}" for k, value in row["pass_at_k"].items()))
    if len(row["by_operands"]) > 1:
        print("  by operands: " + ", ".join(f"{n}: {item['accuracy']:.3f}" for n, item in row["by_operands"].items()))
    for item in row["sequential_against_parallel"]:
        shares = ", ".join(f"{key.removeprefix('best_of_')} × {value:.3f}" for key, value in item.items() if key != "budget_tokens")
        print(f"  {item['budget_tokens']} tokens a task, as n responses: {shares}")


def _budgets(settings: CountdownSettings) -> list[int]:
    from eval.model import rollout_settings

    try:
        wanted = sorted({int(text) for text in settings.budget_tokens})
    except ValueError:
        raise UserError(f"--budget-tokens {', '.join(settings.budget_tokens)}: these are whole numbers of tokens") from None
    most = rollout_settings(settings).max_response_tokens
    return [budget for budget in wanted if 0 < budget < most] + [most]


def read_responses(folder: Path) -> pa.Table:
    """All responses that `evals countdown` stored in `folder`."""
    return pa.concat_tables(pq.read_table(path) for path in sorted((folder / "responses").glob("*.parquet")))
