"""The paper's kind of judge: a language model that counts a behavior in a Countdown trace. Our own wording of the four questions.

Source of the questions' content: research code `behavioral_evals/gpt_api_eval.py` of kanishkg/cognitive-behaviors: checks of a result
against the target, implicit ones too; every new combination of numbers that does not use the last result; stated intermediate goals;
steps that start from the target. There, an answer without a number counts as 0; here it is counted as unanswered.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

from curate.engines.base import GenerateRequest, Prompt
from curate.engines.settings import EngineSettings, make_engine
from curate.records.progress import progress

NUMBER = re.compile(r"<\s*count\s*>\s*(\d{1,6})\s*<\s*/\s*count\s*>", re.IGNORECASE)
MAX_TOKENS = 512
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


def judge(rows: Sequence[dict[str, Any]], engine: EngineSettings) -> list[dict[str, int | None]]:
    """Counts by behavior for each row (`numbers`, `target`, `response`); None where the judge gave no number or failed.

    Raises EngineError when the endpoint cannot be used.
    """
    found: list[dict[str, int | None]] = [dict.fromkeys(QUESTIONS) for _ in rows]
    requests = (
        GenerateRequest((place, name), _prompt(row, question), MAX_TOKENS)
        for place, row in enumerate(rows)
        for name, question in QUESTIONS.items()
    )
    with make_engine(engine) as made, progress("judged", len(rows) * len(QUESTIONS), unit="answers") as advance:
        for answer in made.generate(requests):
            place, name = cast(tuple[int, str], answer.key)
            numbers = NUMBER.findall(answer.text) if answer.error is None else []
            found[place][name] = int(numbers[-1]) if numbers else None
            advance(1)
    return found


def _prompt(row: dict[str, Any], question: str) -> Prompt:
    listed = ", ".join(map(str, row["numbers"]))
    body = f"Numbers: {listed}. Target: {row['target']}.\n<attempt>\n{row['response']}\n</attempt>\n\n"
    tail = f"{question} Think it through briefly, then give the number (0 if there is none) as <count>number</count>."
    return Prompt(HEAD, body, tail)
