"""`evals math`: GSM8K- and MATH-style problems scored with `math-verify`, and the loss on plain text (forgetting).

The study's own argument is generality: what a model gains on one game should not be lost elsewhere. A second puzzle is a task set of
`evals countdown`: the game of 24 is `rl tasks --operands 4 --max-number 13 --min-target 24 --max-target 24 --rational`.
"""

import sys
import time
from collections import Counter
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
from eval.problems import Problem, Problems, is_right, read_problems
from rl.evaluate import wilson
from rl.parts import part

SUMMARY = "math.json"
UNREAD = "no gold answer can be read"
NOISE = 12


@dataclass(frozen=True)
class MathSettings:
    """Settings of `evals math`."""

    model: str | None = option(None, "A Hugging Face folder or name, or the output folder of `train` or `rl ppo`")
    problems: tuple[Path, ...] = option((), "Parquet or JSONL with question (or problem), and solution, answer or both; repeat")
    plain_text: tuple[Path, ...] = option((), "Parquet with `text`: the loss on it, for forgetting; repeat")
    out: Path | None = option(None, "Folder for responses/, math.json and manifest.json", hashed=False)
    limit: int | None = option(None, "Only the first N problems of each file", at_least=1)
    template: str = option("Question: {problem} Put the final answer in \\boxed{}. Answer:", "Text with {problem}")
    temperature: float = option(0.0, "0 is greedy", at_least=0)
    max_prompt_tokens: int = option(1024, "Longer prompts are refused and counted", at_least=1)
    max_response_tokens: int = option(512, "Tokens of a response", at_least=1)
    context_tokens: int = option(1024, "Plain text is cut into pieces of at most this many tokens", at_least=2)
    problems_per_part: int = option(64, "Problems answered and stored at once", at_least=1)
    max_sampler_rows: int = option(64, "Responses generated at once: less memory when lower", hashed=False, at_least=1)
    sampler: str = option("torch", "Where responses come from", choices=("torch", "vllm"))
    device: str = option("auto", "auto, cpu or cuda", hashed=False)
    dtype: str = option("auto", "Compute dtype", choices=("auto", "float32", "bfloat16", "float64"))
    seed: int = option(0, "Seed of the sampling noise", at_least=0)


def run(settings: MathSettings) -> None:
    """Accuracy on problem files with Wilson intervals, by exact mathematical comparison; mean loss a token on plain text."""
    started = time.monotonic()
    out = require(settings.out, "out")
    require(settings.model, "model")
    if not settings.problems and not settings.plain_text:
        raise UserError("--problems or --plain-text is needed")
    if "{problem}" not in settings.template:
        raise UserError("--template has no {problem}")
    read = [read_problems(path, settings.limit) for path in settings.problems]
    for found in filter(lambda found: found.unread, read):
        print(f"warning: {found.path}: {_told(found.unread, found.num_rows)}", file=sys.stderr, flush=True)
    inputs = [InputFile(str(found.path), file_sha256(found.path), found.num_rows, found.path.stat().st_size) for found in read]
    summary: dict[str, Any] = {"model": settings.model, "problems": {}, "plain_text": {}}
    dropped: Counter[str] = Counter()
    results, model = answer(settings, read, inputs, out) if read else ([], [])
    for problems, result in zip(read, results):
        summary["problems"][str(problems.path)] = result
        dropped[UNREAD] += len(problems.unread)
        dropped["prompt over --max-prompt-tokens"] += len(problems.rows) - result["answered"]
    for path in settings.plain_text:
        summary["plain_text"][str(path)] = plain_loss(settings, path)
        if path.is_file():
            inputs.append(InputFile(str(path), file_sha256(path), 0, path.stat().st_size))
    manifest = Manifest(
        stage="math",
        settings=to_dict(settings),
        inputs=[*inputs, *model],
        rows_in=sum(problems.num_rows for problems in read),
        rows_out=sum(result["answered"] for result in results),
        dropped={reason: number for reason, number in dropped.items() if number},
        model=settings.model,
        engine=settings.sampler,
        seed=settings.seed,
        seconds=time.monotonic() - started,
    )
    write_json(out / SUMMARY, summary)
    manifest.write(out)
    for name, item in summary["problems"].items():
        print(f"{name}: {item['accuracy']:.3f} [{item['low']:.3f}, {item['high']:.3f}] on {item['answered']} problems, ", end="")
        print(f"{item['tokens']:.0f} tokens, {item['truncated']:.1%} truncated, {item['unread']} responses without a readable answer")
    for name, item in summary["plain_text"].items():
        print(f"{name}: loss {item['loss']:.4f} a token over {item['targets']:,} tokens of {item['documents']} documents")


