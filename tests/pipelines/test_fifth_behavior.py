"""A behavior that only a TOML file knows goes through every stage and shows up in every table and on the page."""

import json
from pathlib import Path

import polars as pl

from curate.records.manifest import read_manifest
from tests.curate.test_behaviors import FIFTH, SHIPPED
from tests.curate.test_rationale import ANSWERS, judge
from tests.endpoint import Endpoint
from tests.helpers import classify, curate, documents, rows_of, write_jsonl

ALL = [*SHIPPED, "analogy"]


def corpus(folder: Path) -> Path:
    """36 documents; every twelfth shows the fifth behavior and no other."""
    rows = documents(36)
    for number in range(4, 36, 12):
        rows[number]["text"] = rows[number]["text"].replace(" We add", " A simpler case is solved first. We add")
    return write_jsonl(folder / "corpus.jsonl", rows)


def test_a_fifth_behavior_from_the_corpus_to_the_report(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(FIFTH)
    out = tmp_path / "run"
    with Endpoint() as server:
        result = curate(
            "run",
            *("--label-engine", "openai", "--rewrite-engine", "openai", "--base-url", server.url, "--model", "fake"),
            *("--dataset", corpus(tmp_path), "--behaviors", mine, "--habits", "analogy", "--out", out),
            *("--tokenizer", "smollm2-135m", "--budget-tokens", 3000),
        )
    assert result.exit_code == 0, result.stderr
    labels = rows_of(out / "labels")
    shown = [number for number, row in enumerate(labels) if row["analogy_score"] >= 0.5]
    assert shown == [4, 16, 28]
    assert all(any(item["behavior"] == "analogy" for item in row["evidence"]) for row in labels)
    shares = {row["behavior"]: row["value"] for row in rows_of(out / "frequencies") if row["estimate"] == "naive"}
    assert list(shares) == ALL and round(shares["analogy"], 3) == round(3 / 36, 3)
    candidates = rows_of(out / "candidates")
    assert sorted(row["source_row"] for row in candidates if row["cell"] == "selected") == shown
    assert {row["behavior"] for row in json.loads((out / "verified" / "fidelity.json").read_text())["rows"]} == set(ALL)
    assert "analogy_score" in rows_of(out / "verified")[0]
    assert "rewrite_analogy_score" in rows_of(out / "sets" / "enriched")[0]
    page = (out / "report.html").read_text()
    assert page.count("analogy") > 5 and "solving by analogy with a simpler case" in page


def test_a_fifth_behavior_in_the_other_modes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(FIFTH + 'paraphrases = ["Is a simpler case solved first?"]')
    few = write_jsonl(tmp_path / "few.jsonl", [{"id": "a", "text": "A simpler case is solved first, then carried over."}])
    answers = {**dict.fromkeys(ANSWERS, "<count>0</count>"), "analogy": '"A simpler case is solved first"\n<count>1</count>'}
    for number, options in enumerate((("--mode", "rationale"), ("--preset", "four-habits"))):
        with judge(answers) as server:
            result = classify(server.url, tmp_path / str(number), "--dataset", few, "--behaviors", mine, *options)
        assert result.exit_code == 0, result.stderr
        (row,) = rows_of(tmp_path / str(number))
        assert (row["error"], row["analogy_count"], row["verification_count"], row["unsupported"]) == (None, 1, 0, [])
    with Endpoint() as server:
        result = curate(
            *("sensitivity", "--engine", "openai", "--model", "fake", "--base-url", server.url, "--dataset", few),
            *("--behaviors", mine, "--out", tmp_path / "wordings"),
        )
    assert result.exit_code == 0, result.stderr
    table = pl.read_parquet(tmp_path / "wordings" / "wordings.parquet").filter(behavior="analogy")
    assert table["share"].to_list() == [1.0, 1.0]
    assert read_manifest(tmp_path / "wordings").notes["behaviors"] == ALL
