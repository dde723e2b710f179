"""Mode `rationale`: the judge reasons, quotes and counts; what it says is read tolerantly, and its quotes are looked up in the document."""

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from curate.behaviors import Behavior
from curate.engines.base import Engine, GenerateRequest, Generation, Prompt
from curate.rationale_prompts import PublishedPrompts, RationalePrompts

CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>")
COUNT = re.compile(r"<\s*count\s*>[\s*\[]*(\d{1,9})", re.IGNORECASE)
COUNT_HEADING = re.compile(r"^#+[^\n]*\b(?:number|count)\b[^\n]*\n[\s*\[]*(\d{1,9})", re.IGNORECASE | re.MULTILINE)
YES_NO = re.compile(r"^#+[^\n]*\?\s*\n[\s*\[]*(yes|no)\b", re.IGNORECASE | re.MULTILINE)
WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
TAGGED = re.compile(r"<\s*quote\s*>(.*?)<\s*/\s*quote\s*>", re.IGNORECASE | re.DOTALL)
MARKED = re.compile(r'"([^"\n]+)"|“([^”\n]+)”')
LEAST_QUOTE_CHARS = 6  # without blanks; shorter ones stand in every text
SHORT_ANSWER_TOKENS = 4
# What judges and web pages write differently, one character for one, so that offsets stay right.
ALIKE = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "−": "-"})


@dataclass(frozen=True)
class Verdict:
    """What a judge said of a window: `count` instances, shown by `quotes`."""

    count: int
    quotes: tuple[str, ...] = ()


def read_verdict(text: str, truncated: bool = False) -> Verdict:
    """Read a rationale.

    The count is that of the last `<count>` tag (blanks, brackets and a missing closing tag are allowed), else the number under a
    heading that asks for one, else 1 or 0 by the yes or no under a heading that asks a question. Control tokens that a model let
    slip are ignored; the reasons may be missing. Raises ValueError with the reason: no count, or a count that contradicts the yes or no.
    """
    text = CONTROL.sub("", text)
    counts = COUNT.findall(text) or COUNT_HEADING.findall(text)
    spoken = YES_NO.search(text)
    if not counts and spoken is None:
        raise ValueError("the rationale was cut off before its count" if truncated else "the rationale has no count")
    count = int(counts[-1]) if counts else int(_is_yes(spoken))  # type: ignore[arg-type]
    if spoken is not None and _is_yes(spoken) != (count > 0):
        raise ValueError(f"the rationale says {spoken[1].lower()} but counts {count}")
    return Verdict(count, tuple(quote for quote in _quotes(text) if len("".join(quote.split())) >= LEAST_QUOTE_CHARS))


def _quotes(text: str) -> Iterator[str]:
    tagged = TAGGED.findall(text)
    for quote in tagged or (match[1] or match[2] for match in MARKED.finditer(text)):
        yield quote.strip().strip("\"“”'‘’…").strip().removesuffix("...").strip()


def _is_yes(match: re.Match[str]) -> bool:
    return match[1].lower() == "yes"


class Haystack:
    """A text in which quotes are looked up whatever their blanks and the form of their quotation marks and dashes."""

    def __init__(self, text: str) -> None:
        self._places = [place for place, character in enumerate(text) if not character.isspace()]
        self._packed = "".join(text[place] for place in self._places).translate(ALIKE)

    def find(self, quote: str) -> tuple[int, int] | None:
        """Span (start, end) of the first place where `quote` stands, or None."""
        needle = "".join(quote.split()).translate(ALIKE)
        at = self._packed.find(needle) if needle else -1
        return None if at < 0 else (self._places[at], self._places[at + len(needle) - 1] + 1)


class Rationale:
    """Our layout: every window of the document, definitions first (see `Method` in curate.classification)."""

    def __init__(self, behaviors: Sequence[Behavior], answer_tokens: int) -> None:
        self.prompts: RationalePrompts | PublishedPrompts = RationalePrompts(behaviors)
        self.names = [item.name for item in behaviors]
        self.questions: tuple[str, ...] = (*self.names, "problem", "solution")
        self.answer_tokens = answer_tokens
        self.stop: tuple[str, ...] = ("</count>",)

    def hash(self) -> str:
        return self.prompts.hash()

    def longest(self, window: str) -> Prompt:
        prompts = [self.prompts.prompt(window, name) for name in self.names]
        return max(prompts, key=lambda prompt: len(prompt.head) + len(prompt.tail))

    def request(self, key: Hashable, window: str, name: str) -> GenerateRequest:
        prompt = self.prompts.prompt(window, name)
        if name not in self.names:
            return GenerateRequest(key, prompt, SHORT_ANSWER_TOKENS)
        return GenerateRequest(key, prompt, self.answer_tokens, stop=self.stop)

    def stream(self, engine: Engine, requests: Iterable[Any]) -> Iterator[Generation]:
        return engine.generate(requests)

    def read(self, name: str, result: Generation) -> Verdict:
        if name in self.names:
            return read_verdict(result.text, result.truncated)
        word = WORD.search(result.text)
        if word is None:
            raise ValueError(f"{name} was not answered with yes or no")
        return Verdict(int(_is_yes(word)))

    def labels(self, text: str, spans: Sequence[tuple[int, int]], answers: dict[str, list[Verdict]]) -> dict[str, Any]:
        """Columns of the document from one Verdict a question and window: counts are added up, quotes looked up."""
        haystack = Haystack(text)
        counts = {name: sum(verdict.count for verdict in answers[name]) for name in self.names}
        found = {
            (name, span): None  # a set that keeps its order
            for name in self.names
            for verdict in answers[name]
            for quote in (verdict.quotes if verdict.count else ())
            if (span := haystack.find(quote))
        }
        supported = {name for name, _ in found}
        return {
            **{f"{name}_score": float(count > 0) for name, count in counts.items()},
            **{f"{name}_count": count for name, count in counts.items()},
            "evidence": [{"behavior": name, "start": start, "end": end, "score": 1.0} for name, (start, end) in found],
            "unsupported": [name for name, count in counts.items() if count and name not in supported],
            **{
                f"{name}_score": float(any(verdict.count for verdict in answers[name])) for name in self.questions if name not in self.names
            },
        }


class FourHabits(Rationale):
    """The published layout: a prompt a behavior, instruction first, the beginning of the document last; no word on problem or solution."""

    def __init__(self, behaviors: Sequence[Behavior], answer_tokens: int) -> None:
        super().__init__(behaviors, answer_tokens)
        self.prompts = PublishedPrompts(behaviors)
        self.questions = tuple(self.names)
        self.stop = ()
