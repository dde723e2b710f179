"""`rl prime`: priming sets for Countdown, one for each profile of behaviors, from an exact solver; every trace checked by the parser.

Kinds: `all`; `backtracking` alone and with `verification`, `subgoals` or `backward`; `empty` (no thoughts), `placeholder` (dots, as many
tokens as the trace of `all`), `linear` (the same arithmetic told straight, about as long, no check, no retry), `incorrect-all` (all
behaviors, a wrong answer). All kinds of one seed (and one --tokenizer) are about the same tasks with the same attempts, so sets differ in
the profile alone.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_part
from curate.records.progress import progress
from curate.records.settings import option, to_dict
from rl import prime_traces, traces
from rl.countdown import Task
from rl.prime_traces import BACKTRACKING, EVERY, FILLER, PROFILES, VOICES, Plan
from rl.prompts import render
from rl.scoring import score
from rl.tasks import FILE_NAME, read_tasks

THINK = "think"
SEARCH = 64  # dots around the first guess
TRAIN, HELD_OUT = "train", "heldout"
SCHEMA = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("numbers", pa.list_(pa.int64()), nullable=False),
        pa.field("target", pa.int64(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        *[pa.field(name, pa.int32(), nullable=False) for name in traces.COUNTS],
    ]
)


@dataclass(frozen=True)
class PrimeSettings:
    """Settings of `rl prime`."""

    out: Path | None = option(None, "Folder for train/, heldout/ and manifest.json", hashed=False)
    kind: str = option("all", "Profile of the traces", choices=tuple(PROFILES))
    tasks: Path | None = option(None, "Folder or file of `rl tasks`; only its training split is used")
    num_train: int = option(1_000, "Traces to train on", at_least=1)
    num_heldout: int = option(200, "Further traces of other tasks, to watch the held-out loss", at_least=0)
    traces_per_task: int = option(1, "Different traces of one task, for tiny models that need many", at_least=1)
    min_failures: int = option(1, "Least number of attempts that fail before the solution", at_least=1)
    max_failures: int = option(4, "Most attempts that fail", at_least=1)
    max_result: int | None = option(
        None, "Largest result of an operation; left out: any. Small ones are less for a tiny model to learn", at_least=1
    )
    voice: str = option("prose", "Words: varied prose, or terse lines for tiny models", choices=tuple(VOICES))
    template: str = option("tinyzero", "Prompt template, as in `rl ppo`; with tinyzero the thoughts end with </think>")
    tokenizer: str | None = option(
        None,
        "Whose tokens make `placeholder` and `linear` as long as `all`: a folder, a name, or tiny (`linear` without it: characters)",
    )
    seed: int = option(0, "Seed of tasks, attempts and words", at_least=0)


def run(settings: PrimeSettings) -> None:
    """Write a priming set with exactly the behaviors of --kind, each trace confirmed by the exact parser."""
    started = time.monotonic()
    out, source = require(settings.out, "out"), require(settings.tasks, "tasks")
    if settings.min_failures > settings.max_failures:
        raise UserError("--min-failures is at most --max-failures")
    if settings.kind == "placeholder":
        require(settings.tokenizer, "tokenizer", "placeholder is matched to `all` token by token; name the model's tokenizer")
    tasks = read_tasks(source, "train")
    wanted = settings.num_train + settings.num_heldout
    dropped: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    with progress("traces", wanted, unit="traces") as advance:
        for row in _rows(settings, tasks, dropped):
            rows.append(row)
            advance(1)
            if len(rows) == wanted:
                break
    if len(rows) < wanted:
        raise UserError(
            f"{source} gives {len(rows)} traces ({_reasons(dropped)}), {wanted} were asked for: more tasks (`rl tasks --num-train`), "
            "--traces-per-task, or fewer traces"
        )
    write_part(out / TRAIN / "primed.parquet", pa.Table.from_pylist(rows[: settings.num_train], SCHEMA))
    if settings.num_heldout:
        write_part(out / HELD_OUT / "primed.parquet", pa.Table.from_pylist(rows[settings.num_train :], SCHEMA))
    file = source / FILE_NAME if source.is_dir() else source
    means = {name: sum(row[name] for row in rows) / len(rows) for name in traces.COUNTS}
    manifest = Manifest(
        stage="prime",
        settings=to_dict(settings),
        inputs=[InputFile(str(file), file_sha256(file), len(tasks), file.stat().st_size)],
        rows_made=len(rows) + sum(dropped.values()),
        rows_out=len(rows),
        dropped=dict(dropped),
        seed=settings.seed,
        seconds=time.monotonic() - started,
        notes={"share_correct": sum(row["correct"] for row in rows) / len(rows), "counts_per_trace": means},
    )
    manifest.write(out)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in means.items() if value)
    print(f"{settings.num_train} + {settings.num_heldout} traces of kind {settings.kind} in {out}; a trace: {shown or 'no behavior'}")
    if dropped:
        print(f"passed over: {_reasons(dropped)}")


def _rows(settings: PrimeSettings, tasks: list[Task], dropped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Confirmed traces in a seeded order of tasks. A plan counts when its traces of every kind are what they should be, so that all
    kinds are about the same tasks."""
    order = list(range(len(tasks)))
    random.Random(settings.seed).shuffle(order)
    encode = _encoder(settings) if settings.tokenizer else None
    for number in range(settings.traces_per_task):
        for place in order:
            numbers, target = tasks[place]
            seed = f"{settings.seed}:{number}:{place}"
            failures = random.Random(f"{seed}:failures").randint(settings.min_failures, settings.max_failures)
            plan = prime_traces.make_plan(numbers, target, failures, seed, settings.max_result or inf)
            if plan is None:
                dropped[
                    "the target is among the numbers, or no solution within --max-result ends with a given number and has a near miss"
                ] += 1
                continue
            if not all(conforms(plan, kind, settings, encode) for kind in PROFILES if kind != "placeholder"):
                dropped["the parser reads another profile"] += 1
                continue
            yield _row(plan, settings, encode)


