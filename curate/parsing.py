"""What a rewriter sent back: a tolerant parser of tagged text, and the length rule of pairs."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

TAG = re.compile(r"<\s*(/?)\s*([a-zA-Z_]+)\s*>")
FENCE = re.compile(r"\A```[a-z]*\n|\n?```\s*\Z")
NUMBER = re.compile(r"<\s*count\s*>\s*(\d+)\s*<\s*/\s*count\s*>", re.IGNORECASE)


@dataclass(frozen=True)
class Parsed:
    """`fields` by tag name when `problem` is None, else why the text cannot be used."""

    fields: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def parse_tags(text: str, names: Sequence[str], truncated: bool = False) -> Parsed:
    """Read `<name>…</name>` for each of `names` from a model's answer.

    Accepts any case, blanks inside tags, a plural for a singular and the reverse (`</thought>`), text around them, a code fence
    around everything, a repeated block (the first that is not empty counts), and a closing tag that is missing before the next
    opening one or at the end of an answer that was not cut off.
    Refuses a field that is absent, empty, or holds one of the tags itself. Never raises.
    """
    text = FENCE.sub("", text.strip())
    wanted = {name.lower().rstrip("s"): name.lower() for name in names}
    found = ((match, wanted.get(match[2].lower().rstrip("s"))) for match in TAG.finditer(text))
    marks = [(match.start(), match.end(), bool(match[1]), name) for match, name in found if name]
    fields: dict[str, str] = {}
    for index, (_, begin, closing, name) in enumerate(marks):
        if closing or fields.get(name):
            continue
        following = marks[index + 1] if index + 1 < len(marks) else None
        if following is None and truncated:
            return Parsed(problem=f"cut off inside <{name}>")
        if following is not None and not following[2] and following[3] == name:
            return Parsed(problem=f"<{name}> inside <{name}>")
        if following is not None and following[2] and following[3] != name:
            return Parsed(problem=f"<{name}> closed by </{following[3]}>")
        fields[name] = text[begin : following[0] if following else len(text)].strip()
    missing = [name for name in names if is_blank(fields.get(name.lower(), ""))]
    if missing:
        state = "empty" if any(name.lower() in fields for name in missing) else "missing"
        return Parsed(problem=f"{state} <{missing[0]}>")
    return Parsed({name: fields[name.lower()] for name in names})


def is_blank(text: str) -> bool:
    """Whether a text has nothing to read: no character, or only blanks, control characters and zero-width ones."""
    return all(unicodedata.category(character)[0] in "CZ" for character in text)


def parse_count(text: str) -> int | None:
    """The number in the last `<count> n </count>` (blanks allowed, which the published parser refused), or None."""
    found = NUMBER.findall(text)
    return int(found[-1][:9]) if found else None


def num_words(text: str) -> int:
    """Words between blanks: the unit of length targets, the same for every tokenizer."""
    return len(text.split())


def within(words: int, target: int, tolerance: float) -> bool:
    """Whether `words` lies within `tolerance` (a share) of `target`."""
    return abs(words - target) <= tolerance * target
