"""`evals math`: GSM8K- and MATH-style problems scored with `math-verify`, and the loss on plain text (forgetting).

The study's own argument is generality: what a model gains on one game should not be lost elsewhere. A second puzzle is a task set of
`evals countdown`: the game of 24 is `rl tasks --operands 4 --max-number 13 --min-target 24 --max-target 24 --rational`.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_json, write_part
from curate.records.progress import progress
from curate.records.settings import option, to_dict
from rl.evaluate import wilson
from rl.parts import part_is_done

SUMMARY = "math.json"
QUESTIONS, ANSWERS = ("question", "problem", "prompt"), ("answer", "solution")
FINAL = re.compile(r"####\s*(.+?)\s*\Z", re.DOTALL)  # GSM8K
NOISE = 12


@dataclass(frozen=True)
class MathSettings:
    """Settings of `evals math`."""

    model: str | None = option(None, "A Hugging Face folder or name, or the output folder of `train` or `rl ppo`")
    problems: tuple[Path, ...] = option((), "Parquet or JSONL with question (or problem) and answer (or solution); repeat")
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
    read = [(path, read_problems(path)[: settings.limit]) for path in settings.problems]
    summary: dict[str, Any] = {"model": settings.model, "problems": {}, "plain_text": {}}
    dropped: Counter[str] = Counter()
    if read:
        for (path, problems), found in zip(read, _answered(settings, read, out)):
            summary["problems"][str(path)] = found
            dropped["prompt over --max-prompt-tokens"] += len(problems) - found["answered"]
    for path in settings.plain_text:
        summary["plain_text"][str(path)] = plain_loss(settings, path)
    total = sum(len(problems) for _, problems in read)
    files = [*settings.problems, *settings.plain_text]
    manifest = Manifest(
        stage="math",
        settings=to_dict(settings),
        inputs=[InputFile(str(path), file_sha256(path), 0, path.stat().st_size) for path in files if path.is_file()],
        rows_in=total,
        rows_out=total - sum(dropped.values()),
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


def read_problems(path: Path) -> list[tuple[str, str]]:
    """(problem, gold answer) of each row. GSM8K's answer is what follows `####`, MATH's the last boxed expression of the solution.

    Raises UserError for a file that cannot be read, has other columns, or an answer that cannot be read as mathematics.
    """
    try:
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if not rows:
        raise UserError(f"{path} has no rows")
    question = next((name for name in QUESTIONS if name in rows[0]), None)
    answer = next((name for name in ANSWERS if name in rows[0]), None)
    if question is None or answer is None:
        raise UserError(f"{path} has columns {', '.join(rows[0])}; problems need {' or '.join(QUESTIONS)} and {' or '.join(ANSWERS)}")
    found = []
    for place, row in enumerate(rows):
        final = FINAL.search(str(row[answer]))
        gold = final[1].replace(",", "") if final else str(row[answer])
        if not _parsed(gold):
            raise UserError(f"{path} row {place}: no answer can be read from {str(row[answer])[-80:]!r}")
        found.append((str(row[question]), gold))
    return found


def is_right(response: str, gold: str) -> tuple[bool, bool]:
    """(right, readable): whether the response's final answer equals the gold one, and whether it has one at all."""
    from math_verify import verify

    said = _parsed(response)
    return bool(said) and bool(verify(_parsed(gold), said)), bool(said)


def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    return parse(text)


def _answered(settings: MathSettings, read: Sequence[tuple[Path, list[tuple[str, str]]]], out: Path) -> list[dict[str, Any]]:
    from eval.model import generate_texts, load_sampler
    from rl.samplers.base import check_prompts
    from train.data import encode

    tokenizer, sampler = load_sampler(settings)
    record = to_dict(settings, hashed_only=True)
    results = []
    with progress("problems", sum(len(problems) for _, problems in read), unit="problems") as advance:
        for place, (_, problems) in enumerate(read):
            prompts = encode(tokenizer, [settings.template.replace("{problem}", problem) for problem, _ in problems])
            refused = set(check_prompts(prompts, settings.max_prompt_tokens))
            kept = [number for number in range(len(problems)) if number not in refused]
            if not kept:
                raise UserError(f"every prompt is over --max-prompt-tokens {settings.max_prompt_tokens}; raise it")
            rows: list[dict[str, Any]] = []
            for first in range(0, len(kept), settings.problems_per_part):
                numbers = kept[first : first + settings.problems_per_part]
                path = out / "responses" / f"set-{place}-{first:07d}.parquet"
                if not part_is_done(path, record):
                    noise_seed = (settings.seed, NOISE, place, first)
                    made = generate_texts(tokenizer, sampler, [prompts[n] for n in numbers], settings, noise_seed)
                    table = [{"problem": n, **answer} for n, answer in zip(numbers, made)]
                    for row in table:
                        row["correct"], row["readable"] = is_right(row["response"], problems[row["problem"]][1])
                    write_part(path, pa.Table.from_pylist(table), {"settings": record})
                rows += pq.read_table(path).to_pylist()
                advance(len(numbers))
            advance(len(refused))
            correct = sum(row["correct"] for row in rows)
            low, high = wilson(correct, len(rows))
            results.append(
                {
                    "accuracy": correct / len(rows),
                    "low": low,
                    "high": high,
                    "answered": len(rows),
                    "tokens": sum(row["num_tokens"] for row in rows) / len(rows),
                    "truncated": sum(row["truncated"] for row in rows) / len(rows),
                    "unread": sum(not row["readable"] for row in rows),
                }
            )
    return results


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
