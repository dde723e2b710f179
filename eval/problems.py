"""Problems with gold answers, as GSM8K and MATH have them, and whether a response is right: by `math-verify`, as mathematics."""

import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.errors import UserError

QUESTIONS, ANSWERS = ("question", "problem", "prompt"), ("answer", "solution")
FINAL = "####"  # GSM8K's number stands behind it
BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([^\s${}]+))")
NO_WORDS = re.compile(r"\\(?:text\w*|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
WORD, UNIT = re.compile(r"[^\W\d_]{2,}"), re.compile(r"\d}*\s+[^\W\d_]{3,}")
TWO_NUMBERS, DOLLAR = re.compile(r"\d\s+\d"), re.compile(r"(?<!\\)\$")
DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))


@dataclass(frozen=True)
class Problem:
    """`number` is the row in its file, from 0; `gold` is LaTeX between dollars, for `math-verify`."""

    number: int
    question: str
    gold: str


@dataclass(frozen=True)
class Problems:
    """The problems of one file. `unread` has the rows whose gold answer cannot be read: where, and the answer's end."""

    path: Path
    rows: list[Problem]
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows of the file that were looked at."""
        return len(self.rows) + len(self.unread)


def read_problems(path: Path, limit: int | None = None) -> Problems:
    """The first `limit` problems of a Parquet or JSONL file.

    Raises UserError, naming the line, for a file that cannot be read, a row without a question or an answer, or one of another type; and
    for a file of which no gold answer can be read.
    """
    rows, unread = [], {}
    read = _rows(path)[:limit]
    for number, (place, row) in enumerate(read):
        question, answers = _checked(path, place, row)
        gold = gold_of(answers)
        if gold is None:
            unread[place] = next((text for text in answers.values() if text.strip()), "")[-80:]
        else:
            rows.append(Problem(number, question, gold))
    if not rows:
        place, text = next(iter(unread.items()))
        raise UserError(f"{path}: no gold answer can be read in any of its {len(read)} rows ({place}: {text!r})")
    return Problems(path, rows, unread)


def gold_of(answers: dict[str, str]) -> str | None:
    """The gold answer as LaTeX between dollars; None when it cannot be read for certain.

    In this order: the last boxed expression of the solution, or of the answer; what follows the last `####`; the answer as it stands. Left
    bare, `math-verify` reads 6 from `6\\sqrt{2}` and nothing from `p - q`. Between dollars it makes a product of letters of most words, and
    2 of `3 1/2`, so these are not read: prose, two numbers side by side, a unit that it does not know.
    """
    texts = [answers[name] for name in ANSWERS if name in answers]
    boxed = [found for text in reversed(texts) if (found := last_boxed(text)) is not None]
    final = [text.rsplit(FINAL, 1)[1] for text in texts if FINAL in text]
    text = " ".join([*boxed, *final, *filter(str.strip, texts), ""][0].split())
    for opening, closing in DELIMITERS:
        if len(text) > len(opening + closing) and text.startswith(opening) and text.rstrip(".").endswith(closing):
            text = text.rstrip(".")[len(opening) : -len(closing)]
            break
    text = text.removeprefix("$").strip()  # of a price
    words = NO_WORDS.sub(" ", text)
    if len(WORD.findall(words)) > 1 or TWO_NUMBERS.search(text) or DOLLAR.search(text):
        return None
    read = [item for item in _parsed(f"${text}$") if not isinstance(item, str)]
    if not read or (UNIT.search(words) and not read[0].is_number):
        return None
    return f"${text}$"


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{…}` (or `\\boxed 5`, `\\fbox{…}`) of a text; None without one, or when its brace stays open."""
    found = list(BOX.finditer(text))
    if not found:
        return None
    if found[-1][1]:
        return found[-1][1]
    start = place = found[-1].end()
    depth = 1
    while place < len(text):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
        place += 2 if text[place] == "\\" else 1  # an escaped brace opens nothing
    return None


def is_right(response: str, gold: str) -> tuple[bool, bool]:
    """(right, readable): whether the response's final answer equals the gold one, and whether it has one at all."""
    from math_verify import verify

    said = _parsed(response)
    return bool(said) and bool(verify(_parsed(gold), said)), bool(said)


def _parsed(text: str) -> list[Any]:
    from math_verify import parse

    return parse(text)


def _rows(path: Path) -> list[tuple[str, Any]]:
    """Rows with their places: `line 3` of JSONL counts from 1, `row 2` of Parquet from 0."""
    try:
        if path.suffix == ".parquet":
            rows = [(f"row {number}", row) for number, row in enumerate(pq.read_table(path).to_pylist())]
        else:
            # not splitlines: JSON strings may hold other separators as they are
            lines = enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
            rows = [(f"line {number}", _json(path, number, line)) for number, line in lines if line.strip()]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{path} line {number} is not JSON: {error}") from None


def _checked(path: Path, place: str, row: Any) -> tuple[str, dict[str, str]]:
    """The question and the answers by column, as text. Raises UserError."""
    if not isinstance(row, dict):
        raise UserError(f"{path} {place}: a problem is an object with columns, not {json.dumps(row)[:80]}")
    question = next((row[name] for name in QUESTIONS if row.get(name) is not None), None)
    answers = {name: row[name] for name in ANSWERS if row.get(name) is not None}
    if question is None or not answers:
        raise UserError(
            f"{path} {place} has {', '.join(name for name in row if row[name] is not None) or 'nothing'}; "
            f"problems need {' or '.join(QUESTIONS)} and {' or '.join(ANSWERS)}"
        )
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{path} {place}: the question is no text: {str(question)[:80]!r}")
    for name, value in answers.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float) or (isinstance(value, float) and not isfinite(value)):
            raise UserError(f"{path} {place}: {name} is neither text nor a number: {str(value)[:80]!r}")
    # a float in full: 1e+16 would be read as a product
    return question, {name: f"{Decimal(repr(value)):f}" if isinstance(value, float) else str(value) for name, value in answers.items()}
