"""The bundled sample is ground truth: its spans are where they say, and its page says what is in it."""

import json
import re
from collections import Counter
from importlib.resources import files

from curate.behaviors import load_behaviors

ROWS = [json.loads(line) for line in files("curate").joinpath("sample/documents.jsonl").read_text().splitlines()]
NAMES = [behavior.name for behavior in load_behaviors()]


def shows(row: dict) -> set[str]:
    return {item["behavior"] for item in row["truth"]["evidence"]}


def test_spans_are_whole_phrases_inside_their_document() -> None:
    for row in ROWS:
        for item in row["truth"]["evidence"]:
            assert item["behavior"] in NAMES
            span = row["text"][item["start"] : item["end"]]
            assert span and span == span.strip(), (row["id"], span)
            assert len(span.split()) >= 3, (row["id"], span)


def test_the_table_on_its_page_is_the_data() -> None:
    page = files("curate").joinpath("sample/README.md").read_text()
    for source in ("forum", "worked", "notes", "proof", "exposition", "offtopic", "all"):
        rows = [row for row in ROWS if source in ("all", row["source"])]
        counts = [sum(name in shows(row) for row in rows) for name in NAMES]
        assert f"| {source} | {len(rows)} | {' | '.join(map(str, counts))} | {sum(not shows(row) for row in rows)} |" in page
    spans = Counter(item["behavior"] for row in ROWS for item in row["truth"]["evidence"])
    assert f"| evidence spans | | {' | '.join(str(spans[name]) for name in NAMES)} | |" in page


def test_documents_are_different_and_the_size_that_is_promised() -> None:
    assert len(ROWS) == 60 == len({row["id"] for row in ROWS}) == len({row["text"] for row in ROWS})
    assert all(667 <= len(row["text"]) <= 1937 for row in ROWS)
    assert all(row["license"] == "Apache-2.0" for row in ROWS)


def test_cue_words_alone_would_not_give_the_labels() -> None:
    cue = re.compile(r"\b(check|verify|step|edit|suffices|instead)\b", re.IGNORECASE)
    plain = [row for row in ROWS if not shows(row)]
    assert sum(bool(cue.search(row["text"])) for row in plain) >= 8
