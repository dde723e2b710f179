"""`evals countdown`: what a model can do on Countdown tasks, measured once and read in several ways.

Each task is answered `--samples-per-task` times at T=1 and once greedily. From the same responses: accuracy with intervals, pass@k
(unbiased), accuracy within a response budget (a response cut after B tokens is what sampling with that limit would have given, and counts
as the scorer would count it), and sequential against parallel use of the same budget (one response of B tokens, or n of B/n with the right
one recognised, which the game allows). Several `--data` folders give several rows: held-out operand counts and ranges are task sets like
any other (`rl tasks`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_json
from curate.records.progress import progress
from curate.records.settings import option, to_dict
from eval.accuracy import GREEDY, SAMPLED, summarise
from rl.countdown import Task
from rl.parts import part
from rl.scoring import NUMBER_RULES, SYNTAXES
from rl.tasks import FILE_NAME, read_tasks

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
    files = [path / FILE_NAME if path.is_dir() else path for path, _ in sets]
    inputs = [InputFile(str(file), file_sha256(file), len(tasks), file.stat().st_size) for file, (_, tasks) in zip(files, sets)]
    parts, refused, model = answer(settings, sets, inputs, out)
    found: list[dict[str, Any]] = [
        {"data": str(path), "num_tasks": len(tasks), "refused_prompts": refused[place]}
        | summarise(parts[place], settings.samples_per_task, budgets)
        for place, (path, tasks) in enumerate(sets)
    ]
    manifest = Manifest(
        stage="countdown",
        settings=to_dict(settings),
        inputs=[*inputs, *model],
        rows_in=sum(len(tasks) for _, tasks in sets),
        rows_out=sum(row["num_answered"] for row in found),
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


def answer(
    settings: CountdownSettings, sets: Sequence[tuple[Path, Sequence[Task]]], inputs: Sequence[InputFile], out: Path
) -> tuple[list[list[Path]], list[int], list[InputFile]]:
    """Make the parts that are missing. Returns the files of each set in order, its number of refused prompts, and the model's files.

    Raises UserError for parts that were made with other settings, another model or other tasks (`inputs`).
    """
    from eval.model import Loaded, record_of
    from train.model import model_files

    loaded = Loaded.load(settings)
    model = model_files(str(settings.model))
    record = record_of(settings, model, inputs)
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
                    places = range(first, min(first + settings.tasks_per_part, len(those.tasks)))
                    path = out / "responses" / f"set-{place}-{name}-{first:07d}.parquet"
                    seed = (settings.seed, NOISE, place, first, int(name == GREEDY))
                    files.append(part(path, record, partial(loaded.respond, those, places, samples, temperature, seed)))
                    advance(len(places) * samples)
            parts.append(files)
    return parts, [refused for _, refused in prompted], model


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
