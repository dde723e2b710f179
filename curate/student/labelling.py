"""Documents labelled by the student, and by the cascade: the student reads everything, a language model what it cannot rule out."""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from datatrove.data import Document

from curate.behaviors import load_behaviors
from curate.engines.settings import EngineSettings, make_engine
from curate.records.errors import UserError
from curate.student.features import Extractor
from curate.student.model import Student, WindowScores, check_behaviors, load_student, noisy_or, sigmoid
from curate.windows import split_windows

if TYPE_CHECKING:
    from curate.classification import Classify, Labelling

BATCH_DOCUMENTS = 64  # features are made for many documents at once; more than this is no faster
BATCH_CHARS = 1_000_000
FIRED = 0.5  # a window, and a sentence in it, from this score on is evidence; the best sentence of the best window always is


def check_student(settings: EngineSettings, labelling: "Labelling") -> None:
    """Raise UserError, before anything is read, when the student cannot do what is asked."""
    if labelling.way != "score" or labelling.first_only or labelling.wordings:
        raise UserError(f"the engine {settings.engine} reads whole documents in mode score; leave out --mode, --preset, --windows first")
    check_behaviors(load_student(settings.student), [behavior.name for behavior in load_behaviors(labelling.behaviors_file)])


class StudentLabeller:
    """Labels documents in batches, in bounded memory."""

    def __init__(self, student: Student, names: Sequence[str], window_chars: int) -> None:
        check_behaviors(student, names)
        self.student, self.names, self.window_chars = student, list(names), window_chars
        self._extractor = Extractor()

    def label(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Documents with `metadata["rows"]` = [label row], in the order in which they came."""
        from curate.classification import error_row

        for batch in batches(documents):
            spans = [[] if item.metadata["error"] else split_windows(item.text, self.window_chars) for item in batch]
            windows = [item.text[start:end] for item, own in zip(batch, spans, strict=True) for start, end in own]
            scores = self.student.score(windows, self._extractor) if windows else None
            first = 0
            for item, own in zip(batch, spans, strict=True):
                if own and scores is not None:
                    row = self._row(item, own, scores, first)
                    usage = {"requests": 1}
                else:
                    row, usage = error_row(item, item.metadata["error"]), {}
                item.metadata |= {"rows": [row], "usage": usage}
                first += len(own)
                yield item

    def _row(self, document: Document, spans: Sequence[tuple[int, int]], scores: WindowScores, first: int) -> dict[str, Any]:
        from curate.classification import document_columns

        student = self.student
        own = scores.probabilities[first : first + len(spans)]
        values = {name: own[:, column] for column, name in enumerate(student.targets)}
        evidence = [item for name in self.names for item in self._evidence(name, values[name], spans, scores, first)]
        return {
            **document_columns(document),
            "num_windows": len(spans),
            **{f"{name}_score": student.shifted(noisy_or(values[name]), name) for name in self.names},
            "evidence": evidence,
            **{f"{name}_score": student.shifted(float(values[name].max()), name) for name in ("problem", "solution")},
            "error": None,
        }

    def _evidence(
        self, name: str, probabilities: Any, spans: Sequence[tuple[int, int]], scores: WindowScores, first: int
    ) -> Iterator[dict[str, Any]]:
        """The sentences that fired, as spans of the document, with the score of their window."""
        column = self.student.behaviors.index(name)
        best = int(probabilities.argmax())
        where = scores.where
        for number, (start, _) in enumerate(spans):
            score = self.student.shifted(float(probabilities[number]), name)
            if score < FIRED and number != best:
                continue
            low, high = np.searchsorted(where.text_of, [first + number, first + number + 1])
            if low == high:
                continue
            log_odds = scores.sentences[low:high, column]
            fired = (sigmoid(log_odds) >= FIRED) & (score >= FIRED)
            fired[log_odds.argmax()] = True
            for left, right in where.spans[low:high][fired]:
                yield {"behavior": name, "start": start + int(left), "end": start + int(right), "score": score}


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of up to BATCH_DOCUMENTS documents, and not many more than BATCH_CHARS characters."""
    source = iter(documents)
    batch: list[Document] = []
    chars = 0
    while group := list(islice(source, 1)):
        batch += group
        chars += len(group[0].text)
        if len(batch) == BATCH_DOCUMENTS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def student_labels(documents: Iterable[Document], settings: EngineSettings, labelling: "Labelling") -> Iterator[Document]:
    """`--engine student`."""
    return make_labeller(settings, labelling).label(documents)


def make_labeller(settings: EngineSettings, labelling: "Labelling") -> StudentLabeller:
    """The student that the settings name, loaded."""
    names = [behavior.name for behavior in load_behaviors(labelling.behaviors_file)]
    return StudentLabeller(load_student(settings.student), names, labelling.window_chars)


def cascade(documents: Iterable[Document], settings: EngineSettings, step: "Classify") -> Iterator[Document]:
    """`--engine cascade`: a language model labels what the student does not hold to be free of every behavior, and a uniform sample.

    The column `cascade` says of each document who labelled it, whether it is in the sample, and what the student gave. The sample
    is drawn from all documents by the seed and their identity alone, so it does not depend on order, chunks or tasks.
    """
    names = [behavior.name for behavior in load_behaviors(step.labelling.behaviors_file)]
    ready: deque[Document] = deque()
    given: dict[str, dict[str, Any]] = {}

    def uncertain() -> Iterator[Document]:
        for document in student_labels(documents, settings, step.labelling):
            row = document.metadata["rows"][0]
            if row["error"]:
                ready.append(document)
                continue
            scores = {name: row[f"{name}_score"] for name in names}
            audit = audit_draw(settings.seed, row) < settings.audit_share
            row["cascade"] = {"judge": "student", "audit": audit, "student": scores}
            if audit or max(scores.values()) >= settings.cascade_below:
                given[document.id] = row["cascade"]
                yield document
            else:
                document.text = ""  # it may wait long for its chunk
                document.metadata["usage"]["judge/student"] = 1
                ready.append(document)

    engine_settings = dataclasses.replace(settings, engine=settings.cascade_engine)
    waiting = uncertain()
    first = next(waiting, None)
    if first is not None:  # else the model need not be loaded
        with make_engine(engine_settings) as engine:
            chained = (document for group in ([first], waiting) for document in group)
            for document in step.label(chained, engine, step.labelling.method(engine.info.calibrated)):
                document.metadata["rows"][0]["cascade"] = {**given.pop(document.id), "judge": "llm"}
                document.metadata["usage"]["judge/llm"] = 1
                yield document
                while ready:
                    yield ready.popleft()
    yield from ready


def audit_draw(seed: int, row: dict[str, Any]) -> float:
    """A number in [0, 1) that depends on the seed and the document's identity alone."""
    digest = hashlib.sha256(f"{seed}/{row['file_sha256']}/{row['source_row']}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
