"""`curate plan`: documents, tokens, requests, hours, money, disk, before anything is spent. Here is the arithmetic.

Every figure is (low, likely, high). Volumes come from a few documents drawn at random, so their interval is that of a mean; time is
volume over a rate that was measured or stands in rates.toml.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from curate.classification import Classify, ClassifySettings, Labelling, Method
from curate.engines.settings import EngineSettings
from curate.records.progress import format_seconds
from curate.records.settings import option

# Characters a token: SmolLM2's tokenizer, over 16 corpora of mathematics (2.3 to 3.4) and over our instructions; docs/LOG.md. To load
# the model's own takes seconds, and differs by less than the corpora do.
TEXT_CHARS_PER_TOKEN, INSTRUCTION_CHARS_PER_TOKEN = 2.9, 3.9
TOKEN_UNCERTAINTY = 0.15
BLOCK_TOKENS = 16  # of a prefix cache: what is recomputed of a shared prefix, on average half of it on either side of the window
RATIONALE_TOKENS = (60, 130, 400)  # of an answer in mode rationale; never above the limit
LABEL_BYTES_A_DOCUMENT = (150, 400, 900)  # of a compressed row of labels
SELECTED_SHARE = 0.10  # of OpenWebMath shows one of the four habits by the published labels: .017 + .015 + .007 + .066
FIXED_SECONDS = 1.0  # listing, hashing, the last poll: what a stage takes beside its engine
Z = 1.959964


@dataclass(frozen=True)
class PlanSettings(ClassifySettings):
    """What would be labelled (every option of `curate classify`), and what is known of the speed."""

    rate: float | None = option(None, "Documents a second, measured by you.", at_least=1e-9)
    rate_from: Path | None = option(None, "Folder of an earlier `curate classify` with this engine: its rate is used.")
    calibrate: int = option(
        0, "Time the engine on N documents first; 24 are enough on a CPU, fill --max-in-flight at an endpoint.", at_least=0
    )
    selected_share: float | None = option(
        None, "Plan rewriting and verifying too, for this share of the documents (the published labels select about 0.1).", at_least=0
    )
    json_file: Path | None = option(None, "File to write the plan to, as JSON.", hashed=False)


@dataclass(frozen=True)
class Range:
    """A figure with its interval."""

    low: float
    likely: float
    high: float

    def __mul__(self, factor: float) -> "Range":
        return Range(self.low * factor, self.likely * factor, self.high * factor)

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def over(self, rate: "Range") -> "Range":
        """This much work at that many a second."""
        return Range(self.low / rate.high, self.likely / rate.likely, self.high / rate.low)


@dataclass(frozen=True)
class Workload:
    """What a stage asks of its engine. Tokens are those of prompts (`new_tokens`: less what the prefix cache serves) and of answers."""

    documents: int
    characters: Range
    windows: Range
    requests: Range
    prompt_tokens: Range
    new_tokens: Range
    answer_tokens: Range


@dataclass(frozen=True)
class Rate:
    """How fast one engine works: by whichever of these is known, in this order. `source` says how it is known."""

    source: str
    documents: Range | None = None
    characters: Range | None = None
    new_tokens: Range | None = None
    answer_tokens: Range | None = None
    startup_seconds: float = 0.0

    def seconds(self, work: Workload) -> Range:
        """Time for one engine to do the work, its start included."""
        start = Range(*[self.startup_seconds + FIXED_SECONDS] * 3)
        if self.documents:
            return Range(*[float(work.documents)] * 3).over(self.documents) + start
        if self.characters:
            return work.characters.over(self.characters) + start
        assert self.new_tokens is not None
        seconds = work.new_tokens.over(self.new_tokens)
        return (seconds + work.answer_tokens.over(self.answer_tokens) if self.answer_tokens else seconds) + start


@dataclass
class StagePlan:
    """What one stage will take; None where nothing is known. `seconds` are of wall time, on `engines` engines side by side."""

    stage: str
    work: Workload
    seconds: Range | None = None
    gpu_hours: Range | None = None
    dollars: Range | None = None
    disk_bytes: Range | None = None
    engines: int = 1
    source: str = ""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The plan as a person reads it."""
        work = self.work
        amounts = f"{work.documents:,} documents, {_count(work.windows)} windows, {_count(work.requests)} requests"
        tokens = f"{_count(work.prompt_tokens)} prompt tokens ({_count(work.new_tokens)} not cached), {_count(work.answer_tokens)} answered"
        lines = [f"plan of {self.stage}: {amounts}", *([f"  {tokens}"] if work.prompt_tokens.high else [])]
        if self.seconds:
            low, likely, high = (format_seconds(value) for value in (self.seconds.low, self.seconds.likely, self.seconds.high))
            beside = f" on {self.engines} engines side by side" if self.engines > 1 else ""
            lines.append(f"  time {likely} ({low} to {high}){beside}, by {self.source}")
        else:
            lines.append("  time not known: give --rate, --rate-from or --calibrate to `curate plan`")
        if self.gpu_hours:
            lines.append(f"  {self.gpu_hours.likely:,.2f} GPU-hours ({self.gpu_hours.low:,.2f} to {self.gpu_hours.high:,.2f})")
        if self.dollars:
            lines.append(f"  ${self.dollars.likely:,.2f} (${self.dollars.low:,.2f} to ${self.dollars.high:,.2f})")
        if self.disk_bytes:
            lines.append(f"  {self.disk_bytes.likely / 1e6:,.1f} MB of disk (up to {self.disk_bytes.high / 1e6:,.1f})")
        return lines + [f"  note: {note}" for note in self.notes]


