"""The reference's Countdown scorer, score for score, on an AST instead of `eval` (TinyZero `verl/utils/reward_score/countdown.py`).

Kept for comparison, with its defects: it reads the prompt as well (the text after the first "Assistant:"), of that the last line
only; `**` and `//` pass; a decimal point passes when the digit groups fit; any answer tag is worth 0.1. Two bounds are ours, where
the reference hangs or spends megabytes: a power with a large result, and an expression over `MAX_CHARS`, score as not evaluable (0.1).
"""

import ast
import operator
import re
from collections.abc import Sequence

from rl.scoring import CLOSE, OPEN, Score

MARKERS = ("Assistant:", "<|im_start|>assistant")  # what is scored follows the first of them
MAX_CHARS = 1_000
MAX_POWER_BITS = 4_096
_ALLOWED = re.compile(r"^[\d+\-*/().\s]+$")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def score(text: str, numbers: Sequence[int], target: int, *, format_reward: float = 0.1) -> Score:
    """The reference's score of prompt and response together; without "Assistant:" in `text` it is 0."""
    expression = _extract(text)
    if expression is None:
        return Score(0.0, False, "no_answer", None)
    try:
        found = sorted(int(group) for group in re.findall(r"\d+", expression[: MAX_CHARS + 1]))
    except ValueError:
        found = []
    if len(expression) > MAX_CHARS:
        return Score(format_reward, False, "too_long", expression[:MAX_CHARS])
    if found != sorted(numbers):
        return Score(format_reward, False, "numbers", expression)
    try:
        if not _ALLOWED.match(expression):
            raise ValueError
        correct = bool(abs(_value(ast.parse(expression, mode="eval").body) - target) < 1e-5)
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return Score(format_reward, False, "syntax", expression)
    return Score(1.0, True, "correct", expression) if correct else Score(format_reward, False, "wrong_value", expression)


def _extract(text: str) -> str | None:
    for marker in MARKERS:
        if marker in text:
            last_line = text.split(marker, 1)[1].split("\n")[-1]
            return _last_answer(last_line)
    return None


def _last_answer(line: str) -> str | None:
    """The last match of `<answer>(.*?)</answer>`, matches from the left; a regular expression takes quadratic time on `<answer>` * n."""
    answer, place = None, 0
    while (start := line.find(OPEN, place)) >= 0 and (end := line.find(CLOSE, start)) >= 0:
        answer, place = line[start + len(OPEN) : end], end + len(CLOSE)
    return answer if answer is None else answer.strip()


def _value(node: ast.expr) -> complex:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand)
        if isinstance(node.op, ast.USub):
            return -inner
        if isinstance(node.op, ast.UAdd):
            return inner
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_POWER_BITS:
                raise ValueError("power too large")
            return left**right
        if function := _OPERATORS.get(type(node.op)):
            return function(left, right)
    raise ValueError("not arithmetic")
