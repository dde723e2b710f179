"""What a model is asked for when it writes priming traces: a plan by the exact solver, put into its own words.

Our own wording. In the reference, Claude is given the query and searches by itself (`generate_cot_datasets/api_gen.py`); here the
attempts are given, so that sets of all kinds, whoever writes them, are about the same tasks with the same attempts.
"""

from functools import cache

from curate.engines.base import Prompt
from rl.prime_plans import Plan, make_plan
from rl.prime_traces import BACKWARD, PROFILES, SUBGOAL, VERIFICATION, Voice, tell, write

ASKED_KINDS = ("all", "backtracking", "backtracking+verification", "backtracking+subgoals", "backtracking+backward", "incorrect-all")
TAG = "thoughts"
OUTLINE = Voice(
    opening=("name the numbers {numbers} and the target {target}\n",),
    attempt=("try {steps}",),
    then=(", then ",),
    missed=("; say that this is not {target}\n",),
    low=("; say that this is too low\n",),
    high=("; say that this is too high\n",),
    drop=("give that up and start over with the given numbers\n",),
    subgoal=("say that you need to make {goal} first\n",),
    backward=("go back from the target: {undone}, so the other numbers must give {rest}\n",),
    reached=("; say that this is the target\n",),
    plain=("\n",),
    give_up=("keep that last one as the answer although it is wrong\n",),
    fact=("{steps}\n",),
)
GAME = (
    "In the game Countdown, given numbers, each used once, are combined with +, -, * and / into a target. You are given a plan and write "
    "what a person thinks who plays by it: aloud, in the first person, in plain and lively English, worded differently every time.\n\n"
    "Rules:\n"
    "- Follow the plan line by line. Compute everything that it computes, in its order, and nothing else.\n"
    "- Write each operation with its result, as in 3 * 5 = 15: digits, one of + - * /, no words for them.\n"
)
WITH = {
    VERIFICATION: "- Right after the result of an attempt, with no word and no dash between, say what the plan says of it: `= 27, too "
    "high`, `= 27. Too small.`, `= 27, not 24`, `= 27, which is not 24`, `= 24, which is the target`, `= 24. Yes, that is it.` Say nothing "
    "else of results.\n",
    SUBGOAL: "- Where the plan names a number to make first, write `need to make` or `want to make` and the number.\n",
    BACKWARD: "- Where the plan goes back from the target, write that operation as it stands.\n",
}
WITHOUT = {
    VERIFICATION: "- Say of no result whether it is the target, right, wrong, close, too low or too high, nor `no` or `nope`; go on.\n",
    SUBGOAL: "- Never say that a number is needed or wanted, or is to be made, reached or got.\n",
    BACKWARD: "- Do not compute with the target.\n",
}
END = f"- Do not write the final expression, it is added. Write <{TAG}>, the thoughts, </{TAG}>, and nothing besides.\n\n"
EXAMPLES = (make_plan((3, 5, 9), 24, 2, "example"), make_plan((2, 4, 6, 7), 20, 1, "another"))


def prompt(plan: Plan, kind: str) -> Prompt:
    """The request for one trace; its head is the same for all of a kind."""
    return Prompt(head(kind), f"Plan:\n{outline(plan, kind)}\n", f"Write the <{TAG}>.")


@cache
def head(kind: str) -> str:
    """The game, the rules of the kind, and two examples by the exact solver."""
    rules = "".join((WITH if name in PROFILES[kind] else WITHOUT)[name] for name in WITH)
    shown = "".join(f"Plan:\n{outline(plan, kind)}\n<{TAG}>{write(plan, kind, 'prose')}</{TAG}>\n\n" for plan in EXAMPLES if plan)
    return f"{GAME}{rules}{END}{shown}"


def outline(plan: Plan, kind: str) -> str:
    """The plan of one trace, a line an act."""
    return "".join(f"- {line.strip()}\n" for line in tell(plan, kind, OUTLINE).splitlines())
