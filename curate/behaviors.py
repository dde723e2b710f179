"""Behaviors are data: read from `behaviors.toml`, checked, and extended with a file of the user's."""

import tomllib
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from curate.records.errors import UserError
from curate.records.manifest import json_sha256
from curate.records.settings import did_you_mean

REQUIRED = ("name", "short", "definition", "question")
LISTS = ("paraphrases", "positive", "negative", "cues")
RESERVED = ("problem", "solution")  # asked of every document; their scores have columns of their own


@dataclass(frozen=True)
class Behavior:
    """One cognitive behavior; `behaviors.toml` says what each text is for."""

    name: str
    short: str
    definition: str
    question: str
    paraphrases: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    cues: tuple[str, ...] = ()

    @property
    def spoken(self) -> str:
        """The name as prompts and tables write it."""
        return self.name.replace("_", " ")

    @property
    def wordings(self) -> tuple[str, ...]:
        """Every way to ask for it, that of `question` first."""
        return (self.question, *self.paraphrases)


def load_behaviors(extra: Path | None = None) -> list[Behavior]:
    """The shipped behaviors, with those of `extra` replacing or joining them. Raises UserError that lists every mistake in `extra`."""
    shipped = _parse(files("curate").joinpath("behaviors.toml").read_text(), "behaviors.toml")
    if extra is None:
        return shipped
    try:
        text = extra.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the behaviors file {extra}: {error}") from None
    merged = {item.name: item for item in shipped}
    merged.update({item.name: item for item in _parse(text, str(extra))})
    return list(merged.values())


def behaviors_hash(behaviors: list[Behavior]) -> str:
    """Hash of everything a label depends on."""
    return json_sha256([asdict(item) for item in behaviors])


def _parse(text: str, where: str) -> list[Behavior]:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}") from None
    mistakes = [f"unknown table {key!r}{did_you_mean(key, ['behavior'])}" for key in raw if key != "behavior"]
    blocks = raw.get("behavior", [])
    if not isinstance(blocks, list) or not blocks:
        mistakes.append("no [[behavior]] block")
        blocks = []
    known = [item.name for item in fields(Behavior)]
    behaviors: dict[str, Behavior] = {}
    for number, block in enumerate(blocks, start=1):
        if not isinstance(block, dict):
            mistakes.append(f"behavior {number} is not a [[behavior]] block")
            continue
        label = f"behavior {block.get('name', number)!r}"
        mistakes += [f"{label}: unknown key {key!r}{did_you_mean(key, known)}" for key in block if key not in known]
        mistakes += [f"{label}: {key!r} is missing or empty" for key in REQUIRED if not _is_text(block.get(key))]
        mistakes += [f"{label}: {key!r} must be a list of texts" for key in LISTS if not _is_texts(block.get(key, []))]
        mistakes += [f"{label}: the question {text!r} stands twice" for text in _repeated(block)]
        name = block.get("name")
        if isinstance(name, str) and not name.isidentifier():
            mistakes.append(f"{label}: a name is made of letters, digits and _ (it becomes a column)")
        if name in RESERVED:
            mistakes.append(f"{label}: this name is taken, every document is asked for it anyway")
        if isinstance(name, str) and name in behaviors:
            mistakes.append(f"{label} stands twice")
        if not mistakes:
            values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in block.items()}
            behaviors[values["name"]] = Behavior(**values)
    if mistakes:
        raise UserError(f"{where}: " + "; ".join(mistakes))
    return list(behaviors.values())


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _repeated(block: dict[str, Any]) -> list[str]:
    paraphrases = block.get("paraphrases", [])
    wordings = [block.get("question"), *paraphrases] if _is_texts(paraphrases) else []
    texts = [" ".join(item.split()) for item in wordings if _is_text(item)]
    return sorted({text for text in texts if texts.count(text) > 1})
