"""Topics are made once, from the text that was labelled and no other; selection matches documents on them before anything is rewritten."""

import hashlib
import json
import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from curate.corpus import find_files
from curate.records import schemas
from curate.records.errors import UserError
from curate.records.manifest import Manifest, read_manifest
from curate.records.parts import write_part
from curate.selection import SelectSettings
from curate.topic_clusters import TopicsSettings
from curate.windows import notation_density
from pipelines.select import select
from pipelines.topics import topics
from tests.helpers import conserved, rows_of, write_jsonl

SUBJECTS = (
    ["matrix", "vector", "basis", "eigenvalue", "linear", "rank", "kernel", "determinant"],
    ["dice", "cards", "probability", "deck", "hand", "suit", "draw", "odds"],
)


def labelled(folder: Path, count: int = 200, parts: int = 1, order: int = 0, stretch: int = 1) -> Path:
    """A corpus of two subjects with labels as `classify` leaves them; a fifth shows the behavior, longer documents more often.

    `stretch` makes those that show it so many times as long."""
    generator = random.Random(7)
    texts = []
    for number in range(count):
        size = generator.randint(20, 120)
        texts.append(" ".join(generator.choices(SUBJECTS[number % 2], k=size)) + ". " + "We see that it holds = 2. " * (size // 20))
    shown = [generator.random() < 0.05 + len(text) / 4000 for text in texts]
    corpus = write_jsonl(folder / "corpus" / "f.jsonl", [{"text": text} for text in texts])
    (file,) = find_files([str(corpus)]).files
    rows = [
        {
            "file_sha256": file.sha256,
            "source_file": file.path,
            "source_row": number,
            "source": "made",
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "num_chars": len(text) * (stretch if behavior else 1),
            "num_windows": 1,
            "a_score": 0.9 if behavior else 0.1,
            "problem_score": 1.0,
            "solution_score": 1.0,
            "notation_density": notation_density(text),
            "error": "broken" if number == 3 else None,
        }
        for number, (text, behavior) in enumerate(zip(texts, shown, strict=True))
    ]
    random.Random(order).shuffle(rows)
    for part in range(parts):
        table = pa.Table.from_pylist(rows[part::parts], schema=schemas.labels(["a"]))
        write_part(folder / "labels" / "parts" / f"{part}.parquet", table, {"settings_hash": "h"})
    Manifest("classify", {"text_key": "text"}, inputs=[file], rows_in=count, rows_out=count).write(folder / "labels")
    return folder / "labels"


def test_every_labelled_document_gets_a_topic_and_a_difficulty(tmp_path: Path) -> None:
    labels = labelled(tmp_path)
    topics(TopicsSettings(labels=labels, out=tmp_path / "topics", num_topics=2, chunk_rows=64))
    conserved(tmp_path / "topics")
    rows = {row["source_row"]: row for row in rows_of(tmp_path / "topics")}
    assert len(rows) == 200 and rows[3]["topic"] is None and rows[3]["difficulty"] is None
    named = [{rows[number]["topic"] for number in range(subject, 200, 2) if number != 3} for subject in (0, 1)]
    assert len(named[0]) == len(named[1]) == 1 and named[0] != named[1]
    assert all(row["difficulty"] is not None for number, row in rows.items() if number != 3)
    before = json.loads((tmp_path / "topics" / "topics.json").read_text())
    next((tmp_path / "topics" / "parts").glob("*.parquet")).unlink()
    topics(TopicsSettings(labels=labels, out=tmp_path / "topics", num_topics=2, chunk_rows=64))
    assert {row["source_row"]: row for row in rows_of(tmp_path / "topics")} == rows
    assert json.loads((tmp_path / "topics" / "topics.json").read_text()) == before


def test_another_text_than_the_labelled_one_is_refused(tmp_path: Path) -> None:
    labels = labelled(tmp_path)
    corpus = tmp_path / "corpus" / "f.jsonl"
    lines = corpus.read_text().splitlines()
    lines[10] = json.dumps({"text": "another text"})
    corpus.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"row 10 of f.jsonl is not the text that was labelled: labels and corpus do not belong together"):
        topics(TopicsSettings(labels=labels, out=tmp_path / "topics", num_topics=2))


def test_selected_and_free_documents_are_matched_before_rewriting_whatever_the_order_of_the_labels(tmp_path: Path) -> None:
    chosen = []
    for name, parts, order in (("a", 1, 0), ("b", 5, 1)):
        labels = labelled(tmp_path / name, parts=parts, order=order)
        topics(TopicsSettings(labels=labels, out=tmp_path / name / "topics", num_topics=2))
        out = tmp_path / name / "candidates"
        select(SelectSettings(labels=labels, topics=tmp_path / name / "topics", matched=True, caliper=0.5, out=out))
        conserved(out)
        chosen.append(pl.DataFrame(rows_of(out)).drop("evidence"))
    assert chosen[0].equals(chosen[1])
    cells = chosen[0].group_by("cell", "topic").len().sort("cell", "topic")
    counts = {(row["cell"], row["topic"]): row["len"] for row in cells.to_dicts()}
    for topic in chosen[0]["topic"].unique():
        assert counts["selected", topic] == counts["free", topic]
    manifest = read_manifest(tmp_path / "a" / "candidates")
    pairs = manifest.notes["matching"]["pairs"]
    assert pairs >= 10 and manifest.rows_out == 2 * pairs and "not needed: the other arm has fewer alike (free)" in manifest.dropped
    limited = select(
        SelectSettings(labels=labels, topics=tmp_path / "b" / "topics", matched=True, caliper=0.5, limit=4, out=tmp_path / "limited")
    )
    assert limited.rows_out == 8


def test_topics_of_other_labels_are_refused_and_no_match_says_what_to_relax(tmp_path: Path) -> None:
    labels = labelled(tmp_path, stretch=1000)
    other = labelled(tmp_path / "other", count=50)
    topics(TopicsSettings(labels=other, out=tmp_path / "topics", num_topics=2))
    with pytest.raises(UserError, match=r"documents have no topic in .*: it was made of other labels"):
        select(SelectSettings(labels=labels, topics=tmp_path / "topics", out=tmp_path / "candidates"))
    with pytest.raises(UserError, match="name fewer covariates with --match-on, or widen --caliper 0.2"):
        select(SelectSettings(labels=labels, matched=True, out=tmp_path / "candidates"))
