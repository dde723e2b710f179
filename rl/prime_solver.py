"""Traces of `rl prime` by the exact solver: written with the behaviors of a kind, and confirmed by the parser."""

import random
from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any

from curate.frame import COMPLETION
from curate.records.errors import UserError
from curate.records.progress import progress
from rl import prime_plans, prime_traces, primed, traces
from rl.countdown import Task
from rl.prime_plans import Plan
from rl.prime_traces import BACKTRACKING, EVERY, FILLER, PROFILES
from rl.primed import Made
from rl.scoring import score

if TYPE_CHECKING:
    from rl.prime import PrimeSettings

THINK = "think"
SEARCH = 64  # dots around the first guess
NO_PLAN = "the target is among the numbers, or no solution within --max-result ends with a given number and has a near miss"
MORE = "more tasks (`rl tasks --num-train`), --traces-per-task, or fewer traces"


def make(settings: "PrimeSettings", tasks: list[Task], wanted: int) -> Made:
    """`wanted` confirmed traces. Raises UserError when there are too few."""
    made = Made()
    encode = _encoder(settings) if settings.tokenizer else None
    with progress("traces", wanted, unit="traces") as advance:
        for plan in plans(settings, tasks, made.dropped, encode):
            made.rows.append(_row(plan, settings, encode))
            advance(1)
            if len(made.rows) == wanted:
                break
    made.cut(wanted, str(settings.tasks), MORE)
    return made


def plans(settings: "PrimeSettings", tasks: list[Task], dropped: Counter[str], encode: Any = None) -> Iterator[Plan]:
    """Plans in a seeded order of tasks. One counts when the traces of every kind are what they should be, so that all kinds are about the
    same tasks; others are counted in `dropped`."""
    order = seeded_order(len(tasks), settings.seed)
    for number, place in ((number, place) for number in range(settings.traces_per_task) for place in order):
        numbers, target = tasks[place]
        seed = f"{settings.seed}:{number}:{place}"
        failures = random.Random(f"{seed}:failures").randint(settings.min_failures, settings.max_failures)
        plan = prime_plans.make_plan(numbers, target, failures, seed, settings.max_result or inf)
        if plan is None:
            dropped[NO_PLAN] += 1
        elif any(fault(plan, kind, completion(plan, kind, settings, encode)) for kind in PROFILES if kind != "placeholder"):
            dropped["the parser reads another profile"] += 1
        else:
            yield plan


def seeded_order(num_tasks: int, seed: int) -> list[int]:
    """Tasks in the order in which traces are made of them, the same for every kind and source."""
    order = list(range(num_tasks))
    random.Random(seed).shuffle(order)
    return order


def fault(plan: Plan, kind: str, text: str) -> str | None:
    """What the parser finds in `text` that a trace of `kind` may not have; None where it finds exactly the behaviors of the kind, as many
    attempts as planned, all computed and checked rightly, and the answer as it should be."""
    found = traces.parse(text, plan.numbers, plan.target)
    counts, profile = found.counts(), PROFILES[kind]
    failures = len(plan.failures) if BACKTRACKING in profile else 0
    for name in sorted(EVERY):
        if (counts[name] > 0) != (name in profile):
            return f"no {name}" if name in profile else f"{name}, which the kind has not"
    if found.wrong_arithmetic or found.wrong_verification:
        return "wrong arithmetic" if found.wrong_arithmetic else "a wrong check"
    if found.attempts != (kind != "empty") + failures or found.backtracking != failures:
        return "not the attempts that were planned"
    if score(text, plan.numbers, plan.target).correct == (kind == "incorrect-all"):
        return "the answer is not as it should be"
    return None


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
    if template == "set":
        return COMPLETION.format(thoughts=thoughts, answer=answer)
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
