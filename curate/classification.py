"""`curate classify`: the probability of each behavior, of a problem and of a solution, for every document."""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from curate.behaviors import Behavior, load_behaviors
from curate.engines.base import Engine, Score, ScoreRequest
from curate.engines.settings import EngineSettings, make_engine
from curate.prompts import ScoringPrompts
from curate.records.settings import option
from curate.windows import document_score, notation_density, split_windows

WINDOW_MODES = ("all", "first")
DEFAULT_DATASET = ("openwebmath",)
EVIDENCE_SCORE = 0.5  # windows from this score on are evidence, and the best one always is
PAPER_CUT_CHARS = 12_000  # about the 3,072 tokens that the published labelling read


@dataclass(frozen=True)
class ClassifySettings(EngineSettings):
    """Which documents are read, and how."""

    dataset: tuple[str, ...] = option(
        DEFAULT_DATASET,
        "openwebmath, finemath-3plus, finemath-4plus, sample, or paths of Parquet/JSONL files, folders, globs.",
        hashed=False,
    )
    dataset_revision: str | None = option(None, "Commit or tag of the corpus on the hub.")
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    limit: int | None = option(None, "Read only the first N documents.", at_least=1)
    sample: int | None = option(None, "Read N documents drawn at random (seeded) from all.", at_least=1)
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors.")
    window_chars: int = option(2400, "Longest window in characters; documents are read whole, in windows of whole paragraphs.", at_least=1)
    windows: str = option("all", "all windows of a document, or the first as the published labelling did.", choices=WINDOW_MODES)
    text_key: str = option("text", "Column that holds the text.")
    id_key: str = option("id", "Column that holds the corpus's own id (kept, never relied on).")
    max_chars: int = option(1_000_000, "Longer documents become rows with an error.", at_least=1)
    chunk_rows: int = option(512, "Documents per chunk: the unit that is done or not done.", at_least=1)
    executor: str = option("local", "Where tasks run.", choices=("local", "slurm"), hashed=False)
    tasks: int = option(1, "Tasks that share the work; each drives one engine.", hashed=False, at_least=1)
    slurm: tuple[str, ...] = option(
        (), "Slurm settings as name=value: partition, time, cpus_per_task, mem_per_cpu_gb, gpus_per_task, qos, …", hashed=False
    )


@dataclass
class _Pending:
    """A document whose windows are being scored."""

    document: Document
    spans: list[tuple[int, int]]
    scores: dict[str, list[float]]
    left: int
    masses: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    usage: Counter[str] = field(default_factory=Counter)


