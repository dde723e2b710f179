"""The reward file that `rl export-verl` writes: this module's text, copied as it is. Standard library only; nothing of fourhabits.

`compute_score` is what verl calls with the response alone (its prompt is not in it). Same rules as fourhabits' `rl.scoring`, default
syntax: the last complete <answer>…</answer>; integers, + - * /, brackets, unary minus; every number once; exact rationals; no eval;
bounded work.
"""

import re

OPEN, CLOSE = "<answer>", "</answer>"
MAX_CHARS = 1_000
MAX_DEPTH = 64
FORMAT_REWARD = 0.1
_TOKEN = re.compile(r"[0-9]+|\S")
_TRAILING_VALUE = re.compile(r"\s*=\s*[-−]?\s*[0-9]+(?:[./][0-9]+)?\s*$")
_FENCE = re.compile(r"^\s*```[A-Za-z]*\s|```\s*$|^\s*`(?!`)|(?<!`)`\s*$")
_SIGNS = str.maketrans({"×": "*", "·": "*", "∙": "*", "⋅": "*", "÷": "/", "∕": "/", "−": "-", "–": "-", "＋": "+"})
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "u": 3}


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """1 for a correct answer, FORMAT_REWARD for any other complete one, 0 without; `acc` is 1 or 0."""
    numbers = [int(number) for number in ground_truth["numbers"]]
    target = int(ground_truth["target"])
    text = extract(solution_str)
    if text is None:
        return {"score": 0.0, "acc": 0.0}
    correct = is_correct(text.strip(), numbers, target)
    return {"score": 1.0 if correct else FORMAT_REWARD, "acc": float(correct)}


def extract(response):
    """The text of the last complete answer, or None."""
    last_close = response.rfind(CLOSE)
    start = response.rfind(OPEN, 0, last_close) if last_close >= 0 else -1
    if start < 0:
        return None
    start += len(OPEN)
    return response[start : response.find(CLOSE, start)]


def is_correct(expression, numbers, target):
    """Whether it is an expression that uses every number once and has the target as its value."""
    if len(expression) > MAX_CHARS:
        return False
    expression = _FENCE.sub("", _FENCE.sub("", expression.translate(_SIGNS)))
    if expression.count("=") == 1:
        expression = _TRAILING_VALUE.sub("", expression)
    try:
        (numerator, denominator), used = _evaluate(_TOKEN.findall(expression))
    except ValueError:
        return False
    return sorted(used) == sorted(numbers) and denominator != 0 and numerator == target * denominator


def _evaluate(tokens):
    values, operators, used = [], [], []
    expects_value, depth = True, 0
    for token in tokens:
        if token.isdigit() and token.isascii():
            if not expects_value or (token[0] == "0" and len(token) > 1):
                raise ValueError
            used.append(int(token))
            values.append((int(token), 1))
            expects_value = False
        elif token == "(" and expects_value and depth < MAX_DEPTH:
            depth += 1
            operators.append(token)
        elif token == ")" and not expects_value and depth:
            depth -= 1
            while operators[-1] != "(":
                _apply(operators.pop(), values)
            operators.pop()
        elif token == "-" and expects_value and not (operators and operators[-1] == "u"):
            operators.append("u")
        elif token in ("+", "-", "*", "/") and not expects_value:
            while operators and operators[-1] != "(" and _RANK[operators[-1]] >= _RANK[token]:
                _apply(operators.pop(), values)
            operators.append(token)
            expects_value = True
        else:
            raise ValueError
    if expects_value or depth:
        raise ValueError
    while operators:
        _apply(operators.pop(), values)
    return values[0], used


def _apply(operator, values):
    c, d = values.pop()
    if operator == "u":
        values.append((-c, d))
        return
    a, b = values.pop()
    if b == 0 or d == 0:
        values.append((0, 0))
    elif operator in "+-":
        values.append((a * d + (c if operator == "+" else -c) * b, b * d))
    elif operator == "*":
        values.append((a * c, b * d))
    else:
        values.append((a * d, b * c))
