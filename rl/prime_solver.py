"""Traces of `rl prime` by the exact solver: written with the behaviors of a kind, and confirmed by the parser."""

import random
from math import inf
from typing import TYPE_CHECKING, Any

from curate.records.errors import UserError
from curate.records.progress import progress
from rl import prime_traces, primed, traces
from rl.countdown import Task
from rl.prime_traces import BACKTRACKING, EVERY, FILLER, PROFILES, Plan
from rl.primed import Made
from rl.scoring import score

if TYPE_CHECKING:
    from rl.prime import PrimeSettings

THINK = "think"
SEARCH = 64  # dots around the first guess
NO_PLAN = "the target is among the numbers, or no solution within --max-result ends with a given number and has a near miss"
MORE = "more tasks (`rl tasks --num-train`), --traces-per-task, or fewer traces"


def make(settings: "PrimeSettings", tasks: list[Task], wanted: int) -> Made:
    """`wanted` confirmed traces in a seeded order of tasks. A plan counts when its traces of every kind are what they should be, so
    that all kinds are about the same tasks. Raises UserError when there are too few."""
    made = Made()
    order = seeded_order(len(tasks), settings.seed)
    encode = _encoder(settings) if settings.tokenizer else None
    rounds = ((number, place) for number in range(settings.traces_per_task) for place in order)
    with progress("traces", wanted, unit="traces") as advance:
        for number, place in rounds:
            numbers, target = tasks[place]
            seed = f"{settings.seed}:{number}:{place}"
            failures = random.Random(f"{seed}:failures").randint(settings.min_failures, settings.max_failures)
            plan = prime_traces.make_plan(numbers, target, failures, seed, settings.max_result or inf)
            if plan is None:
                made.dropped[NO_PLAN] += 1
                continue
            if not all(conforms(plan, kind, settings, encode) for kind in PROFILES if kind != "placeholder"):
                made.dropped["the parser reads another profile"] += 1
                continue
            made.rows.append(_row(plan, settings, encode))
            advance(1)
            if len(made.rows) == wanted:
                break
    made.cut(wanted, str(settings.tasks), MORE)
    return made


def seeded_order(num_tasks: int, seed: int) -> list[int]:
    """Tasks in the order in which traces are made of them, the same for every kind and source."""
    order = list(range(num_tasks))
    random.Random(seed).shuffle(order)
    return order


def conforms(plan: Plan, kind: str, settings: "PrimeSettings", encode: Any = None) -> bool:
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


def completion(plan: Plan, kind: str, settings: "PrimeSettings", encode: Any = None, thoughts: str | None = None) -> str:
    """Thoughts and answer as the model should write them after the prompt. `encode` gives the tokens in which `linear` is measured, else
    it is characters; `thoughts` replaces those of `kind`."""
    if thoughts is None:
        thoughts = prime_traces.write(plan, kind, settings.voice, (lambda text: len(encode(text))) if encode else len)
    answer = prime_traces.answer_of(plan, kind)
    if settings.voice == "terse":
        answer = answer.replace(" ", "")
    return completed(thoughts, answer, settings.template)


def completed(thoughts: str, answer: str, template: str | None) -> str:
    """What follows the prompt."""
    if template == "tinyzero":  # its prompt ends with an open <think>
        return f"{thoughts}</{THINK}>\n<answer>{answer}</answer>"
    end = "" if not thoughts or thoughts.endswith("\n") else "\n"
    return f"{thoughts}{end}<answer>{answer}</answer>"


def _row(plan: Plan, settings: "PrimeSettings", encode: Any) -> dict[str, Any]:
    if settings.kind == "placeholder":
        text = completion(plan, "placeholder", settings, thoughts=placeholder(prime_traces.write(plan, "all", settings.voice), encode))
    else:
        text = completion(plan, settings.kind, settings, encode)
    return primed.row(settings.kind, str(settings.template), (plan.numbers, plan.target), text)


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


def _encoder(settings: "PrimeSettings") -> Any:
    from train.model import load_tokenizer

    name = str(settings.tokenizer)
    if name.split(":")[0] == "tiny":
        from train.tiny import make_tiny_tokenizer

        tokenizer = make_tiny_tokenizer(prime_traces.TERSE_WORDS)
    else:
        tokenizer = load_tokenizer(name)
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