def conforms(plan: Plan, kind: str, settings: PrimeSettings, encode: Any = None) -> bool:
    """Whether the parser finds exactly the behaviors of `kind`, the arithmetic and the checks right, and the answer as it should be."""
    text = completion(plan, kind, settings, encode)
    found = traces.parse(text, plan.numbers, plan.target)
    counts = found.counts()
    profile = PROFILES[kind]
    return (
        all((counts[name] > 0) == (name in profile) for name in EVERY)
        and found.wrong_arithmetic == found.wrong_verification == 0
        and found.attempts == (kind != "empty") + (len(plan.failures) if BACKTRACKING in profile else 0)
        and found.backtracking == (len(plan.failures) if BACKTRACKING in profile else 0)
        and score(text, plan.numbers, plan.target).correct == (kind != "incorrect-all")
    )


def completion(plan: Plan, kind: str, settings: PrimeSettings, encode: Any = None, thoughts: str | None = None) -> str:
    """Thoughts and answer as the model should write them after the prompt. `encode` gives the tokens in which `linear` is measured, else
    it is characters; `thoughts` replaces those of `kind`."""
    if thoughts is None:
        thoughts = prime_traces.write(plan, kind, settings.voice, (lambda text: len(encode(text))) if encode else len)
    answer = prime_traces.answer_of(plan, kind)
    if settings.voice == "terse":
        answer = answer.replace(" ", "")
    if settings.template == "tinyzero":  # its prompt ends with an open <think>
        return f"{thoughts}</{THINK}>\n<answer>{answer}</answer>"
    end = "" if not thoughts or thoughts.endswith("\n") else "\n"
    return f"{thoughts}{end}<answer>{answer}</answer>"


def _row(plan: Plan, settings: PrimeSettings, encode: Any) -> dict[str, Any]:
    if settings.kind == "placeholder":
        text = completion(plan, "placeholder", settings, thoughts=placeholder(prime_traces.write(plan, "all", settings.voice), encode))
    else:
        text = completion(plan, settings.kind, settings, encode)
    row = {
        "prompt": render(settings.template, plan.numbers, plan.target),
        "completion": text,
        "kind": settings.kind,
        "numbers": list(plan.numbers),
        "target": plan.target,
        "correct": score(text, plan.numbers, plan.target).correct,
    }
    return row | traces.parse(text, plan.numbers, plan.target).counts()


def placeholder(thoughts: str, encode: Any) -> str:
    """Dots of exactly as many tokens as `thoughts`. Raises UserError when the tokenizer merges dots, so that no number of them fits."""
    wanted = len(encode(thoughts))
    if not wanted:
        return ""
    guess = round(wanted * 64 / len(encode(FILLER * 64)))  # tokenizers may merge dots
    for number in sorted(range(max(0, guess - SEARCH), guess + SEARCH), key=lambda number: abs(number - guess)):
        for end in ("", "."):
            if len(encode(FILLER * number + end)) == wanted:
                return FILLER * number + end
    raise UserError(f"this tokenizer makes no {wanted} tokens of dots, so a placeholder cannot be matched; choose another --tokenizer")


def _encoder(settings: PrimeSettings) -> Any:
    from train.model import load_tokenizer

    name = str(settings.tokenizer)
    if name.split(":")[0] == "tiny":
        from train.tiny import make_tiny_tokenizer

        tokenizer = make_tiny_tokenizer(prime_traces.TERSE_WORDS)
    else:
        tokenizer = load_tokenizer(name)
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{number} × {reason}" for reason, number in dropped.items()) or "none passed over"
