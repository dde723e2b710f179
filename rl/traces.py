"""Behaviors in a Countdown response, read exactly: every arithmetic statement is computed, and only what is written is counted.

Understood is text in which expressions over the given numbers (and results so far) are followed by `= value`, in one line or stepwise.
- an *attempt* is an expression, or a chain of steps, that uses every given number once;
- a *check* (verification) compares a result with the target in words or signs: `27 no`, `27 vs 24 no`, `27 (not 24)`, `27 ≠ 24`, `works`;
- a *try* is an attempt, or an expression that breaks the rules (a number left out, used twice) and is checked and found wanting;
  it is *abandoned* (backtracking) when it does not reach the target and another try follows;
- a check is *implicit* when nothing is said: an unchecked try that misses is given up for another, or the one that fits ends such a row;
- a *subgoal* is an announcement of an intermediate result to reach: `I need 12`, `to get 12 first`;
- a *step from the target* (backward chaining) computes with the target before it is reached: `24 - 7 = 17`.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

from rl.scoring import OPEN, Refused, evaluate

MAX_CHARS = 20_000
COUNTS = (
    "attempts",
    "fitting_attempts",
    "arithmetic",
    "wrong_arithmetic",
    "verification",
    "wrong_verification",
    "implicit_verification",
    "backtracking",
    "subgoal_setting",
    "backward_chaining",
)
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_MARKUP = re.compile(r"\*\*|\$+|\\\[|\\\]|\\left|\\right|\\q?quad|\\text\{|\\,")
_FRACTION = re.compile(r"\\frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}")
_CONTINUED = re.compile(r"[ \t]{0,8}\n[ \t]{0,8}=")  # a chain that goes on in the next line
_NUMBER = r"-?\d{1,9}(?!\d)"
_CHAIN = re.compile(r"[\d+\-*/() \t=]+")
_REMARK = re.compile(r"[\s,.;:(]{0,6}[^.\n]{0,80}")
MAX_CHAIN_CHARS = 400
MAX_READINGS = 64
_LEAD = r"^[\s,.;:()*→>!—-]{0,6}(?:and (?=that|this|it))?"
_DECIMALS = re.compile(r"^\.\d+(?:\.{3}|…)?")  # what follows the whole part of an inexact result
_SAYING = (
    rf"(?:(?:that|this)(?:.s| is| gives| equals| makes)?(?: us)?|it.s|which (?:is|gives)|still|again|we get|we got|gives(?: us)?)?"
    rf"[\s,]*(?:{_NUMBER})?[\s,]*(?:which is\s+)?"
)
_NEGATIVE = re.compile(
    _LEAD + _SAYING + r"(?:no\b|not\b|nope\b|≠|!=|too (?:low|high|small|big|large)\b|still too|wrong\b|close|✗|❌"
    r"|(?:doesn.t|does not) (?:work|match|equal))",
    re.IGNORECASE,
)
_POSITIVE = re.compile(
    _LEAD + r"(?:yes\b|✓|✅|works\b|this works|correct\b|matches\b|that.s it|(?:which )?(?:is|equals) the target)",
    re.IGNORECASE,
)
_RESULT = re.compile(rf"^[\s.]*[^=\n]{{0,70}}\bresults? (?:in|is) ({_NUMBER})", re.IGNORECASE)
_VERSUS = re.compile(rf"^\s*(?:vs\.?|versus|against)\s+{_NUMBER}[:,]?")
_SUBGOAL = re.compile(
    r"\b(?:need(?: to (?:make|get|reach))?|(?:want|try) to (?:make|get|reach)|to (?:make|get|reach)|aim for|goal is)"
    rf"\s+(?:a |an |the )?({_NUMBER})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Trace:
    """Counts of one response; see the module's text. `wrong_…` are among those counted before them."""

    attempts: int = 0
    fitting_attempts: int = 0
    arithmetic: int = 0
    wrong_arithmetic: int = 0
    verification: int = 0
    wrong_verification: int = 0
    implicit_verification: int = 0
    backtracking: int = 0
    subgoal_setting: int = 0
    backward_chaining: int = 0

    def counts(self) -> dict[str, int]:
        """As columns."""
        return asdict(self)


@dataclass(frozen=True)
class Span:
    """Where a behavior stands in the text that was read (`read` returns it): characters `start` to `end`."""

    behavior: str
    start: int
    end: int


@dataclass
class _Try:
    value: Fraction | None
    start: int
    end: int
    fits: bool
    checked: bool = False


def parse(response: str, numbers: Sequence[int], target: int) -> Trace:
    """Count behaviors in the part before the answer (at most MAX_CHARS of it). Never raises; linear in the text."""
    return read(response, numbers, target)[0]


def read(response: str, numbers: Sequence[int], target: int) -> tuple[Trace, str, list[Span]]:
    """The counts, the text as it was read (signs made ASCII, markup removed, up to the answer), and where each behavior stands in it."""
    trace, text, spans, _ = _read(response, numbers, target)
    return trace, text, spans


def results(response: str, numbers: Sequence[int], target: int) -> list[Fraction | None]:
    """What the tries of a response come to, in their order."""
    return [item.value for item in _read(response, numbers, target)[3]]