def _told(unread: dict[str, str], num_rows: int) -> str:
    shown = ", ".join(f"{place}: {text!r}" for place, text in list(unread.items())[:3])
    return f"no gold answer can be read in {len(unread)} of {num_rows} rows, which are left out ({shown}{', …' if len(unread) > 3 else ''})"


def answer(
    settings: MathSettings, read: Sequence[Problems], inputs: Sequence[InputFile], out: Path
) -> tuple[list[dict[str, Any]], list[InputFile]]:
    """Make the parts that are missing. Returns the numbers of each file of problems, and the model's files.

    Raises UserError for parts that were made with other settings, another model or other problems (`inputs`).
    """
    from eval.model import generate_texts, load_sampler, record_of
    from rl.samplers.base import check_prompts
    from train.data import encode
    from train.model import model_files

    tokenizer, sampler = load_sampler(settings)
    model = model_files(str(settings.model))
    record = record_of(settings, model, inputs)

    def respond(problems: Sequence[Problem], prompts: Sequence[list[int]], seed: tuple[int, ...]) -> pa.Table:
        rows = []
        for problem, made in zip(problems, generate_texts(tokenizer, sampler, prompts, settings, seed)):
            correct, readable = is_right(made["response"], problem.gold)
            rows.append({"problem": problem.number, "gold": problem.gold, **made, "correct": correct, "readable": readable})
        return pa.Table.from_pylist(rows)

    results = []
    with progress("problems", sum(len(found.rows) for found in read), unit="problems") as advance:
        for place, found in enumerate(read):
            prompts = encode(tokenizer, [settings.template.replace("{problem}", problem.question) for problem in found.rows])
            refused = set(check_prompts(prompts, settings.max_prompt_tokens))
            kept = [number for number in range(len(prompts)) if number not in refused]
            if not kept:
                raise UserError(f"every prompt is over --max-prompt-tokens {settings.max_prompt_tokens}; raise it")
            files = []
            for first in range(0, len(kept), settings.problems_per_part):
                numbers = kept[first : first + settings.problems_per_part]
                asked = [found.rows[n] for n in numbers], [prompts[n] for n in numbers], (settings.seed, NOISE, place, first)
                files.append(part(out / "responses" / f"set-{place}-{first:07d}.parquet", record, partial(respond, *asked)))
                advance(len(numbers))
            advance(len(refused))
            results.append(_summary(pa.concat_tables(map(pq.read_table, files)).to_pylist()) | {"gold_unread": found.unread})
    return results, model


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    correct = sum(row["correct"] for row in rows)
    low, high = wilson(correct, len(rows))
    return {
        "accuracy": correct / len(rows),
        "low": low,
        "high": high,
        "answered": len(rows),
        "tokens": sum(row["num_tokens"] for row in rows) / len(rows),
        "truncated": sum(row["truncated"] for row in rows) / len(rows),
        "unread": sum(not row["readable"] for row in rows),
    }


def plain_loss(settings: MathSettings, path: Path) -> dict[str, Any]:
    """Mean cross-entropy in nats a token over all documents, each read by itself, long ones in pieces of --context-tokens."""
    import torch

    from train.batches import Batches
    from train.data import load_documents
    from train.model import CausalLoss, compute_dtype, load_model, load_tokenizer, loss_inputs

    name = str(settings.model)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device)
    tokenizer = load_tokenizer(name)
    documents = load_documents(path, tokenizer, loss="all", bos="auto")
    chosen = list(range(len(documents.tokens)))[: settings.limit]
    batches = Batches(documents, chosen, context=settings.context_tokens, pack=True, rows_per_step=1, seed=0)
    model = CausalLoss(load_model(name, dtype=compute_dtype(settings.dtype, device), tokenizer=tokenizer).to(device).eval())
    total = 0.0
    with torch.no_grad(), progress("plain text", len(batches.rows)) as advance:
        for row in range(len(batches.rows)):
            inputs, labels = loss_inputs(batches.joined([row]), device)
            total += float(model(inputs, labels))
            advance(1)
    targets = int(batches.row_loss_tokens.sum())
    return {"loss": total / max(targets, 1), "targets": targets, "documents": len(chosen)}
