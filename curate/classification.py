"""`curate classify`: what every document shows of each behavior, of a problem and of a solution."""

import hashlib
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from curate.behaviors import load_behaviors
from curate.engines.base import Engine, Prompt
from curate.engines.settings import STUDENT_ENGINES, EngineSettings, make_engine
from curate.rationale import FourHabits, Rationale
from curate.records.settings import option
from curate.scoring import Scoring
from curate.windows import AGGREGATIONS, default_window_chars, notation_density, published_cut, split_windows

MODES = ("score", "rationale")
PRESETS = ("four-habits",)
WINDOW_MODES = ("all", "first")
DEFAULT_DATASET = ("openwebmath",)


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
    mode: str = option("score", "score: a probability from one token; rationale: reasons, quoted evidence, a count.", choices=MODES)
    preset: str | None = option(
        None, "four-habits: the published layout (one prompt a behavior, the document last and cut; a rationale).", choices=PRESETS
    )
    rationale_tokens: int = option(1024, "Longest rationale.", at_least=8)
    window_chars: int | None = option(
        None,
        "Longest window in characters; documents are read whole, in windows of whole paragraphs (default 7200; student 2400).",
        at_least=1,
    )
    aggregate: str = option(
        "auto",
        "From windows to their document; auto: noisy-or for an engine with calibrated probabilities, max for any other.",
        choices=("auto", *AGGREGATIONS),
    )
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

    def resolved(self) -> Self:
        """With a value for what the engine decides."""
        return replace(self, window_chars=self.window_chars or default_window_chars(self.engine))

    def labelling(self, wordings: bool = False) -> "Labelling":
        """How these documents are labelled; a preset brings its own mode and reads the beginning of a document."""
        first = self.preset is not None or self.windows == "first"
        return Labelling(
            self.window_chars or default_window_chars(self.engine),
            first,
            self.behaviors,
            self.preset or self.mode,
            self.rationale_tokens,
            self.aggregate,
            wordings,
        )


class Method(Protocol):
    """One way to label: what is asked of a window, and what the answers say about the document."""

    names: list[str]  # of the columns
    questions: tuple[str, ...]  # asked of every window, adjacent in the stream of requests
    answer_tokens: int

    def hash(self) -> str:
        """Hash of every text that a label depends on, the document aside."""
        ...

    def longest(self, window: str) -> Prompt:
        """The longest prompt about a window: does it fit?"""
        ...

    def request(self, key: Hashable, window: str, name: str) -> Any:
        """The request that asks `name` of a window."""
        ...

    def stream(self, engine: Engine, requests: Iterable[Any]) -> Iterator[Any]:
        """The engine's results."""
        ...

    def read(self, name: str, result: Any) -> Any:
        """The answer to `name` in a result without error. Raises ValueError with the reason when it cannot be read."""
        ...

    def labels(self, text: str, spans: Sequence[tuple[int, int]], answers: dict[str, list[Any]]) -> dict[str, Any]:
        """Columns of the document from one answer a question and window."""
        ...


@dataclass(frozen=True)
class Labelling:
    """How documents are labelled, as it travels to the tasks. `way` is a mode or a preset; `wordings`: ask in every wording there is."""

    window_chars: int
    first_only: bool = False
    behaviors_file: Path | None = None
    way: str = "score"
    rationale_tokens: int = 1024
    aggregate: str = "auto"
    wordings: bool = False

    def method(self, calibrated: bool = False) -> Method:
        """The prompts and the reader of answers. Raises UserError when the behaviors file is wrong."""
        behaviors = load_behaviors(self.behaviors_file)
        if self.way == "four-habits":
            return FourHabits(behaviors, self.rationale_tokens)
        if self.way == "rationale":
            return Rationale(behaviors, self.rationale_tokens)
        rule = self.aggregate if self.aggregate != "auto" else "noisy-or" if calibrated else "max"
        return Scoring(behaviors, self.wordings, rule)


@dataclass
class Pending:
    """A document whose windows are being judged."""

    document: Document
    spans: list[tuple[int, int]]
    answers: dict[str, list[Any]]
    left: int
    errors: list[str] = field(default_factory=list)
    usage: Counter[str] = field(default_factory=Counter)


