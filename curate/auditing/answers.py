"""The answers of one annotator: a file to which each answer is appended and synced before the next question is shown.

One JSON object a line: item, behavior, answer (yes, no, unsure), seconds since the item was shown, whether the labels' evidence had
been revealed, and when. A later answer to the same question replaces an earlier one; nothing is ever rewritten.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from curate.records.errors import UserError, output_error
from curate.records.parts import sync_folder

ANSWERS = ("yes", "no", "unsure")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Answer:
    """One answer of one annotator to one question about one item."""

    item: str
    behavior: str
    answer: str
    seconds: float = 0.0
    evidence_shown: bool = False
    at: float = 0.0  # seconds since 1970


def answers_path(folder: Path, annotator: str | None) -> Path:
    """Where an annotator's answers are. Raises UserError for a name that is none."""
    if annotator is None or not NAME.fullmatch(annotator):
        raise UserError(f"--annotator NAME is needed, of letters, digits and . _ - (not {annotator!r}): answers are kept under it")
    return folder / "answers" / f"{annotator}.jsonl"


def read_answers(path: Path, items: Sequence[str], behaviors: Sequence[str]) -> tuple[list[Answer], int]:
    """The answers in a file, in order, and the length in bytes of its whole lines: a last line that was cut off is left out.

    Raises UserError that names a line which is not an answer to this audit.
    """
    if not path.exists():
        return [], 0
    known_items, data = set(items), path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    answers = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            answers.append(parse_answer(json.loads(line), known_items, behaviors))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return answers, len(whole)


def parse_answer(raw: object, items: set[str], behaviors: Sequence[str]) -> Answer:
    """An answer from its JSON value. Raises ValueError that says what is wrong with it."""
    if not isinstance(raw, dict):
        raise ValueError("not an answer")
    try:
        answer = Answer(**raw)
    except TypeError:
        raise ValueError("not an answer: it needs item, behavior and answer") from None
    if answer.item not in items:
        raise ValueError(f"the item {answer.item!r} is not of this audit's sample")
    if answer.behavior not in behaviors:
        raise ValueError(f"the behavior {answer.behavior!r} was not asked for")
    if answer.answer not in ANSWERS:
        raise ValueError(f"{answer.answer!r} is none of {', '.join(ANSWERS)}")
    if not (isinstance(answer.at, (int, float)) and isinstance(answer.seconds, (int, float)) and isinstance(answer.evidence_shown, bool)):
        raise ValueError("its times are no numbers")
    return answer


class AnswerLog:
    """Context: an annotator's file, open for appending by this process alone. `state` holds the last answer to each question."""

    def __init__(self, path: Path, items: Sequence[str], behaviors: Sequence[str]) -> None:
        self.path, self._items, self._behaviors = path, items, behaviors
        self.state: dict[tuple[str, str], Answer] = {}
        self.torn = False

    def __enter__(self) -> "AnswerLog":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")
            sync_folder(self.path.parent)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path.stem} is answering in another terminal: close it, or use another --annotator") from None
        except OSError as error:
            raise output_error(self.path, error) from None
        answers, length = read_answers(self.path, self._items, self._behaviors)
        self.torn = length < self.path.stat().st_size
        self._file.truncate(length)  # of an answer that a kill cut off, what was written says nothing
        self.state = {(answer.item, answer.behavior): answer for answer in answers}
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, answer: Answer) -> None:
        """Append and sync; when this returns the answer survives a kill and a crash. Raises OutputError when the disk refuses."""
        if not answer.at:
            answer = Answer(**{**asdict(answer), "at": round(time.time(), 3)})
        try:
            self._file.write(json.dumps(asdict(answer)).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(self.path, error) from None
        self.state[answer.item, answer.behavior] = answer

    def is_complete(self, item: str) -> bool:
        return all((item, name) in self.state for name in self._behaviors)