def _count(value: Range) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value.likely >= size:
            return f"{value.likely / (size if letter != 'k' else 1e3):,.1f}{letter}"
    return f"{value.likely:,.0f}"


class _Roomy:
    """In the place of an engine whose context fits everything: windows are planned without loading a tokenizer."""

    def fits(self, prompt: Any, max_tokens: int) -> bool:
        return True

    def prefix_chars(self, text: str, max_tokens: int) -> int:
        return 4 * max_tokens


def labelling_work(texts: Sequence[str], documents: int, settings: EngineSettings, labelling: Labelling) -> Workload:
    """What labelling `documents` documents asks for, from `texts`, a random draw of them (unusable ones as empty texts)."""
    method = labelling.method()
    step = Classify(settings, labelling)
    volumes = np.array([_volume(text, step, method) for text in texts], dtype=np.float64).reshape(len(texts), 4)
    characters, windows, prompts, new = (_total(volumes[:, column], documents) for column in range(4))
    if settings.engine == "student":  # one pass over the characters, no prompt
        each, none = Range(1, 1, 1) * documents, Range(0, 0, 0)
        return Workload(documents, characters, windows, each, none, none, none)
    requests = windows * len(method.questions)
    low, likely, high = (min(value, method.answer_tokens) for value in RATIONALE_TOKENS)
    answers = requests if method.answer_tokens == 1 else Range(requests.low * low, requests.likely * likely, requests.high * high)
    return Workload(documents, characters, windows, requests, _uncertain(prompts), _uncertain(new), answers)


def _volume(text: str, step: Classify, method: Method) -> tuple[float, float, float, float]:
    """Characters, windows, tokens of prompts, tokens of prompts that no prefix cache serves."""
    spans = step._spans(text, method, _Roomy()) or []  # type: ignore[arg-type]
    prompts = new = 0.0
    for start, end in spans:
        seen: set[tuple[str, str]] = set()
        for name in method.questions:
            prompt = method.request("", text[start:end], name).prompt
            asked = (len(prompt.tail) + len(prompt.opening)) / INSTRUCTION_CHARS_PER_TOKEN
            read = len(prompt.body) / TEXT_CHARS_PER_TOKEN
            prompts += len(prompt.head) / INSTRUCTION_CHARS_PER_TOKEN + read + asked
            new += asked + BLOCK_TOKENS + (0 if (prompt.head, prompt.body) in seen else read)
            seen.add((prompt.head, prompt.body))
    return len(text), len(spans), prompts, new


