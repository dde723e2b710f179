"""`rl warmstart`: a small primed set for the tiny preset: honest tries, each worked out and checked, until one fits or patience ends.

    4,1,7=10:7*4=28,28-1=27 vs 10 no
    7-1=6,6+4=10 vs 10 yes
    <answer>(7-1)+4</answer>

A try is drawn at random without regard to the target (the larger operand first, small results, so that there is little arithmetic to
learn), one operation at a time (so that each can be chosen with the result before it in sight), and checked; checks are always right.
After a try that does not fit, the trace gives up with a fixed chance, whatever came before, and answers with that try, wrong as it is.
So a model trained on these knows how to try, compute, check and stop, but gives up early: what is left is for reinforcement learning.
"""

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_part
from curate.records.settings import option, to_dict
from rl.primed import schema
from rl.prompts import render
from rl.scoring import score
from rl.tasks import FILE_NAME, read_tasks

AGAINST, YES, NO = " vs ", " yes\n", " no\n"
WORDS = (AGAINST, YES, NO, "<answer>", "</answer>")  # one token each in the tiny tokenizer
MAX_RESULT = 99  # one token of the tiny tokenizer
_INNERMOST = re.compile(r"\((\d+)([-+*/])(\d+)\)|^(\d+)([-+*/])(\d+)$")
SCHEMA = schema(("attempts", "verification"))


@dataclass(frozen=True)
class WarmstartSettings:
    """Settings of `rl warmstart`."""

    out: Path | None = option(None, "Folder for primed.parquet and manifest.json", hashed=False)
    tasks: Path | None = option(None, "Folder or file of `rl tasks`; only its training split is used")
    num_traces: int = option(60_000, "Traces to write; tasks repeat, tries differ")
    give_up: float = option(0.4, "Chance that a trace ends after a try that does not fit")
    max_tries: int = option(8, "Most tries of a trace")
    max_result: int = option(30, "Largest result of an operation in a try")
    template: str = option("short", "Prompt template, as in `rl ppo`")
    tiny_size: str = option("0.6M", "Size of the tiny model written to OUT/start, whose tokenizer knows the words of these traces")
    seed: int = option(0, "Seed of tasks and tries, and of the model")


def run(settings: WarmstartSettings) -> None:
    """Write a primed set of honest tries and a tiny model to train on it: `train sft --data OUT/primed --model OUT/start`."""
    started = time.monotonic()
    out, source = require(settings.out, "out"), require(settings.tasks, "tasks")
    if not (0 <= settings.give_up <= 1 and settings.max_tries >= 1 and 1 <= settings.max_result <= MAX_RESULT):
        raise UserError(f"--give-up is from 0 to 1, --max-tries at least 1, --max-result from 1 to {MAX_RESULT}")
    tasks = read_tasks(source, "train")
    if not tasks:
        raise UserError(f"{source} has no training tasks")
    if (largest := max(max(*numbers, target) for numbers, target in tasks)) > settings.max_result:
        raise UserError(
            f"{source} has numbers up to {largest}: --max-result (now {settings.max_result}) is at least that, at most {MAX_RESULT}"
        )
    generator = random.Random(settings.seed)
    rows = []
    for _ in range(settings.num_traces):
        numbers, target = generator.choice(tasks)
        tries = 1
        while tries < settings.max_tries and generator.random() >= settings.give_up:
            tries += 1
        completion, attempts = trace(numbers, target, tries, generator, settings.max_result)
        row = {
            "prompt": render(settings.template, numbers, target),
            "completion": completion,
            "kind": "warmstart",
            "numbers": list(numbers),
            "target": target,
            "correct": score(completion, numbers, target, syntax="strict").correct,
            "attempts": attempts,
            "verification": attempts,
        }
        rows.append(row)
    write_part(out / "primed" / "primed.parquet", pa.Table.from_pylist(rows, SCHEMA))
    write_start(settings.tiny_size, WORDS, settings.seed, out / "start")
    file = source / FILE_NAME if source.is_dir() else source
    share = sum(bool(row["correct"]) for row in rows) / len(rows)
    manifest = Manifest(
        stage="warmstart",
        settings=to_dict(settings),
        inputs=[InputFile(str(file), file_sha256(file), len(tasks))],
        rows_made=len(rows),
        rows_out=len(rows),
        seed=settings.seed,
        seconds=time.monotonic() - started,
        notes={"share_correct": share},
    )
    manifest.write(out)
    print(
        f"{len(rows)} traces in {out / 'primed'}, {share:.1%} of them end with the right answer; a model to start from in {out / 'start'}"
    )


def write_start(size: str, words: Sequence[str], seed: int, folder: Path) -> None:
    """A random tiny model and a tokenizer that knows `words`, as a Hugging Face folder."""
    import torch

    from train.export import export_model
    from train.tiny import make_tiny_model, make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer(words)
    export_model(make_tiny_model(size, len(tokenizer), seed), tokenizer, folder, dtype=torch.float32)


def trace(numbers: tuple[int, ...], target: int, tries: int, generator: random.Random, max_result: int = MAX_RESULT) -> tuple[str, int]:
    """One completion and its number of tries: at most `tries` different ones, ending at the first that fits."""
    lines: list[str] = []
    tried: set[str] = set()
    expression = ""
    for _ in range(tries):
        for _ in range(20):  # a fresh one; small hands may run out of them
            expression = random_expression(numbers, generator, max_result)
            if expression not in tried:
                break
        tried.add(expression)
        worked = in_steps(expression)
        fits = worked.rsplit("=", 1)[1] == str(target)
        lines.append(f"{worked}{AGAINST}{target}{YES if fits else NO}")
        if fits:
            break
    return "".join(lines) + f"<answer>{expression}</answer>", len(lines)


def random_expression(numbers: tuple[int, ...], generator: random.Random, max_result: int = MAX_RESULT) -> str:
    """A random expression over all numbers, larger operands first, whose results are integers from 0 to `max_result`; outermost bare."""
    while True:
        parts = [(str(number), number) for number in numbers]
        while len(parts) > 1:
            pair = [parts.pop(generator.randrange(len(parts))) for _ in range(2)]
            (a, x), (b, y) = sorted(pair, key=lambda part: -part[1])
            results = {"+": x + y, "-": x - y, "*": x * y}
            if y and x % y == 0:
                results["/"] = x // y
            fine = [(sign, value) for sign, value in results.items() if value <= max_result]
            if not fine:
                break
            sign, value = generator.choice(fine)
            parts.append((f"({a}{sign}{b})", value))
        if len(parts) == 1:
            text = parts[0][0]
            return text[1:-1] if text.startswith("(") else text


def in_steps(expression: str) -> str:
    """`(4*7)-1` -> `4*7=28,28-1=27`: the leftmost innermost operation at each step."""
    steps: list[str] = []

    def step(match: re.Match[str]) -> str:
        steps.append(f"{match[0].strip('()')}={_result(match)}")
        return _result(match)

    while not expression.isdigit():
        expression = _INNERMOST.sub(step, expression, count=1)
    return ",".join(steps)


def _result(match: re.Match[str]) -> str:
    a, sign, b = match.group(1, 2, 3) if match[1] else match.group(4, 5, 6)
    x, y = int(a), int(b)
    return str({"+": x + y, "-": x - y, "*": x * y, "/": x // y if y else 0}[sign])