class Classify(PipelineStep):
    """Scores documents as they stream by; a document leaves when its last window is scored, so the engine never waits for a chunk."""

    type = "LABEL"
    name = "behaviors"

    def __init__(self, settings: EngineSettings, window_chars: int, windows: str = "all", behaviors_file: Path | None = None) -> None:
        super().__init__()
        self.settings, self.window_chars, self.windows, self.behaviors_file = settings, window_chars, windows, behaviors_file

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        behaviors = load_behaviors(self.behaviors_file)
        documents = iter(data)
        first = next(documents, None)
        if first is None:  # nothing left to do: the model need not be loaded
            return
        with make_engine(self.settings) as engine:
            yield from self.label(_chained(first, documents), engine, behaviors)

    def label(self, documents: Iterator[Document], engine: Engine, behaviors: Sequence[Behavior]) -> Iterator[Document]:
        """Documents with `metadata["rows"]` = [label row], in the order in which they finish."""
        prompts = ScoringPrompts(behaviors)
        names = [behavior.name for behavior in behaviors]
        pending: dict[str, _Pending] = {}
        ready: deque[Document] = deque()

        def requests() -> Iterator[ScoreRequest]:
            for document in documents:
                error = document.metadata["error"]
                spans = [] if error else self._spans(document.text, prompts, engine)
                if spans is None:
                    error = "a window cannot be made to fit the model's context"
                if error or not spans:
                    ready.append(_finish(document, error_row(document, names, error)))
                    continue
                scores = {name: [float("nan")] * len(spans) for name in prompts.questions}
                pending[document.id] = _Pending(document, spans, scores, left=len(spans) * len(scores))
                for number, (start, end) in enumerate(spans):
                    window = document.text[start:end]
                    for name in prompts.questions:
                        yield ScoreRequest((document.id, number, name), prompts.prompt(window, name))

        for score in engine.score(requests()):
            item = _book(pending, score)
            if item.left == 0:
                del pending[item.document.id]
                yield _finish(item.document, label_row(item, names), item.usage)
            while ready:
                yield ready.popleft()
        yield from ready

    def _spans(self, text: str, prompts: ScoringPrompts, engine: Engine) -> list[tuple[int, int]] | None:
        longest = max(prompts.questions, key=lambda name: len(prompts.questions[name]))
        if self.windows == "first":
            text = text[:PAPER_CUT_CHARS]
        waiting = deque(split_windows(text, len(text) if self.windows == "first" else self.window_chars))
        spans = []
        while waiting:
            start, end = waiting.popleft()
            if engine.fits(prompts.prompt(text[start:end], longest), max_tokens=1):
                spans.append((start, end))
            elif end - start < 2:
                return None
            else:  # unusual text (other scripts, hex dumps) takes more tokens a character: halve it
                halves = split_windows(text[start:end], (end - start + 1) // 2)
                waiting.extendleft((start + low, start + high) for low, high in reversed(halves))
        return spans


def label_row(item: _Pending, behaviors: Sequence[str]) -> dict[str, Any]:
    """The row of the labels table for a document all of whose windows are scored."""
    document = item.document
    if item.errors:
        count = f"{len(item.errors)} of {len(item.spans) * len(item.scores)} questions failed: "
        return error_row(document, behaviors, count + item.errors[0])
    evidence = []
    for name in behaviors:
        scores = item.scores[name]
        best = max(range(len(scores)), key=scores.__getitem__)
        for number, (start, end) in enumerate(item.spans):
            if number == best or scores[number] >= EVIDENCE_SCORE:
                evidence.append({"behavior": name, "start": start, "end": end, "score": scores[number]})
    return {
        **_about(document),
        "num_windows": len(item.spans),
        **{f"{name}_score": document_score(item.scores[name]) for name in behaviors},
        "evidence": evidence,
        "label_mass": min(item.masses),
        "problem_score": max(item.scores["problem"]),
        "solution_score": max(item.scores["solution"]),
        "error": None,
    }


def error_row(document: Document, behaviors: Sequence[str], error: str | None) -> dict[str, Any]:
    """A row that keeps its identity and says why it has no labels."""
    return {**_about(document), "num_windows": 0, "evidence": [], "error": error or "the document is empty"}


def _about(document: Document) -> dict[str, Any]:
    text = document.text
    return {
        **document.metadata["row"],
        "text_sha256": hashlib.sha256(text.encode()).hexdigest() if text else None,
        "num_chars": len(text),
        "notation_density": notation_density(text),
    }


def _book(pending: dict[str, _Pending], score: Score) -> _Pending:
    document_id: str
    number: int
    name: str
    document_id, number, name = score.key  # type: ignore[misc]
    item = pending[document_id]
    item.left -= 1
    item.usage.update(requests=1, prompt_tokens=score.prompt_tokens, cached_tokens=score.cached_tokens)
    if score.error:
        item.errors.append(score.error)
    else:
        item.scores[name][number] = score.probability
        item.masses.append(score.label_mass)
    return item


def _finish(document: Document, row: dict[str, Any], usage: Counter[str] | None = None) -> Document:
    document.metadata |= {"rows": [row], "usage": dict(usage or {})}
    return document


def _chained(first: Document, rest: Iterator[Document]) -> Iterator[Document]:
    yield first
    yield from rest