class Classify(PipelineStep):
    """Labels documents as they stream by; a document leaves when its last window is judged, so the engine never waits for a chunk."""

    type = "LABEL"
    name = "behaviors"

    def __init__(self, settings: EngineSettings, labelling: Labelling) -> None:
        super().__init__()
        self.settings, self.labelling = settings, labelling

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        documents = iter(data)
        first = next(documents, None)
        if first is None:  # nothing left to do: the model need not be loaded
            return
        if self.settings.engine in STUDENT_ENGINES:
            from curate.student.labelling import cascade, student_labels

            everything = _chained(first, documents)
            if self.settings.engine == "student":
                yield from student_labels(everything, self.settings, self.labelling)
            else:
                yield from cascade(everything, self.settings, self)
            return
        with make_engine(self.settings) as engine:
            yield from self.label(_chained(first, documents), engine, self.labelling.method(engine.info.calibrated))

    def label(self, documents: Iterator[Document], engine: Engine, method: Method) -> Iterator[Document]:
        """Documents with `metadata["rows"]` = [label row], in the order in which they finish."""
        pending: dict[str, Pending] = {}
        ready: deque[Document] = deque()

        def requests() -> Iterator[Any]:
            for document in documents:
                error = document.metadata["error"]
                spans = [] if error else self._spans(document.text, method, engine)
                if spans is None:
                    error = "a window cannot be made to fit the model's context (--max-model-tokens)"
                if error or not spans:
                    ready.append(_finish(document, error_row(document, error)))
                    continue
                answers: dict[str, list[Any]] = {name: [None] * len(spans) for name in method.questions}
                pending[document.id] = Pending(document, spans, answers, left=len(spans) * len(answers))
                for number, (start, end) in enumerate(spans):
                    window = document.text[start:end]
                    for name in method.questions:
                        yield method.request((document.id, number, name), window, name)

        for result in method.stream(engine, requests()):
            item = _book(pending, result, method)
            if item.left == 0:
                del pending[item.document.id]
                yield _finish(item.document, label_row(item, method), item.usage)
            while ready:
                yield ready.popleft()
        yield from ready

    def _spans(self, text: str, method: Method, engine: Engine) -> list[tuple[int, int]] | None:
        if self.labelling.first_only:
            text = published_cut(text, engine.prefix_chars)
        waiting = deque(split_windows(text, len(text) if self.labelling.first_only else self.labelling.window_chars))
        spans = []
        while waiting:
            start, end = waiting.popleft()
            if engine.fits(method.longest(text[start:end]), method.answer_tokens):
                spans.append((start, end))
            elif end - start < 2 or self.labelling.way in PRESETS:  # the published layout asks of one cut document, whole
                return None
            else:  # unusual text (other scripts, hex dumps) takes more tokens a character: halve it
                halves = split_windows(text[start:end], (end - start + 1) // 2)
                waiting.extendleft((start + low, start + high) for low, high in reversed(halves))
        return spans


def label_row(item: Pending, method: Method) -> dict[str, Any]:
    """The row of the labels table for a document all of whose windows are judged."""
    document = item.document
    if item.errors:
        count = f"{len(item.errors)} of {len(item.spans) * len(item.answers)} questions failed: "
        return error_row(document, count + item.errors[0])
    labels = method.labels(document.text, item.spans, item.answers)
    item.usage.update({f"unsupported/{name}": 1 for name in labels.get("unsupported") or ()})
    return {**document_columns(document), "num_windows": len(item.spans), **labels, "error": None}


def error_row(document: Document, error: str | None) -> dict[str, Any]:
    """A row that keeps its identity and says why it has no labels."""
    return {**document_columns(document), "num_windows": 0, "evidence": [], "error": error or "the document is empty"}


def document_columns(document: Document) -> dict[str, Any]:
    """What every row says of its document, whoever labels it."""
    text = document.text
    return {
        **document.metadata["row"],
        "text_sha256": hashlib.sha256(text.encode()).hexdigest() if text else None,
        "num_chars": len(text),
        "notation_density": notation_density(text),
    }


def _book(pending: dict[str, Pending], result: Any, method: Method) -> Pending:
    document_id, number, name = result.key
    item = pending[document_id]
    item.left -= 1
    item.usage.update(requests=1, prompt_tokens=result.prompt_tokens, cached_tokens=result.cached_tokens)
    if generated := getattr(result, "completion_tokens", 0):
        item.usage.update(completion_tokens=generated)
    try:
        if result.error:
            raise ValueError(result.error)
        item.answers[name][number] = method.read(name, result)
    except ValueError as error:
        item.errors.append(str(error))
    return item


def _finish(document: Document, row: dict[str, Any], usage: Counter[str] | None = None) -> Document:
    document.metadata |= {"rows": [row], "usage": dict(usage or {})}
    return document


def _chained(first: Document, rest: Iterator[Document]) -> Iterator[Document]:
    yield first
    yield from rest
