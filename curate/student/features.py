"""What the student sees: sentences, and for each hashed word patterns (a sparse row) and cues (booleans).

Everything is done for many documents at once: sentences by one regular expression, words by another, word patterns by integer
arithmetic on word hashes, cues by RE2 (through Arrow), which reads a text once for each cue at memory speed. scikit-learn's
HashingVectorizer, which makes each n-gram a Python string, is the peer in `bench/student_speed.py`.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.student.cues import CUES

VERSION = 1  # of everything in this file and of the cues' meaning: weights made with another one are refused
HASH_BITS = 17
MAX_SENTENCE_CHARS = 500
CODE_LINE = r"(?:assert|return|print|for|if|elif|else|def|from|import|not|while|class|run)\b[^.\n]*[=(\[:]"
# A sentence ends at a blank line, after . ! or ? before something that can begin one, and at a line's end unless the next line goes
# on in lower case or mathematics (sources of papers are wrapped at 70 characters).
BREAK = re.compile(
    r"[ \t\r]*\n[ \t\r]*\n\s*"
    r"|(?<=[.!?])[\"'”’)\]*_}]*[ \t\r\n]+(?=[\"'“‘(\[*_]*[A-Z0-9\\$])"
    r"|\n[ \t]*(?=" + CODE_LINE + r")"
    r"|\n[ \t]*(?![ \t]*(?:[a-z]+[ ,.;:\n]|\$[^$]|\\[a-z]*ref|\\olref))"
)
WORD = re.compile(r"\$\$?[^$]{1,400}\$\$?|\\[a-z]+|[a-z]+(?:['’][a-z]+)?|\d[\d.,]*|[^\w\s]|_")
RELATION = re.compile(r"[=<>≟]|\\(?:leq?|geq?|approx|equiv|sim)\b")
KINDS = ("word", "pair", "triple", "skip1", "skip2", "first", "before", "after")


@dataclass(frozen=True)
class Sentences:
    """Sentences of several texts. `text_of[i]` is the text of sentence i, `spans[i]` its (start, end) in characters there.

    `words`: scipy CSR, (sentences, 2 ** HASH_BITS). `cues`: bool, (sentences, len(CUES)).
    """

    num_texts: int
    text_of: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]
    words: Any
    cues: npt.NDArray[np.bool_]


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences (or lines) of `text`, without the white space between them."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in BREAK.finditer(text):
        _append(spans, text, start, match.start())
        start = match.end()
    _append(spans, text, start, len(text))
    return spans


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    while end - start > MAX_SENTENCE_CHARS:
        cut = text.rfind(" ", start + 1, start + MAX_SENTENCE_CHARS)
        cut = cut if cut > start else start + MAX_SENTENCE_CHARS
        if text[start:cut].strip():
            spans.append((start, cut))
        start = cut
    if text[start:end].strip():
        spans.append((start, end))


class Extractor:
    """Makes `Sentences` of texts. Keeps the hashes of words that it has seen, in bounded memory."""

    LIMIT = 200_000

    def __init__(self, cues: Sequence[str] | None = None) -> None:
        self._hashes: dict[str, int] = {}
        self._patterns = list(CUES.values()) if cues is None else list(cues)

    def extract(self, texts: Sequence[str]) -> Sentences:
        text_of: list[int] = []
        spans: list[tuple[int, int]] = []
        pieces: list[str] = []
        for number, text in enumerate(texts):
            found = split_sentences(text)
            spans += found
            text_of += [number] * len(found)
            pieces += [text[start:end] for start, end in found]
        sentence_text = np.array(text_of, dtype=np.int64)
        return Sentences(
            len(texts),
            sentence_text,
            np.array(spans, dtype=np.int64).reshape(-1, 2),
            self._words(pieces, sentence_text),
            self._cues(pieces, sentence_text),
        )

    def _words(self, pieces: Sequence[str], text_of: npt.NDArray[np.int64]) -> Any:
        from scipy.sparse import csr_matrix

        if len(self._hashes) > self.LIMIT:
            self._hashes.clear()
        tokens: list[str] = []
        lengths = np.empty(len(pieces), dtype=np.int64)
        for number, piece in enumerate(pieces):
            found = WORD.findall(piece.lower())
            lengths[number] = len(found)
            tokens += found
        known = self._hashes
        try:
            values = [known[token] for token in tokens]
        except KeyError:
            for token in set(tokens):
                if token not in known:
                    known[token] = word_hash(token)
            values = [known[token] for token in tokens]
        word = np.array(values, dtype=np.uint64)
        sentence = np.repeat(np.arange(len(pieces)), lengths)
        rows, columns = word_patterns(word, sentence, text_of)
        matrix = csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(pieces), 1 << HASH_BITS))
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        counts = np.diff(matrix.indptr)
        matrix.data /= np.repeat(np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
        return matrix

    def _cues(self, pieces: Sequence[str], text_of: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which cue matches which sentence, (sentences, cues)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = np.zeros((len(pieces), len(self._patterns)), dtype=bool)
        if not pieces:
            return found
        # A call for every sentence and cue would cost more than the reading: whole texts are searched first, one sentence a line.
        lines = [piece.replace("\n", " ") for piece in pieces]
        starts = np.flatnonzero(np.diff(text_of, prepend=-1))
        bounds = [*starts.tolist(), len(lines)]
        whole = pa.array(["\n".join(lines[low:high]) for low, high in pairwise(bounds)], type=pa.large_string())
        column = pa.array(lines, type=pa.large_string())
        group = np.repeat(np.arange(len(starts)), np.diff(bounds))
        for number, pattern in enumerate(self._patterns):
            hit = pc.match_substring_regex(whole, pattern).to_numpy(zero_copy_only=False)
            rows = np.flatnonzero(hit[group])
            if len(rows):
                found[rows, number] = pc.match_substring_regex(column.take(pa.array(rows)), pattern).to_numpy(zero_copy_only=False)
        return found


def word_hash(token: str) -> int:
    """A number for a word: numbers and formulas are one word each (a formula with a relation another)."""
    if token[0] == "$" and len(token) > 1:
        token = "$=" if RELATION.search(token) else "$"
    elif token[0].isdigit():
        token = "0" if len(token) == 1 else "00"
    return zlib.crc32(token.replace("’", "'").encode()) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF


def word_patterns(
    word: npt.NDArray[np.uint64], sentence: npt.NDArray[np.int64], text_of: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(row, column) of every pattern: words, pairs, triples, pairs with gaps, the first words, words of the sentences around."""
    rows, columns = [], []

    def add(kind: str, row: npt.NDArray[np.int64], value: npt.NDArray[np.uint64]) -> None:
        mixed = (value ^ np.uint64(KINDS.index(kind) * 0x51ED270B)) * np.uint64(0xFF51AFD7ED558CCD)
        rows.append(row)
        columns.append((mixed >> np.uint64(64 - HASH_BITS)).astype(np.int64))

    def joined(*offsets: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        size = max(len(word) - offsets[-1], 0)
        inside = sentence[:size] == sentence[offsets[-1] :][:size]
        value = word[:size][inside]
        for offset in offsets:
            value = value * np.uint64(0x9E3779B97F4A7C15 | 1) + word[offset : offset + size][inside]
        return sentence[:size][inside], value

    add("word", sentence, word)
    add("pair", *joined(1))
    add("triple", *joined(1, 2))
    add("skip1", *joined(2))
    add("skip2", *joined(3))
    starts = np.flatnonzero(np.diff(sentence, prepend=-1))
    add("first", sentence[starts], word[starts])
    has_two = starts[(starts + 1 < len(word))]
    has_two = has_two[sentence[has_two] == sentence[has_two + 1]] if len(has_two) else has_two
    add("first", sentence[has_two], word[has_two] * np.uint64(31) + word[has_two + 1])
    for kind, step in (("before", 1), ("after", -1)):
        target = sentence + step
        inside = (target >= 0) & (target < len(text_of))
        inside[inside] = text_of[target[inside]] == text_of[sentence[inside]]
        add(kind, target[inside], word[inside])
    return np.concatenate(rows), np.concatenate(columns)
