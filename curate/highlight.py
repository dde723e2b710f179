"""Document text as HTML with spans highlighted: the only place where text and markup meet.

The rule that everything here keeps, and that a test checks in a browser: an element with `data-start` and `data-end` holds exactly
`text[start:end]`. A span that cannot be shown whole (the excerpt ends, another one overlaps) is shortened, and says in `data-of` what
it was.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WHOLE_CHARS = 3_000  # longer texts open at their evidence: it would lie out of sight
EXCERPT_CHARS = 6_000
SPAN_CHARS = 3_000
CONTEXT_CHARS = 200


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a text, with attributes for the element that shows them."""

    start: int
    end: int
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """Spans that are drawn alike, inside those of the layer before."""

    tag: str
    spans: Sequence[Span]


@dataclass(frozen=True)
class Piece:
    """A stretch of the document as HTML, or what was left out before it (`skipped` characters)."""

    html: Markup
    skipped: int


def highlighted(text: str, layers: Sequence[Layer], pieces: Sequence[tuple[int, int]]) -> tuple[list[Piece], int]:
    """The `pieces` (ascending, disjoint) of `text` as HTML, and the number of characters left out after the last one."""
    shown = []
    at = 0
    for start, end in pieces:
        shown.append(Piece(_draw(text, start, end, layers), start - at))
        at = end
    return shown, len(text) - at


def _draw(text: str, start: int, end: int, layers: Sequence[Layer]) -> Markup:
    if not layers:
        return escape(text[start:end])
    layer, inner = layers[0], layers[1:]
    parts = []
    at = start
    for span in sorted(layer.spans, key=lambda span: (span.start, span.end)):
        low, high = max(span.start, at), min(span.end, end)
        if low >= high:
            continue
        of = {} if (low, high) == (span.start, span.end) else {"data-of": f"{span.start}-{span.end}"}
        attributes = {"data-start": str(low), "data-end": str(high), **of, **span.attributes}
        listed = Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in attributes.items())
        parts.append(_draw(text, at, low, inner))
        parts.append(Markup("<{0}{1}>{2}</{0}>").format(Markup(layer.tag), listed, _draw(text, low, high, inner)))
        at = high
    parts.append(_draw(text, at, end, inner))
    return Markup("").join(parts)


def excerpt(num_chars: int, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Which pieces of a text of `num_chars` characters to show: all of a short one, else the surroundings of `spans`, best first.

    Of a long text about EXCERPT_CHARS characters at most are shown, of one span at most SPAN_CHARS; without spans, its beginning.
    """
    if num_chars <= WHOLE_CHARS:
        return [(0, num_chars)]
    chosen: list[tuple[int, int]] = []
    room = EXCERPT_CHARS
    for span in spans:
        end = min(span.end, span.start + SPAN_CHARS)
        if chosen and room < end - span.start:
            break
        chosen.append((max(span.start - CONTEXT_CHARS, 0), min(end + CONTEXT_CHARS, num_chars)))
        room -= end - span.start
    merged: list[tuple[int, int]] = []
    for start, end in sorted(chosen) or [(0, SPAN_CHARS)]:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def cue_spans(text: str, cues: Sequence[str], pieces: Sequence[tuple[int, int]]) -> list[Span]:
    """Where the cue phrases of a behavior stand in the pieces that are shown, in any case and at word boundaries."""
    patterns = [_bounded(cue) for cue in sorted(cues, key=len, reverse=True) if cue]
    if not patterns:
        return []
    pattern = re.compile("|".join(patterns), re.IGNORECASE)
    return [Span(*match.span()) for start, end in pieces for match in pattern.finditer(text, start, end)]


def _bounded(cue: str) -> str:
    # A boundary is asked for only beside a letter or digit: cues may end in a colon or a comma.
    before, after = (r"\b" if character.isalnum() else "" for character in (cue[0], cue[-1]))
    return before + re.escape(cue) + after
