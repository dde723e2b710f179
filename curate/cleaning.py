"""What must not be in the arms: near-duplicates, problems of an evaluation set, tasks of the game that the model is later judged on.

MinHash and n-gram decontamination are datatrove's steps, run here on tables. Three of their defaults do not fit mathematics and are
changed: numbers are kept (theirs become 0, and then all problems of a kind are one), words are split at blanks (their English tokenizer
needs spaCy), and n-grams of the questions are indexed too (by default only those of answers are).
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.records.errors import UserError
from curate.records.settings import option

# MinHash only proposes; what counts is the Jaccard similarity itself. 20 buckets of 5 propose a pair of similarity .75 with
# probability 1 - (1 - .75^5)^20 = .996, one of .85 with 1 - 1e-5.
NUM_BUCKETS, HASHES_PER_BUCKET, SHINGLE_WORDS = 20, 5, 5
QUESTION_COLUMNS = ("question", "problem", "prompt", "query", "text")
ANSWER_COLUMNS = ("answer", "solution", "completion")
NUMBERS = re.compile(r"(?<![\w.,])\d{1,6}(?:\s*(?:,|and|,\s*and)\s*\d{1,6}){1,7}(?![\w])")
INTEGER = re.compile(r"(?<![\w.])-?\d{1,9}(?![\w])")


@dataclass(frozen=True)
class CleaningSettings:
    """What is taken out before the arms are matched."""

    similarity: float = option(
        0.75, "Of two documents from this similarity on (Jaccard, 5 words) only one stays, whatever their arms; 0 keeps all.", at_least=0
    )
    decontaminate: tuple[str, ...] = option(
        (), "Files of evaluation texts (Parquet, JSONL, or a text a line): what shares an n-gram with them goes."
    )
    decontaminate_words: int = option(12, "Words of these n-grams.", at_least=3)
    countdown_tasks: tuple[str, ...] = option(
        (), "Files of Countdown tasks (nums or numbers, target): what contains one, by its numbers in any order and its target, goes."
    )


def _datatrove(config: type, **values: Any) -> Any:
    from datatrove.utils.logging import logger
    from datatrove.utils.text import TextNormConfig

    logger.disable("datatrove")
    return config(norm_config=TextNormConfig(norm_numbers=False), **values)


def _word_tokenizer() -> Any:
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Blanks(WordTokenizer):
        """Words between blanks: all that is left to split after datatrove's normalisation. Its own tokenizers load spaCy."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return text.splitlines()

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    return Blanks()


def near_duplicates(texts: Sequence[str], units: Sequence[str], similarity: float) -> list[tuple[int, int]]:
    """Pairs (i < j) of texts whose sets of 5-word shingles have a Jaccard similarity of at least `similarity`.

    Texts of one unit (the versions of a document) are never a pair. Proposed by datatrove's MinHash, then computed exactly; texts of
    fewer than five words are compared as a whole.
    """
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature

    config = _datatrove(MinhashConfig, n_grams=SHINGLE_WORDS, num_buckets=NUM_BUCKETS, hashes_per_bucket=HASHES_PER_BUCKET)
    with tempfile.TemporaryDirectory(prefix="minhash-") as folder:
        signature = MinhashDedupSignature(f"{folder}/signatures", config, language=_word_tokenizer())
        signature.run((Document(text=text, id=str(number)) for number, text in enumerate(texts)), 0, 1)
        buckets = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/pairs", config=config)
        for bucket in range(NUM_BUCKETS):
            buckets.run(None, bucket, NUM_BUCKETS)
        records = [np.fromfile(path, dtype="<u4").reshape(-1, 4) for path in sorted(Path(folder, "pairs").rglob("*.dups"))]
    proposed = {(min(a, b), max(a, b)) for part in records for a, b in part[:, [1, 3]].tolist()}
    # datatrove chains the equal signatures of a bucket (1-2, 2-3): close the chains, or 1-3 would never be compared.
    groups: dict[int, list[int]] = defaultdict(list)
    roots = connect(len(texts), proposed)
    for number in sorted({number for pair in proposed for number in pair}):
        groups[roots[number]].append(number)
    shingles: dict[int, frozenset[int]] = {}
    for number in (number for group in groups.values() for number in group):
        shingles[number] = frozenset(signature.get_shingles(texts[number]).ravel().tolist())
    found = {
        (a, b)
        for group in groups.values()
        for place, a in enumerate(group)
        for b in group[place + 1 :]
        if units[a] != units[b] and jaccard(shingles[a], shingles[b]) >= similarity
    }
    return sorted(found | _equal_short(texts, units, signature))


