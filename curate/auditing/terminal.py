"""The terminal page of an audit: one document, the questions below it, one key an answer. Nothing of the labels is shown unless asked."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from curate.auditing.answers import Answer, AnswerLog
from curate.behaviors import Behavior
from curate.reporting import VISIBLE

KEYS = {"y": "yes", "n": "no", "u": "unsure"}
MARKS = {"yes": "yes", "no": "no", "unsure": "unsure", None: "…"}
HELP = "y yes  n no  u unsure · 1-9 question · space/b page  j/k line · ] next  [ previous document · e evidence · q quit"
INVERSE, BOLD, DIM, PLAIN = "\x1b[7m", "\x1b[1m", "\x1b[2m", "\x1b[0m"
ENTER, LEAVE, HOME, CLEAR_REST = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[J"
ESCAPES = {"[A": "k", "[B": "j", "[5~": "b", "[6~": " ", "[C": "]", "[D": "["}  # arrows and page keys


@dataclass
class Page:
    """What is on the screen: which item, which question, how far down, whether the evidence is revealed."""

    items: Sequence[dict[str, Any]]
    behaviors: Sequence[Behavior]
    log: AnswerLog
    number: int = 0
    question: int = 0
    top: int = 0
    evidence: bool = False
    since: float = field(default_factory=time.monotonic)
    wrapped: tuple[Any, list[str]] = (None, [])

    @property
    def item(self) -> dict[str, Any]:
        return self.items[self.number]

    def open_first(self) -> None:
        """Go to the first item that is not complete, and its first open question; stay on the last when all are."""
        unfinished = [number for number, item in enumerate(self.items) if not self.log.is_complete(item["item"])]
        self.go(unfinished[0] if unfinished else len(self.items) - 1)

    def go(self, number: int) -> None:
        self.number = min(max(number, 0), len(self.items) - 1)
        self.top, self.evidence, self.since = 0, False, time.monotonic()
        self.question = next((n for n, b in enumerate(self.behaviors) if (self.item["item"], b.name) not in self.log.state), 0)

    def press(self, key: str, height: int) -> bool:
        """What a key does; False ends the page."""
        page = max(height - 2, 1)
        if key in KEYS:
            self.answer(KEYS[key])
        elif key.isdigit() and 1 <= int(key) <= len(self.behaviors):
            self.question = int(key) - 1
        elif key in ("j", "k", " ", "b"):
            self.top += {"j": 1, "k": -1, " ": page, "b": -page}[key]
        elif key in ("]", "["):
            self.go(self.number + (1 if key == "]" else -1))
        elif key == "e":
            self.evidence = not self.evidence
        return key not in ("q", "\x03", "\x04", "")

    def answer(self, answer: str) -> None:
        name = self.behaviors[self.question].name
        seconds = round(time.monotonic() - self.since, 1)
        was_complete = self.log.is_complete(self.item["item"])
        self.log.add(Answer(self.item["item"], name, answer, seconds, self.evidence))
        open_questions = [n for n, b in enumerate(self.behaviors) if (self.item["item"], b.name) not in self.log.state]
        if open_questions:
            self.question = next((n for n in open_questions if n > self.question), open_questions[0])
        elif not was_complete:  # the last answer to it: on to the next; a corrected answer stays
            self.open_first()

    def lines(self, width: int, height: int) -> list[str]:
        """The screen as `height` lines; the text's own control characters are made visible, so it cannot move the cursor."""
        asked = self.behaviors[self.question]
        panel = [f"{BOLD}{asked.question}{PLAIN}", *[f"{DIM}{line}{PLAIN}" for line in wrap(asked.definition, width)[:3]]]
        states = []
        for number, behavior in enumerate(self.behaviors):
            answer = self.log.state.get((self.item["item"], behavior.name))
            text = f" {number + 1} {behavior.name.replace('_', ' ')}: {MARKS[answer.answer if answer else None]} "
            states.append(f"{INVERSE}{text}{PLAIN}" if number == self.question else text)
        panel += ["|".join(states), f"{DIM}{HELP[: width - 1]}{PLAIN}"]
        room = max(height - len(panel) - 2, 1)
        document = self.text(width)
        self.top = min(max(self.top, 0), max(len(document) - room, 0))
        shown = document[self.top : self.top + room]
        done = sum(self.log.is_complete(item["item"]) for item in self.items)
        end = min(self.top + room, len(document))
        head = f"document {self.number + 1} of {len(self.items)}, {done} done · lines {self.top + 1}-{end} of {len(document)}"
        return [f"{BOLD}{head[:width]}{PLAIN}", *shown, *[""] * (room - len(shown)), "─" * width, *panel][:height]

    def text(self, width: int) -> list[str]:
        key = (self.number, width, self.evidence)
        if self.wrapped[0] != key:
            text = self.item["text"]
            self.wrapped = (key, wrap(mark(text, self.item["evidence"] or []) if self.evidence else text, width))
        return self.wrapped[1]


def mark(text: str, evidence: Sequence[dict[str, Any]]) -> str:
    """The text with the labels' evidence between marks: ⟦name: … ⟧."""
    inserts = [(span["start"], 1, f"⟦{span['behavior']}: ") for span in evidence] + [(span["end"], 0, "⟧") for span in evidence]
    for position, _, piece in sorted(inserts, reverse=True):
        text = text[:position] + piece + text[position:]
    return text


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` terminal cells, with control characters made visible."""
    from rich.console import Console
    from rich.text import Text

    visible = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4).translate(VISIBLE)
    visible = "".join(character if not 0x80 <= ord(character) < 0xA0 else "\ufffd" for character in visible)
    console = Console(width=width, color_system=None)
    return [line.plain.rstrip() for line in Text(visible).wrap(console, width, overflow="fold")]


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Keys come one by one and unechoed; the screen is ours until the block ends, however it ends (short of kill -9)."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        sys.stdout.write(ENTER)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        sys.stdout.write(LEAVE)
        sys.stdout.flush()


def keys(descriptor: int) -> Iterator[str]:
    """Keys as they are pressed; arrows and page keys become letters. Ends with the input."""
    import select

    while data := os.read(descriptor, 1):
        if data == b"\x1b":
            rest = b""
            while select.select([descriptor], [], [], 0.05)[0] and len(rest) < 4:
                rest += os.read(descriptor, 1)
                if rest[-1:].isalpha() or rest.endswith(b"~"):
                    break
            yield ESCAPES.get(rest.decode("ascii", "replace"), "escape")
        else:
            yield data.decode("utf-8", "replace")


def run(items: Sequence[dict[str, Any]], behaviors: Sequence[Behavior], log: AnswerLog) -> None:
    """Show the page until the person quits. Each answer is on disk before the next question is shown."""
    page = Page(items, behaviors, log)
    page.open_first()

    def show(*_: object) -> None:
        width, height = shutil.get_terminal_size()
        lines = page.lines(width, height)
        sys.stdout.write(HOME + "\r\n".join(f"{line}\x1b[K" for line in lines) + CLEAR_REST)
        sys.stdout.flush()

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    previous[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, show)
    try:
        with raw_terminal():
            show()
            for key in keys(sys.stdin.fileno()):
                if not page.press(key, shutil.get_terminal_size().lines - 9):
                    break
                show()
    except KeyboardInterrupt:
        pass  # ^C leaves like q: every answer is on disk already
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
