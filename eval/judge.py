"""The paper's kind of judge: a language model that counts a behavior in a Countdown trace. Our own wording of the four questions.

Source of the questions' content: research code `behavioral_evals/gpt_api_eval.py` of kanishkg/cognitive-behaviors: checks of a result
against the target, implicit ones too; every new combination of numbers that does not use the last result; stated intermediate goals;
steps that start from the target. There, an answer without a number counts as 0; here it is counted as one, apart from requests that
failed.

Every answer is stored when it arrives (OUT/judge, a file a response), so no answer is paid for twice.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from curate.consent import agree_to_cost
from curate.engines.base import GenerateRequest, Generation, Prompt
from curate.engines.openai import CHARS_PER_TOKEN
from curate.engines.settings import EngineSettings, make_engine
from curate.records.errors import EngineError, UserError
from curate.records.manifest import json_sha256
from curate.records.parts import write_json
from curate.records.progress import progress
from rl.prime_endpoint import RECORD, STORED, check_folder

NUMBER = re.compile(r"<\s*count\s*>\s*(\d{1,6})\s*<\s*/\s*count\s*>", re.IGNORECASE)
FOLDER = "judge"
MAX_TOKENS = 512
HOPELESS = 50  # requests that failed one and all: something is wrong with the endpoint or the model
CUT_OFF, NO_NUMBER, FAILED = "no number: cut off", "no number", "failed: "  # the last is followed by what the endpoint said
HEAD = (
    "You read attempts at the game Countdown: given numbers are combined with +, -, * and / into a target. You count how often one "
    "kind of reasoning step occurs in an attempt.\n\n"
)
QUESTIONS = {
    "verification": "Count the checks: places where a computed result is compared with the target, outright (`27 is not 24`) or by a "
    "remark that implies it (`too high`, `this works`).",
    "backtracking": "Count the turns: places where a line of computation is given up and a new combination of the given numbers is "
    "begun that does not use the result before it.",
    "subgoal_setting": "Count the stated intermediate goals: places that name a value other than the target to be made first.",
    "backward_chaining": "Count the steps from the target: places that start at the target and compute what is then needed, such as "
    "`24 / 3 = 8, so I need 8`.",
}
TAIL = " Think it through briefly, then give the number (0 if there is none) as <count>number</count>."
PROMPT_HASH = json_sha256([HEAD, QUESTIONS, TAIL, MAX_TOKENS])


@dataclass
class Judged:
    """What the judge said of one response, by question: the answers as they are stored in `path`, and why others are not there."""

    row: dict[str, Any]
    path: Path
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def columns(self) -> dict[str, int | str | None]:
        """For each question `judge_…`, a count or None, and `judge_…_problem`, why there is none."""
        found: dict[str, int | str | None] = {}
        for name in QUESTIONS:
            answer = self.answers.get(name)
            numbers = NUMBER.findall(answer["text"]) if answer else []
            problem = FAILED + self.failed.get(name, "not asked") if answer is None else CUT_OFF if answer["truncated"] else NO_NUMBER
            found[f"judge_{name}"] = int(numbers[-1]) if numbers else None
            found[f"judge_{name}_problem"] = None if numbers else problem
        return found


def judge(rows: Sequence[dict[str, Any]], engine: EngineSettings, out: Path, agreed: bool = False) -> list[dict[str, int | str | None]]:
    """Columns for each row (`numbers`, `target`, `response`), see `Judged.columns`. The same response to the same task is asked about once.

    `agreed`: the user has agreed already that responses are sent. Raises UserError when they do not agree to what is sent and spent, or
    when `out` holds another judge's answers; EngineError when the endpoint cannot be used, a budget is spent, or every request failed.
    """
    folder = out / FOLDER
    record = {"engine": engine.engine, "model": engine.model, "prompt": PROMPT_HASH}
    check_folder(folder, record)
    places = [json_sha256([list(row["numbers"]), row["target"], row["response"]]) for row in rows]
    judged: dict[str, Judged] = {}
    for key, row in zip(places, rows):
        if key not in judged:
            judged[key] = Judged(row, folder / f"{key}.json", stored(folder / f"{key}.json"))
    missing = [(key, name) for key, item in judged.items() for name in QUESTIONS if name not in item.answers]
    if missing:
        ask([(judged[key].row, name) for key, name in missing], engine, agreed)
        write_json(folder / RECORD, record)
        total = len(judged) * len(QUESTIONS)
        with make_engine(engine) as made, progress("judged", total, unit="answers", done=total - len(missing)) as advance:
            requests = (GenerateRequest((key, name), prompt(judged[key].row, name), MAX_TOKENS) for key, name in missing)
            take(made.generate(requests), judged, len(missing), advance)
    return [judged[key].columns() for key in places]


def take(answers: Iterator[Generation], judged: dict[str, Judged], wanted: int, advance: Callable[[int], None]) -> None:
    """Store answers as they come. Raises EngineError when the engine stops, or when no run ever had an answer to anything."""
    num_stored = num_failed = 0
    fresh = not any(item.answers for item in judged.values())
    try:
        for answer in answers:
            key, name = cast(tuple[str, str], answer.key)
            item = judged[key]
            if answer.error is None:
                item.answers[name] = {column: getattr(answer, column) for column in STORED}
                write_json(item.path, {"answers": item.answers})
                num_stored += 1
            else:  # it cost nothing, and may be asked again in a later run
                item.failed[name] = " ".join(answer.error.split())
                num_failed += 1
            advance(1)
            if fresh and not num_stored and num_failed == min(wanted, HOPELESS):
                raise EngineError(f"of {num_failed} requests to the judge none was answered; the last: {item.failed[name]}")
    except EngineError as error:
        if not num_stored:
            raise
        folder = next(iter(judged.values())).path.parent
        raise EngineError(
            f"{error}. The judge: {num_stored:,} of {wanted:,} answers came and are stored in {folder}; the same command asks for the rest"
        ) from error


def stored(path: Path) -> dict[str, dict[str, Any]]:
    """Answers of earlier runs to the questions about one response. Raises UserError for a file that is none of ours."""
    if not path.exists():
        return {}
    try:
        answers = json.loads(path.read_text())["answers"]
        sound = all(name in QUESTIONS and isinstance(Generation(name, **answer).text, str) for name, answer in answers.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is damaged: remove it and run the same command again") from None
    return answers


def ask(missing: Sequence[tuple[dict[str, Any], str]], engine: EngineSettings, agreed: bool) -> None:
    """Say what the missing answers take at most, and ask before responses leave the machine or more than --ask-above-dollars is spent."""
    texts = [prompt(row, name) for row, name in missing]
    asked, written = sum(len(text.head + text.body + text.tail) for text in texts) / CHARS_PER_TOKEN, len(missing) * MAX_TOKENS
    dollars = (asked * engine.price_in + written * engine.price_out) / 1e6
    cost = f", ${dollars:,.2f} at most" if dollars else ""
    num_responses = len({id(row) for row, _ in missing})
    print(
        f"plan of the judge: {len(missing):,} questions about {num_responses:,} responses to {engine.model}: about {asked:,.0f} prompt "
        f"tokens, at most {written:,} answered{cost}",
        flush=True,
    )
    agree_to_cost(f"{num_responses:,} responses are sent to {engine.base_url}", dollars, engine, "up to", agreed)


def prompt(row: dict[str, Any], name: str) -> Prompt:
    """The question `name` about a response."""
    listed = ", ".join(map(str, row["numbers"]))
    body = f"Numbers: {listed}. Target: {row['target']}.\n<attempt>\n{row['response']}\n</attempt>\n\n"
    return Prompt(HEAD, body, QUESTIONS[name] + TAIL)