def _read(response: str, numbers: Sequence[int], target: int) -> tuple[Trace, str, list[Span], list[_Try]]:
    text = _plain(response[:MAX_CHARS])
    wanted = sorted(numbers)
    counts = dict.fromkeys(COUNTS, 0)
    spans: list[Span] = []
    tries: list[_Try] = []
    tried: set[str] = set()
    made: dict[int, list[list[int]]] = {}  # result of a step -> the given numbers it has used up, for each time it was made
    for found in _CHAIN.finditer(text):
        chain = found.group(0)
        if "=" not in chain or len(chain) > MAX_CHAIN_CHARS:
            continue
        sides = [side for side in _sides(chain) if side is not None]
        if len(sides) < 2:
            continue
        (value, used), *others = sides
        if value is None:
            continue
        counts["arithmetic"] += len(others)
        counts["wrong_arithmetic"] += sum(other != value for other, _ in others)
        stated = others[-1][0]
        leaves = _leaves(used, wanted, made)
        said = None  # the try that a verdict after this chain is about
        if target in used and target not in numbers and target not in made:
            counts["backward_chaining"] += 1
            spans.append(Span("backward_chaining", found.start(), found.end()))
        elif leaves == wanted:
            expression = chain.split("=", 1)[0].replace(" ", "")
            if not (value == target and expression in tried):  # a solution said again is not another attempt
                said = _Try(value, found.start(), found.end(), fits=value == target)
                tries.append(said)
                counts["attempts"] += 1
                counts["fitting_attempts"] += value == target
            elif tries:
                said = tries[-1]
            tried.add(expression)
            made.clear()
        elif leaves is not None and stated is not None and stated.denominator == 1:
            made.setdefault(abs(int(stated)), []).append(leaves)  # `28 + (-65)` uses a -65 made before
        verdict = _verdict(text[found.end() : found.end() + 120], target)
        if verdict is not None and stated is not None:
            if leaves != wanted and verdict is False and stated != target:
                said = _Try(stated, found.start(), found.end(), fits=False)
                tries.append(said)
                made.clear()
            if said is not None:
                said.checked = True
            counts["verification"] += 1
            counts["wrong_verification"] += verdict != (stated == target)
            spans.append(Span("verification", found.end(), _end_of_saying(text, found.end())))
    for place, item in enumerate(tries[:-1]):
        if not item.fits:
            counts["backtracking"] += 1
            spans.append(Span("backtracking", item.start, tries[place + 1].start))
            counts["implicit_verification"] += not item.checked
    counts["implicit_verification"] += counts["implicit_verification"] > 0 and tries[-1].fits and not tries[-1].checked
    for found in _SUBGOAL.finditer(text):
        if int(found[1]) != target:
            counts["subgoal_setting"] += 1
            spans.append(Span("subgoal_setting", found.start(), found.end()))
    return Trace(**counts), text, sorted(spans, key=lambda span: (span.start, span.end)), tries


def _end_of_saying(text: str, start: int) -> int:
    """Where the remark after a result ends: the sentence or the line."""
    found = _REMARK.match(text, start)
    return found.end() if found else start


def _plain(response: str) -> str:
    """Up to the answer, without markup, with ASCII signs, chains on one line."""
    answer = response.find(OPEN)
    text = response if answer < 0 else response[:answer]
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/")
    text = _FRACTION.sub(r"(\1)/(\2)", text)
    return _CONTINUED.sub(" =", _MARKUP.sub("", text).translate(_SIGNS))


def _sides(chain: str) -> list[tuple[Fraction | None, list[int]] | None]:
    """Value and numbers of each side of `a = b = c`; None for a side that is no expression."""
    sides: list[tuple[Fraction | None, list[int]] | None] = []
    for side in chain.split("="):
        try:
            (numerator, denominator), used = evaluate(_balanced(side), "strict")
        except Refused:
            sides.append(None)
            continue
        sides.append((Fraction(numerator, denominator) if denominator else None, used))
    return sides


def _balanced(side: str) -> str:
    """Without the bracket of a sentence around it, and without the dash of a list item before it or a sign of the text after it."""
    side = side.strip().lstrip("-").strip() if side.strip().startswith("- ") else side.strip()
    while side and side[-1] in "+-*/(":
        side = side[:-1].rstrip()
    depth = side.count("(") - side.count(")")
    if depth < 0 and side.endswith(")"):
        side = side[:depth].rstrip() if side.endswith(")" * -depth) else side
    if depth > 0 and side.startswith("(" * depth):
        side = side[depth:].lstrip()
    return side


def _leaves(used: Sequence[int], wanted: Sequence[int], made: dict[int, list[list[int]]]) -> list[int] | None:
    """The given numbers behind an expression, results of earlier steps taken apart; None when there are others or too many.

    A number that is both given and made (`14 - 13 = 1, 6 * 1 = 6, 6 + 4 = 10`) is read as what accounts for most of the given numbers.
    """
    best: list[int] | None = None
    states: list[tuple[int, list[int]]] = [(0, list(wanted))]  # numbers of `used` explained so far, given numbers left
    for _ in range(MAX_READINGS):
        if not states:
            break
        place, left = states.pop()
        if place == len(used):
            if best is None or len(wanted) - len(left) > len(best):
                best = list(wanted)
                for number in left:
                    best.remove(number)
            continue
        for leaves in ([used[place]], *made.get(used[place], ())):
            rest = list(left)
            for leaf in leaves:
                if leaf not in rest:
                    break
                rest.remove(leaf)
            else:
                states.append((place + 1, rest))
    return best


def _verdict(after: str, target: int) -> bool | None:
    """What the text right after a result says of it: reached, not reached, or nothing."""
    after = _VERSUS.sub("", _DECIMALS.sub("", after))
    if _NEGATIVE.search(after):
        return False
    if _POSITIVE.search(after):
        return True
    said = _RESULT.search(after)
    return int(said[1]) == target if said else None
