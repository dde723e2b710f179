"""`curate topics`: what a document is about and how hard it reads, for matching. TF-IDF clusters and a readability grade.

Topics are k-means clusters (scikit-learn) of the TF-IDF vectors of a sample of the corpus; every document gets the nearest one. The
fitted model is a small JSON file in the output folder: words, their weights and the centres, nothing pickled.
Difficulty is the Coleman-Liau index (Coleman and Liau 1975), 0.0588 L - 0.296 S - 15.8 with letters L and sentences S per 100 words, of
the words between formulas. It is a proxy: how hard the prose reads, not how hard the mathematics is.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from curate.records.errors import UserError
from curate.records.settings import option

READ_CHARS = 4_000  # of a document: enough to tell what it is about
MOST_TOPICS = 32
FEWEST_DOCUMENTS = 40  # a topic
MOST_WORDS = 20_000
NAME_WORDS = 3
BATCH_DOCUMENTS = 512
WORD = r"(?u)\b[a-zA-Z]{2,}\b"
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[a-zA-Z]+", re.DOTALL)
LETTERS = re.compile(r"[^\W\d_]{2,}|\b[aI]\b")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True)
class TopicsSettings:
    """How many topics, and from how many documents they are made."""

    labels: Path | None = option(None, "Output folder of `curate classify`, or of `curate select` for the candidates alone.", hashed=False)
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    num_topics: int | None = option(
        None,
        f"Topics (default: a tenth of the square root of the documents, at most {MOST_TOPICS}: 1 for 60, 2 for 300, 8 for 5,760); "
        f"fewer when the corpus has under {FEWEST_DOCUMENTS} documents a topic.",
        at_least=1,
    )
    fit_documents: int = option(20_000, "Documents that the topics are made from, drawn by content.", at_least=2)
    seed: int = option(0, "Seed of that draw and of the clustering.", at_least=0)
    chunk_rows: int = option(2_000, "Documents per chunk: the unit that is done or not done.", at_least=1)
    executor: str = option("local", "Where tasks run.", choices=("local", "slurm"), hashed=False)
    tasks: int = option(1, "Tasks that share the work.", hashed=False, at_least=1)
    slurm: tuple[str, ...] = option((), "Slurm settings as name=value.", hashed=False)


@dataclass(frozen=True)
class TopicModel:
    """`words` and their `idf` weights, `centres` (K, words) and the `names` of the K topics."""

    words: list[str]
    idf: np.ndarray
    centres: np.ndarray
    names: list[str]

    def vectors(self, texts: Sequence[str]) -> Any:
        """TF-IDF of texts, sparse (N, words), rows of length 1."""
        from scipy.sparse import diags
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import normalize

        counts = CountVectorizer(vocabulary=self.words, token_pattern=WORD, dtype=np.float64).transform(
            [text[:READ_CHARS] for text in texts]
        )
        np.log(counts.data, out=counts.data)
        counts.data += 1  # sublinear: 1 + log of the count
        return normalize(counts @ diags(self.idf))

    def assign(self, texts: Sequence[str]) -> list[str]:
        """The name of the topic whose centre is nearest."""
        if not texts or len(self.names) == 1:
            return self.names * len(texts)
        distances = (self.centres**2).sum(axis=1) - 2 * (self.vectors(texts) @ self.centres.T)
        return [self.names[nearest] for nearest in distances.argmin(axis=1)]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values; centres as their entries that are not 0."""
        rows, columns = np.nonzero(self.centres)
        entries = [rows.tolist(), columns.tolist(), self.centres[rows, columns].tolist()]
        return {"words": self.words, "idf": self.idf.tolist(), "names": self.names, "centres": entries}


