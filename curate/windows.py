"""Whole documents, in paragraph-bounded windows: nothing is cut off, and windows put together are the document again."""

import math
import re
from collections.abc import Callable, Sequence

# Where a window may end, best first: after a blank line, a line, a sentence, a word.
BOUNDARIES = (re.compile(r"\n[ \t\r]*\n+"), re.compile(r"\n"), re.compile(r"(?<=[.!?])\s+"), re.compile(r"\s+"))
PUBLISHED_TOKENS = 3072
ODDS_LIMIT = 1e4


def split_windows(text: str, max_chars: int) -> list[tuple[int, int]]:
    """Cut `text` into consecutive spans (start, end) of at most `max_chars` characters that cover it exactly.

    Spans are filled with whole paragraphs while these fit; a paragraph that does not fit alone is cut after a line, else a
    sentence, else a word, else hard. An empty text has no window.
    """
    if max_chars < 1:
        raise ValueError("max_chars must be at least 1")
    spans = []
    start = 0
    while start < len(text):
        end = len(text) if len(text) - start <= max_chars else _best_end(text, start, start + max_chars)
        spans.append((start, end))
        start = end
    return spans


def published_cut(text: str, prefix_chars: Callable[[str, int], int]) -> str:
    """The beginning of `text` that the published labelling read: its first 3,072 tokens, back to the last newline.

    `prefix_chars(text, tokens)` is the engine's. Without a newline the cut stays where it fell (the published code lost a character).
    """
    end = prefix_chars(text, PUBLISHED_TOKENS)
    return text if end >= len(text) else text[: text.rfind("\n", 1, end) if "\n" in text[1:end] else end]


def _best_end(text: str, start: int, limit: int) -> int:
    for pattern in BOUNDARIES:
        ends = [match.end() for match in pattern.finditer(text, start, limit) if match.end() < limit or match.end() == limit]
        # A boundary in the first tenth would leave splinters behind; the next kind of boundary serves better there.
        if ends and ends[-1] - start >= (limit - start) // 10:
            return ends[-1]
    return limit


def document_score(window_scores: Sequence[float]) -> float:
    """Probability that the document shows the behavior, from the probabilities of its windows.

    Posterior under "one window shows it, or none does, with a prior that does not grow with the number of windows": the odds of the
    document are the mean of the odds of its windows. Ten clean windows at 4 % each give 4 % (their maximum, or a noisy-or, would
    flag a third of clean documents); one sure window among ten stays sure. Odds are limited so that one saturated window cannot
    outvote any number of others. No window gives 0.
    """
    if not window_scores:
        return 0.0
    odds = [min(score / (1 - score), ODDS_LIMIT) if score < 1 else ODDS_LIMIT for score in window_scores]
    mean = math.fsum(odds) / len(odds)
    return mean / (1 + mean)


def notation_density(text: str) -> float:
    """Share of characters that are digits, operators or LaTeX marks: a covariate that arms are matched on."""
    return sum(character in "0123456789=+-*/^_\\$<>{}()[]|∑∫√≤≥≠∈∀∃→⇒·×÷±" for character in text) / max(len(text), 1)
