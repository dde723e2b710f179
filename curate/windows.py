"""Whole documents, in paragraph-bounded windows: nothing is cut off, and windows put together are the document again."""

import math
import re
from collections.abc import Callable, Sequence

# Where a window may end, best first: after a blank line, a line, a sentence, a word.
BOUNDARIES = (re.compile(r"\n[ \t\r]*\n+"), re.compile(r"\n"), re.compile(r"(?<=[.!?])\s+"), re.compile(r"\s+"))
PUBLISHED_TOKENS = 3072
# A language model pays for six questions a window and reads thousands of characters well; the student was fitted on short windows.
WINDOW_CHARS, STUDENT_WINDOW_CHARS = 7200, 2400
ODDS_LIMIT = 1e4
AGGREGATIONS = ("max", "noisy-or", "mean-odds")


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


def default_window_chars(engine: str) -> int:
    """Longest window in characters where the user names none."""
    return STUDENT_WINDOW_CHARS if engine in ("student", "cascade") else WINDOW_CHARS


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


def document_score(window_scores: Sequence[float], rule: str = "max") -> float:
    """Probability that the document shows the behavior, from the probabilities of its windows. No window gives 0.

    `max`: the largest, for judges whose probabilities are not calibrated: it depends on their order alone, and ten clean windows at
    4 % stay at 4 %. `noisy-or`: that not all windows lack it, if they were independent; right for calibrated probabilities (ten windows
    that each show it in 4 of 100 cases do show it in a third of the cases), but it adds up what an uncalibrated judge says of clean
    windows. `mean-odds`: the posterior if exactly one window or none can show it; measured to be the worst of the three on every
    judge (docs/LOG.md) and kept for comparison; its odds are limited, so that one saturated window cannot outvote any number of others.
    """
    if not window_scores:
        return 0.0
    if rule == "max":
        return max(window_scores)
    if rule == "noisy-or":
        return 1 - math.prod(1 - score for score in window_scores)
    if rule != "mean-odds":
        raise ValueError(f"unknown rule {rule!r}")
    odds = [min(score / (1 - score), ODDS_LIMIT) if score < 1 else ODDS_LIMIT for score in window_scores]
    mean = math.fsum(odds) / len(odds)
    return mean / (1 + mean)


def notation_density(text: str) -> float:
    """Share of characters that are digits, operators or LaTeX marks: a covariate that arms are matched on."""
    return sum(character in "0123456789=+-*/^_\\$<>{}()[]|∑∫√≤≥≠∈∀∃→⇒·×÷±" for character in text) / max(len(text), 1)
