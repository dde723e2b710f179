"""The student's weights, what it computes from them, and its file.

A sentence gets a score for each behavior (logistic regression on its word patterns and its own and its neighbours' cues). A window gets
a second look: the best sentence scores, what its words say together, how often each cue occurs and how long it is go into a
logistic regression and a forest, whose mean is calibrated at the natural prevalence of the training windows (Platt).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.records.errors import UserError
from curate.records.manifest import json_sha256
from curate.student.cues import CUES
from curate.student.features import HASH_BITS, VERSION, Extractor, Sentences
from curate.student.forest import Forest

FILE_NAME = "student.safetensors"
FORMAT = "fourhabits student"
NUM_BEST = 3
QUESTIONS = ("problem", "solution")  # what is asked of every window beside the behaviors
Floats = npt.NDArray[np.float32]


def features_hash() -> str:
    """Names the features: a student is only read with those it was made from."""
    return json_sha256({"version": VERSION, "bits": HASH_BITS, "cues": CUES, "best": NUM_BEST})


@dataclass(frozen=True)
class WindowScores:
    """`probabilities` (windows, targets) are calibrated at the natural prevalence; `sentences` (sentences, behaviors) are log-odds."""

    probabilities: npt.NDArray[np.float64]
    sentences: Floats
    where: Sentences


@dataclass(frozen=True)
class Student:
    """`targets`: the behaviors, then problem and solution. Weights of sentences and windows read the same word patterns.

    sentence_words (2 ** HASH_BITS, behaviors), sentence_cues (3 * cues, behaviors), sentence_bias (behaviors,), window_words
    (2 ** HASH_BITS, targets), window_bias (targets,), second (features, targets), second_bias (targets,), mean and scale (features,),
    platt (2, targets): calibrated log-odds = platt[0] * raw + platt[1]. `shift` (targets,) is what is added to log-odds for a score whose
    cut at 0.5 is where the cross-validated F1 is largest.
    """

    behaviors: tuple[str, ...]
    weights: Mapping[str, Any]
    forests: Mapping[str, Forest]
    about: Mapping[str, Any]

    @property
    def targets(self) -> tuple[str, ...]:
        return (*self.behaviors, *QUESTIONS)

    def score(self, texts: Sequence[str], extractor: Extractor) -> WindowScores:
        """Score windows. `extractor` may be kept between calls."""
        where = extractor.extract(texts)
        sentences, windows = self.first_look(where)
        raw = self.second_look(window_features(where, sentences, windows, [len(text) for text in texts]))
        return WindowScores(sigmoid(raw * self.weights["platt"][0] + self.weights["platt"][1]), sentences, where)

    def first_look(self, where: Sentences) -> tuple[Floats, Floats]:
        """Log-odds of sentences (sentences, behaviors), and what the words of windows say (windows, targets)."""
        both = where.words @ self.weights["words"]
        count = len(self.behaviors)
        sentences = both[:, :count] + neighbours(where) @ self.weights["sentence_cues"] + self.weights["sentence_bias"]
        windows = pooled(where, both[:, count:]) + self.weights["window_bias"]
        return sentences.astype(np.float32), windows.astype(np.float32)

    def second_look(self, features: Floats) -> npt.NDArray[np.float64]:
        """Uncalibrated log-odds (windows, targets)."""
        scaled = (features - self.weights["mean"]) / self.weights["scale"]
        linear = sigmoid(scaled @ self.weights["second"] + self.weights["second_bias"])
        trees = np.stack([self.forests[name].predict(features) for name in self.targets], axis=1)
        return logit((linear + trees) / 2)

    def shifted(self, probability: float, target: str) -> float:
        """The score whose cut at 0.5 is where the cross-validated F1 is largest; a monotone function of the probability."""
        return float(sigmoid(logit(probability) + self.weights["shift"][self.targets.index(target)]))

    def save(self, path: Path) -> None:
        """Write one safetensors file; metadata holds everything that is not a number."""
        from safetensors.numpy import save

        from curate.records.parts import atomic_file

        half = {"words"}
        arrays = {name: np.ascontiguousarray(value, np.float16 if name in half else np.float32) for name, value in self.weights.items()}
        for name, forest in self.forests.items():
            arrays |= {f"forest.{name}.{key}": np.ascontiguousarray(value) for key, value in forest.arrays().items()}
        about = {**self.about, "format": FORMAT, "features": features_hash(), "behaviors": list(self.behaviors)}
        with atomic_file(path) as file:
            file.write(save(arrays, metadata={FORMAT: json.dumps(about, sort_keys=True)}))


def load_student(path: Path | None = None) -> Student:
    """The student in `path` (a file, or the folder that `curate distill` wrote), by default the one that ships.

    Raises UserError when it is no student, or was made from other features.
    """
    from safetensors import SafetensorError, safe_open

    found = student_file(path)
    try:
        with safe_open(found, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
            if about.get("format") != FORMAT:
                raise UserError(f"{found} is a safetensors file but no student; `curate distill` makes one")
            if about["features"] != features_hash():
                raise UserError(
                    f"the student {found} was made from other features (those of fourhabits {about.get('version')}); make it again "
                    "with `curate distill`"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"cannot read the student {found}: {str(error).splitlines()[0]}") from None
    behaviors = tuple(about["behaviors"])
    forests = {
        name: Forest.from_arrays({key.rpartition(".")[2]: value for key, value in arrays.items() if key.startswith(f"forest.{name}.")})
        for name in (*behaviors, *QUESTIONS)
    }
    weights = {name: value.astype(np.float32) for name, value in arrays.items() if not name.startswith("forest.")}
    return Student(behaviors, weights, forests, about)


def student_file(path: Path | None) -> Path:
    """Where the weights lie."""
    if path is None:
        return Path(str(files("curate").joinpath("student", FILE_NAME)))
    return path / FILE_NAME if path.is_dir() else path


def student_revision(path: Path | None) -> str:
    """Hash of the weights: what a manifest names."""
    try:
        return hashlib.sha256(student_file(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"cannot read the student {student_file(path)}: {error.strerror}") from None


def check_behaviors(student: Student, names: Sequence[str]) -> None:
    """Raise UserError when the student was never taught one of `names`."""
    unknown = [name for name in names if name not in student.behaviors]
    if unknown:
        raise UserError(
            f"the student does not know {', '.join(unknown)} (it was taught {', '.join(student.behaviors)}): label windows with another "
            "engine and make a student of them with `curate distill`, or use --engine vllm or openai"
        )


def neighbours(where: Sentences) -> Floats:
    """Cues of each sentence, and at half weight those of the one before and the one after in the same text: (sentences, 3 * cues)."""
    own = where.cues.astype(np.float32)
    before, after = np.zeros_like(own), np.zeros_like(own)
    if len(own) > 1:
        same = (where.text_of[1:] == where.text_of[:-1])[:, None]
        before[1:] = own[:-1] * same
        after[:-1] = own[1:] * same
    return np.hstack([own, before / 2, after / 2])


def pooled(where: Sentences, values: Floats) -> Floats:
    """Sum of `values` (sentences, n) over each text, divided by the root of its number of sentences: (texts, n)."""
    totals = np.zeros((where.num_texts, values.shape[1]), dtype=np.float32)
    np.add.at(totals, where.text_of, values)
    counts = np.bincount(where.text_of, minlength=where.num_texts)
    return (totals / np.sqrt(np.maximum(counts, 1))[:, None]).astype(np.float32)


def window_features(where: Sentences, sentences: Floats, windows: Floats, lengths: Sequence[int]) -> Floats:
    """What the second look sees of each text: best sentences, their noisy-or, words, cue counts (up to 3), size."""
    texts, behaviors = where.num_texts, sentences.shape[1]
    counts = np.bincount(where.text_of, minlength=texts)
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    best = np.full((texts, behaviors, NUM_BEST), -9.0, dtype=np.float32)
    for behavior in range(behaviors):
        order = np.lexsort((-sentences[:, behavior], where.text_of))
        rank = np.arange(len(order)) - first[where.text_of[order]]
        top = rank < NUM_BEST
        best[where.text_of[order][top], behavior, rank[top]] = sentences[order[top], behavior]
    clear = np.zeros((texts, behaviors))
    np.add.at(clear, where.text_of, np.logaddexp(0, sentences.astype(np.float64)))  # -log of the share of "none shows it"
    cues = np.zeros((texts, where.cues.shape[1]), dtype=np.float32)
    np.add.at(cues, where.text_of, where.cues)
    size = np.log(np.stack([np.maximum(lengths, 1), np.maximum(counts, 1)], axis=1))
    return np.hstack([best.reshape(texts, -1), np.log(clear + 1e-4), windows, np.minimum(cues, 3), size]).astype(np.float32)


def sigmoid(value: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(value, -50, 50)))


def logit(probability: Any) -> Any:
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def noisy_or(probabilities: npt.NDArray[np.float64]) -> float:
    """That not all windows lack the behavior; the windows' probabilities are calibrated (see curate.windows.document_score)."""
    from curate.windows import document_score

    return document_score([float(value) for value in probabilities], "noisy-or") if len(probabilities) else math.nan