def read_model(path: Path) -> TopicModel:
    """The model that `curate topics` stored. Raises UserError when it is damaged."""
    try:
        raw = json.loads(path.read_text())
        centres = np.zeros((len(raw["names"]), len(raw["words"])))
        rows, columns, values = raw["centres"]
        centres[rows, columns] = values
        return TopicModel(raw["words"], np.array(raw["idf"]), centres, raw["names"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"the topic model {path} cannot be read ({error}); remove it and run the same command again") from None


def default_topics(num_documents: int) -> int:
    """A tenth of the square root of the documents, 1 to MOST_TOPICS: each topic divides those that can be matched, so few documents
    bear few topics."""
    return min(max(round(math.sqrt(num_documents) / 10), 1), MOST_TOPICS)


def fit_topics(texts: Sequence[str], num_topics: int, seed: int) -> TopicModel:
    """Topics of `texts`, whatever their order. Raises UserError when more than one is asked for and the texts share no words."""
    if num_topics == 1:  # nothing to tell apart, so words are not needed
        return TopicModel([], np.zeros(0), np.zeros((1, 0)), ["00 all documents"])
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    ordered = sorted((text[:READ_CHARS] for text in texts), key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest())
    rare = 1 if len(ordered) < 200 else 5
    vectorizer = TfidfVectorizer(
        max_features=MOST_WORDS, min_df=rare, max_df=0.5 if rare > 1 else 1.0, sublinear_tf=True, stop_words="english", token_pattern=WORD
    )
    try:
        vectors = vectorizer.fit_transform(ordered)
    except ValueError:
        raise UserError(f"no topics can be made of {len(texts)} documents: they share no words") from None
    clusters = max(1, min(num_topics, len(ordered) // FEWEST_DOCUMENTS))
    centres = MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=1024).fit(vectors).cluster_centers_
    words = vectorizer.get_feature_names_out().tolist()
    names = [
        f"{number:02d} " + " ".join(words[best] for best in centre.argsort()[::-1][:NAME_WORDS]) for number, centre in enumerate(centres)
    ]
    return TopicModel(words, vectorizer.idf_, centres, names)


def difficulty(text: str) -> float | None:
    """Coleman-Liau index of the words between formulas; None for a text of fewer than ten words."""
    prose = FORMULA.sub(" ", text[:READ_CHARS])
    words = LETTERS.findall(prose)
    if len(words) < 10:
        return None
    letters, sentences = sum(map(len, words)), max(len(SENTENCE_END.findall(prose)), 1)
    return 0.0588 * 100 * letters / len(words) - 0.296 * 100 * sentences / len(words) - 15.8


class AssignTopics(PipelineStep):
    """Gives each Document its topic and difficulty, and refuses a text that is not the one that was labelled."""

    type = "TOPICS"
    name = "topics"

    def __init__(self, model: Path) -> None:
        super().__init__()
        self.model = model

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        model = read_model(self.model)
        batch: list[Document] = []
        for document in data:
            batch.append(document)
            if len(batch) == BATCH_DOCUMENTS:
                yield from self._assign(model, batch)
                batch = []
        yield from self._assign(model, batch)

    def _assign(self, model: TopicModel, batch: list[Document]) -> Iterator[Document]:
        for document, topic in zip(batch, model.assign([document.text for document in batch]), strict=True):
            row = document.metadata["row"]
            labelled = row.get("error") is None
            if labelled:
                check_text(row, document.text)
            kept = {key: row.get(key) for key in ("file_sha256", "source_file", "source_row", "id", "source")}
            made = {"topic": topic if labelled else None, "difficulty": difficulty(document.text) if labelled else None}
            document.metadata |= {"rows": [{**kept, **made}]}
            yield document


def check_text(row: dict[str, Any], text: str) -> None:
    """Raise UserError when the text is not the one that the row was labelled with."""
    known = row.get("text_sha256")
    if known is not None and hashlib.sha256(text.encode()).hexdigest() != known:
        raise UserError(
            f"row {row['source_row']} of {row['source_file']} is not the text that was labelled: labels and corpus do not belong together"
        )
