"""What a Countdown response is worth: the last complete `<answer>…</answer>`, parsed and evaluated exactly.

No `eval`, no floats, no powers: an own parser over integers, `+ - * /`, brackets and unary minus, with rationals as pairs of
integers. Work is bounded on any input: tags are found by one scan from the right, an expression longer than `MAX_CHARS` or deeper
than `MAX_DEPTH` is refused unread. The reference's scorer, with its defects, is `rl.tinyzero`.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

OPEN, CLOSE = "<answer>", "</answer>"
MAX_CHARS = 1_000
MAX_DEPTH = 64
FORMAT_REWARD = 0.1
SYNTAXES = ("default", "strict")
NUMBER_RULES = ("all", "any-subset")

_TOKEN = re.compile(r"[0-9]+|\S")
_TRAILING_VALUE = re.compile(r"\s*=\s*[-−]?\s*[0-9]+(?:[./][0-9]+)?\s*$")
_FENCE = re.compile(r"^\s*```[A-Za-z]*\s|```\s*$|^\s*`(?!`)|(?<!`)`\s*$")
_SIGNS = str.maketrans({"×": "*", "·": "*", "∙": "*", "⋅": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "＋": "+"})
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "u": 3}


class Score(NamedTuple):
    """`value` is the reward (1, the format reward, or 0), `reason` one of the keys of `REASONS`, `expression` what was found."""

    value: float
    correct: bool
    reason: str
    expression: str | None


REASONS = {
    "correct": "every number as the task says, and the value is the target",
    "wrong_value": "a fine expression with another value",
    "numbers": "the numbers used are not the numbers given",
    "division_by_zero": "a denominator is zero",
    "no_answer": "no complete <answer>…</answer>",
    "empty": "nothing between the tags",
    "too_long": f"more than {MAX_CHARS} characters between the tags",
    "too_deep": f"brackets deeper than {MAX_DEPTH}",
    "power": "** or ^",
    "floor_division": "//",
    "float": "a number with a decimal point",
    "leading_zero": "a number such as 07",
    "call": "something called: a bracket right after a number or a name",
    "name": "a letter or underscore",
    "equals": "an = that is not a lone trailing value",
    "character": "a character that no expression has",
    "syntax": "operators, numbers and brackets in an order that means nothing",
}


class Refused(Exception):
    """The expression is not one; `args[0]` is a key of `REASONS`."""


def extract(response: str) -> str | None:
    """The text inside the last `<answer>` that is closed, up to its first `</answer>`; None when there is none. One linear scan."""
    last_close = response.rfind(CLOSE)
    if last_close < 0:
        return None
    start = response.rfind(OPEN, 0, last_close)
    if start < 0:
        return None
    start += len(OPEN)
    return response[start : response.find(CLOSE, start)]


def score(
    response: str,
    numbers: Sequence[int],
    target: int,
    *,
    syntax: str = "default",
    rule: str = "all",
    format_reward: float = FORMAT_REWARD,
) -> Score:
    """Score one response (without its prompt).

    Every number is used exactly once (`rule="any-subset"`: at most once, and at least one). `syntax="strict"` takes ASCII only and
    no trailing `= value`. Never raises on any text. A complete answer that is not correct is worth `format_reward`, as published.
    """
    text = extract(response)
    if text is None:
        return Score(0.0, False, "no_answer", None)
    expression = text.strip()
    try:
        (numerator, denominator), used = evaluate(expression, syntax)
    except Refused as refusal:
        return Score(format_reward, False, refusal.args[0], expression[:MAX_CHARS])
    if not _numbers_fit(used, numbers, rule):
        return Score(format_reward, False, "numbers", expression)
    if denominator == 0:
        return Score(format_reward, False, "division_by_zero", expression)
    if numerator != target * denominator:
        return Score(format_reward, False, "wrong_value", expression)
    return Score(1.0, True, "correct", expression)


def evaluate(expression: str, syntax: str = "default") -> tuple[tuple[int, int], list[int]]:
    """The value of an expression as (numerator, denominator), not reduced, denominator 0 after a division by zero; and its numbers.

    Raises Refused with a reason. Shunting-yard over at most MAX_CHARS characters, so time and the size of integers are bounded.
    """
    if len(expression) > MAX_CHARS:
        raise Refused("too_long")
    if syntax == "default":
        expression = _plain(expression)
    elif not expression.isascii():
        raise Refused(_why_not(expression))
    tokens = _TOKEN.findall(expression)
    if not tokens:
        raise Refused("empty")
    values: list[tuple[int, int]] = []
    operators: list[str] = []
    used: list[int] = []
    expects_value = True
    depth = 0
    for token in tokens:
        if token.isdigit() and token.isascii():
            if not expects_value or (token[0] == "0" and len(token) > 1):
                raise Refused(_why_not(expression))
            number = int(token)
            used.append(number)
            values.append((number, 1))
            expects_value = False
        elif token == "(":
            if not expects_value:
                raise Refused(_why_not(expression))
            depth += 1
            if depth > MAX_DEPTH:
                raise Refused("too_deep")
            operators.append(token)
        elif token == ")":
            if expects_value or not depth:
                raise Refused(_why_not(expression))
            depth -= 1
            while (operator := operators.pop()) != "(":
                _apply(operator, values)
        elif token in _PRECEDENCE and token != "u":
            if expects_value:
                if token != "-" or (operators and operators[-1] == "u"):
                    raise Refused(_why_not(expression))
                operators.append("u")
                continue
            rank = _PRECEDENCE[token]
            while operators and operators[-1] != "(" and _PRECEDENCE[operators[-1]] >= rank:
                _apply(operators.pop(), values)
            operators.append(token)
            expects_value = True
        else:
            raise Refused(_why_not(expression))
    if expects_value or depth:
        raise Refused(_why_not(expression))
    while operators:
        _apply(operators.pop(), values)
    return values[0], used


def _apply(operator: str, values: list[tuple[int, int]]) -> None:
    c, d = values.pop()
    if operator == "u":
        values.append((-c, d))
        return
    a, b = values.pop()
    if b == 0 or d == 0:
        values.append((0, 0))  # a division by zero somewhere below spoils everything above
    elif operator == "+":
        values.append((a * d + c * b, b * d))
    elif operator == "-":
        values.append((a * d - c * b, b * d))
    elif operator == "*":
        values.append((a * c, b * d))
    else:
        values.append((a * d, b * c))


def _numbers_fit(used: list[int], numbers: Sequence[int], rule: str) -> bool:
    if rule == "all":
        return sorted(used) == sorted(numbers)
    return not Counter(used) - Counter(numbers)


def _plain(expression: str) -> str:
    """Typographic signs to ASCII, code fences off, a lone trailing `= value` dropped."""
    if not expression.isascii():
        expression = expression.translate(_SIGNS)
    if "`" in expression:
        expression = _FENCE.sub("", _FENCE.sub("", expression))
    if expression.count("=") == 1:
        expression = _TRAILING_VALUE.sub("", expression)
    return expression


def _why_not(expression: str) -> str:
    """The most telling reason for a text that did not parse; runs only on refusals."""
    for reason, found in _DIAGNOSES:
        if found(expression):
            return reason
    return "syntax"


def _searcher(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).search


_DIAGNOSES: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("power", _searcher(r"\*\s*\*|\^")),
    ("floor_division", _searcher(r"/\s*/")),
    ("float", _searcher(r"[0-9]\.|\.[0-9]")),
    ("call", _searcher(r"[A-Za-z0-9_]\s*\(")),
    ("name", lambda text: any(sign.isalpha() or sign == "_" for sign in text)),
    ("equals", _searcher("=")),
    ("character", _searcher(r"[^0-9+\-*/()\s]")),
    ("leading_zero", _searcher(r"(?<![0-9])0[0-9]")),
)