def _equal_short(texts: Sequence[str], units: Sequence[str], signature: Any) -> set[tuple[int, int]]:
    """Equal texts among those too short to have a shingle."""
    first: dict[str, int] = {}
    found = set()
    for number, text in enumerate(texts):
        if len(text.split()) <= SHINGLE_WORDS + 3 and not signature.get_shingles(text).size:
            other = first.setdefault(" ".join(text.lower().split()), number)
            if units[other] != units[number]:
                found.add((other, number))
    return found


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    """Size of the intersection over that of the union."""
    both = len(first & second)
    return both / max(len(first) + len(second) - both, 1)


def connect(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The smallest member of each item's connected component, for items 0..count-1."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(item) for item in range(count)]


@dataclass(frozen=True)
class EvaluationTexts:
    """One evaluation file: its questions and answers (empty where it has only one text a row)."""

    name: str
    rows: list[tuple[str, str]]


def read_evaluation(path: str) -> EvaluationTexts:
    """The texts of an evaluation file. Raises UserError when it cannot be read or has no texts."""
    rows = []
    if path.lower().endswith(".txt"):
        try:
            rows = [(line, "") for line in Path(path).read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the evaluation texts {path}: {error}") from None
    else:
        for values in table_rows(path, "evaluation texts"):
            question, answer = (
                next((values[name] for name in names if isinstance(values.get(name), str)), "")
                for names in (QUESTION_COLUMNS, ANSWER_COLUMNS)
            )
            rows += [(question, answer)] if question or answer else []
    if not rows:
        known = ", ".join([*QUESTION_COLUMNS, *ANSWER_COLUMNS])
        raise UserError(
            f"{path} holds no evaluation texts: it needs rows with a text in one of the columns {known}, or a text a line (.txt)"
        )
    return EvaluationTexts(Path(path).stem, rows)


def table_rows(path: str, what: str) -> Iterator[dict[str, Any]]:
    """The rows of one local Parquet or JSONL file. Raises UserError, which says `what` was to be read."""
    from curate.reading import BadFile, count_rows, file_format, read_rows

    file = Path(path)
    if not file.is_file() or not file_format(file.name):
        state = "is neither Parquet nor JSONL" if file.is_file() else "does not exist"
        raise UserError(f"cannot read the {what} {path}: it {state}")
    try:
        root = str(file.parent.resolve())
        for row in read_rows(root, file.name, [(0, count_rows(root, file.name))]):
            if row.error:
                raise UserError(f"cannot read the {what} {path}: row {row.number}: {row.error}")
            yield row.values
    except (BadFile, OSError) as error:
        raise UserError(f"cannot read the {what} {path}: {error}") from None


@dataclass(frozen=True)
class Contamination:
    """Which texts contain something of an evaluation, by its name, and what the indices held."""

    found: dict[int, str]
    indexed: dict[str, dict[str, int]]


def contaminated(texts: Sequence[str], questions: Sequence[str], evaluations: Sequence[EvaluationTexts], words: int) -> Contamination:
    """Texts that share an n-gram of `words` words with an evaluation text, and those whose question is a shorter evaluation text.

    Raises UserError when an index is empty: nothing could ever be found, and 0 hits would be taken for clean.
    """
    from datatrove.data import Document
    from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer

    class Indexer(NGramsDecontIndexer):
        """datatrove's n-grams of a text. Its own `run` asks for lighteval, and so does making one."""

        def __new__(cls, *_: Any, **__: Any) -> Any:
            return object.__new__(cls)

    config = _datatrove(NGramsDecontConfig, n_grams=words, find_query_ngrams=True)
    indexed: dict[str, dict[str, int]] = {}
    whole: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="decontaminate-") as folder:
        indexer = Indexer(folder, config=config, language=_word_tokenizer())
        for number, evaluation in enumerate(evaluations):
            name = evaluation.name if evaluation.name not in indexed else f"{evaluation.name}-{number}"
            hashes: set[int] = set()
            num_short = 0
            for question, answer in evaluation.rows:
                hashes.update(indexer.compute_hashes(answer, question))
                if len(simplified(question, config).split()) < words:
                    num_short += 1
                    whole[simplified(question, config)] = name
            whole.pop("", None)
            if not hashes and name not in whole.values():
                raise UserError(f"the index of {evaluation.name} is empty: none of its {len(evaluation.rows)} texts has {words} words")
            indexed[name] = {"texts": len(evaluation.rows), "n_grams": len(hashes), "matched_whole": num_short}
            np.array(sorted(hashes), dtype=np.uint64).tofile(f"{folder}/{number}.index.hashes")
        names = dict(zip([str(number) for number in range(len(evaluations))], indexed, strict=True))
        screen = NGramsDecontFilter(folder, config=config, language=_word_tokenizer())
        found = {}
        for number, (text, question) in enumerate(zip(texts, questions, strict=True)):
            document = Document(text=text, id=str(number))
            if screen.filter(document) is not True:
                found[number] = names[document.metadata["contaminated_task"]]
            elif (short := whole.get(simplified(question, config))) is not None:
                found[number] = short
    return Contamination(found, indexed)


def simplified(text: str, config: Any) -> str:
    """`text` as it is compared: lower case, without punctuation, single blanks."""
    from datatrove.utils.text import simplify_text

    return simplify_text(text, config.norm_config)


@dataclass(frozen=True)
class TaskIndex:
    """Countdown tasks as (sorted numbers, target), and how many rows repeat an earlier one."""

    tasks: frozenset[tuple[tuple[int, ...], int]]
    rows: int
    duplicates: int


def read_tasks(paths: Sequence[str]) -> TaskIndex:
    """The tasks of files with `nums` or `numbers` and `target`. Raises UserError for a file without tasks or a row that is none."""
    tasks: set[tuple[tuple[int, ...], int]] = set()
    rows = 0
    for path in paths:
        before = rows
        for rows, values in enumerate(table_rows(path, "Countdown tasks"), start=before + 1):
            try:
                tasks.add(task_key(values["nums"] if "nums" in values else values["numbers"], values["target"]))
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{path}: row {rows - before - 1} is no Countdown task (nums or numbers, a list, and target)") from None
        if rows == before:
            raise UserError(f"the index of {path} is empty: it holds no Countdown tasks")
    return TaskIndex(frozenset(tasks), rows, rows - len(tasks))


def task_key(numbers: Iterable[Any], target: Any) -> tuple[tuple[int, ...], int]:
    """What makes two tasks the same: the multiset of numbers, and the target."""
    return tuple(sorted(int(number) for number in numbers)), int(target)


def contains_task(text: str, tasks: frozenset[tuple[tuple[int, ...], int]]) -> bool:
    """Whether `text` names the numbers of a task in one run (3, 5 and 7) and its target anywhere."""
    runs = [[int(number) for number in re.findall(r"\d+", found[0])] for found in NUMBERS.finditer(text)]
    if not runs:
        return False
    targets = {int(found[0]) for found in INTEGER.finditer(text)}
    return any(task_key(run, target) in tasks for run in runs for target in targets)