def _total(values: np.ndarray, documents: int) -> Range:
    """Total over all documents from a draw of some: the mean's 95 % interval, exact when all were drawn."""
    if len(values) == 0:
        return Range(0, 0, 0)
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / len(values) ** 0.5 if 1 < len(values) < documents else 0.0
    return Range(max(mean - Z * error, 0.0), mean, mean + Z * error) * documents


def _uncertain(tokens: Range) -> Range:
    return Range(tokens.low / (1 + TOKEN_UNCERTAINTY), tokens.likely, tokens.high * (1 + TOKEN_UNCERTAINTY))


def rewriting_work(passages: Sequence[int], documents: int, pairs: bool = True) -> Workload:
    """What rewriting takes, from the lengths in characters of some passages: a pair asks for question and answer, then twice for the
    thoughts, each as long as the passage (`curate/rewriting.py`); a published rewrite is one request."""
    characters = _total(np.array(passages, dtype=np.float64), documents)
    asked, written = (4, 2) if pairs else (1, 1)
    one = Range(1, 1, 1) * documents
    passages_tokens = _uncertain(characters * (1 / TEXT_CHARS_PER_TOKEN))
    prompts = passages_tokens * asked + one * (400.0 * asked)
    answers = passages_tokens * written + one * 130.0
    new = passages_tokens * asked + one * 60.0
    return Workload(documents, characters, one, one * asked, prompts, new, answers)


def table_rate(engine: str, model: str, quantization: str | None, device: str) -> Rate | None:
    """The rate in rates.toml, or one scaled from it by the number of parameters in the model's name; None when there is none."""
    rates = tomllib.loads(files("curate").joinpath("rates.toml").read_text())["rate"]
    usable = [raw for raw in rates if raw["engine"] == engine and raw.get("device", device) == device]
    for raw in usable:
        if raw.get("model", model) == model and raw.get("quantization") == quantization:
            return _rate(raw, 1.0, raw["source"])
    size = re.search(r"(\d+(?:\.\d+)?)B\b", Path(model).name, flags=re.IGNORECASE)
    for raw in usable:
        known = re.search(r"(\d+(?:\.\d+)?)B\b", raw.get("model", ""), flags=re.IGNORECASE)
        if size and known and raw.get("quantization") == quantization:
            return _rate(raw, float(known[1]) / float(size[1]), f"{raw['model']} scaled by parameters: {raw['source']}")
    return None


def _rate(raw: dict[str, Any], factor: float, source: str) -> Rate:
    def known(key: str) -> Range | None:
        return Range(*raw[key]) * factor if key in raw else None

    return Rate(
        source, known("documents"), known("characters"), known("new_tokens"), known("answer_tokens"), raw.get("startup_seconds", 0.0)
    )


def measured_rate(seconds: Sequence[float], characters: Sequence[int], startup_seconds: float, source: str) -> Rate:
    """Characters a second from documents that finished after `seconds` (ascending); the interval is that of four stretches of them."""
    total = sum(characters) / max(seconds[-1], 1e-9)
    if len(seconds) < 8:
        return Rate(source, characters=Range(total / 1.5, total, total * 1.5), startup_seconds=startup_seconds)
    ends = np.linspace(0, len(seconds), 5).astype(int)
    times = np.diff(np.concatenate([[0.0], np.asarray(seconds)])[ends])
    volumes = np.array([sum(characters[low:high]) for low, high in pairwise(ends)])
    paces = times / np.maximum(volumes, 1)  # seconds a character
    half = 3.182 * float(paces.std(ddof=1)) / 2 * total  # Student's t with 3 degrees, relative to the mean
    half = min(half, 0.5)
    return Rate(source, characters=Range(total / (1 + half), total, total / (1 - half)), startup_seconds=startup_seconds)
