"""The arms of real texts: passages and their rewrites by a strong writer, with labels by annotators, play rewriter and judge.

What arrives in the sets must be those texts, letter by letter, and what `verify` counts must be what the annotators say.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curate.behaviors import load_behaviors
from curate.parsing import num_words, parse_tags, within
from curate.records.manifest import read_manifest
from tests.endpoint import CUES, Endpoint, completion
from tests.helpers import conserved, curate, error_line, real_data, rows_of, write_jsonl, write_parquet

NAMES = [behavior.name for behavior in load_behaviors()]
ASKED = dict(zip(list(CUES)[:4], NAMES, strict=True))  # a phrase of each question, and the behavior it asks for
KINDS = {"Keep exactly": "preserve", "Leave out every one": "strip", "Work in": "inject"}


def rewrites() -> pl.DataFrame:
    return pl.read_parquet(real_data("rewrites/rewrites.parquet"))


class Annotated(Endpoint):
    """Answers a request for a text with the writer's, and one for a label with the annotators'."""

    def __init__(self, passages: dict[str, dict[str, Any]], written: list[dict[str, Any]]) -> None:
        super().__init__()
        self.by_text = {" ".join(text.split()): row for text, row in passages.items()}
        self.versions = {(row["passage_id"], row["version"]): row for row in written}
        self.by_thoughts = {" ".join(row["thoughts"].split()): row for row in written}

    def respond(self, body: dict) -> tuple[int, dict, bytes]:
        text = body["messages"][-1]["content"]
        shown, _, asked = text.partition("<<<\n")[2].rpartition("\n>>>")
        answer = self.score(shown, text) if body.get("logprobs") else completion(text=self.write(shown, asked))
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    def write(self, shown: str, asked: str) -> str:
        passage = self.by_text[" ".join(shown.split())]["id"]
        version = next((kind for mark, kind in KINDS.items() if mark in asked), None)
        row = next(row for (name, kind), row in self.versions.items() if name == passage and version in (kind, None))
        tag = "thoughts" if version else "question" if "<question>" in asked else "answer"
        return f"<{tag}>{row[tag]}</{tag}>"

    def score(self, shown: str, text: str) -> dict:
        key = next((name for cue, name in ASKED.items() if cue in text.rpartition(">>>")[2]), None)
        flat = " ".join(shown.split())
        if key is None:
            return completion(score=0.95)
        if flat in self.by_text:
            return completion(score=max(min(self.by_text[flat][key], 0.97), 0.03))
        row = next(row for thoughts, row in self.by_thoughts.items() if thoughts in flat)
        return completion(score=0.95 if row[key] else 0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """A 2x2 of 24 passages, 14 with behaviors."""
    folder = tmp_path_factory.mktemp("real")
    table = rewrites()
    chosen = [
        name for cell, count in (("selected", 14), ("free", 10)) for name in table.filter(pl.col("cell") == cell)["passage_id"][:count]
    ]
    table = table.filter(pl.col("passage_id").is_in(chosen))
    windows = pl.read_parquet(real_data("labels/windows_dev.parquet")).filter(pl.col("id").is_in(chosen)).to_dicts()
    corpus = write_jsonl(folder / "corpus.jsonl", [{key: row[key] for key in ("id", "text", "source")} for row in windows])
    (folder / "stages.toml").write_text(
        "[classify]\nwindow-chars = 50000\n[verify]\nwindow-chars = 50000\n[match]\ntolerance = 0.5\ncaliper = 9.0\nmatch-on = ['length']\n"
    )
    with Annotated({row["text"]: row for row in windows}, table.to_dicts()) as server:
        result = curate(
            *("run", "--dataset", corpus, "--arms", "2x2", "--out", folder / "run", "--model", "fake", "--judge-model", "annotators"),
            *("--label-engine", "openai", "--rewrite-engine", "openai", "--base-url", server.url),
            *("--tokenizer", "smollm2-135m", "--budget-tokens", 100_000, "--stages", folder / "stages.toml", "--dose", 0.5),
        )
    assert result.exit_code == 0, result.stderr
    return folder / "run", table


def test_every_text_arrives_letter_by_letter_in_its_cell(finished: tuple[Path, pl.DataFrame]) -> None:
    run, table = finished
    rows = rows_of(run / "qa")
    assert read_manifest(run / "candidates").notes["cells"] == {"selected": 14, "free": 10}
    assert Counter(row["cell"] for row in rows) == {"selected": 14, "selected_stripped": 14, "free": 10, "free_injected": 10}
    gold = {(row["passage_id"], row["cell"]): row for row in table.to_dicts()}
    for row in rows:
        assert row["error"] is None
        expected = gold[row["id"], row["cell"]]
        assert {key: row[key] for key in ("question", "thoughts", "answer")} == {
            key: expected[key].strip() for key in ("question", "thoughts", "answer")
        }
    conserved(run / "qa")


def test_lengths_outside_the_tolerance_were_asked_for_once_more_and_leave_both_arms(finished: tuple[Path, pl.DataFrame]) -> None:
    run, _ = finished
    pairs: dict[str, dict[str, Any]] = {}
    for row in rows_of(run / "qa"):
        pairs.setdefault(row["pair_id"], {})[row["cell"]] = row
    outside = 0
    for versions in pairs.values():
        kept, changed = (
            versions[cell] for cell in (("selected", "selected_stripped") if "selected" in versions else ("free", "free_injected"))
        )
        fits = within(num_words(changed["thoughts"]), num_words(kept["thoughts"]), 0.10)
        assert changed["attempts"] == (1 if fits else 2)
        outside += not fits
    assert outside > 0 and read_manifest(run / "sets").dropped["length outside"] == 2 * outside


def test_what_was_kept_lost_and_gained_is_what_the_annotators_say(finished: tuple[Path, pl.DataFrame]) -> None:
    run, table = finished
    fidelity = {(row["cell"], row["behavior"]): row for row in json.loads((run / "verified" / "fidelity.json").read_text())["rows"]}
    assert len(fidelity) == 16
    targets = {(row["id"], row["cell"]): row["target"] for row in rows_of(run / "qa")}
    for (cell, name), row in fidelity.items():
        gold = table.filter(pl.col("cell") == cell).to_dicts()
        before, after = ([item[key] >= 0.5 for item in gold] for key in (f"source_{name}", name))
        both = list(zip(before, after, strict=True))
        assert (row["kept"], row["lost"], row["gained"]) == tuple(both.count(pair) for pair in ((True, True), (True, False), (False, True)))
        wanted = [name in targets[item["passage_id"], cell] for item in gold]
        assert row["agreement"] == sum(a == b for a, b in zip(after, wanted, strict=True)) / len(gold)
        if cell in ("selected_stripped", "free"):
            assert row["should_show"] == 0
    (warning,) = read_manifest(run / "verified").notes["warnings"]
    assert warning.startswith("the sources were labelled by fake (openai), the rewrites are judged by annotators (openai)")


def test_free_documents_are_given_the_behaviors_of_selected_ones(finished: tuple[Path, pl.DataFrame]) -> None:
    carries: dict[str, set[tuple[str, ...]]] = {"selected": set(), "free": set()}
    for row in rows_of(finished[0] / "candidates"):
        assert row["carries"] if row["cell"] == "selected" else row["carries"] is not None
        carries[row["cell"]].add(tuple(row["carries"]))
    assert carries["free"] <= carries["selected"] and len(carries["free"]) > 1


def test_the_run_ends_with_four_dosed_arms_a_card_and_a_page_that_explains_them(finished: tuple[Path, pl.DataFrame]) -> None:
    run, _ = finished
    sets = read_manifest(run / "sets")
    assert sets.notes["arm_names"] == ["selected", "selected_stripped", "free", "free_injected"]
    half = int(sets.notes["examples_per_arm"] * 0.5 + 0.5)
    assert sets.notes["carriers"] == {"selected": half, "free_injected": half}
    card, page = (run / "sets" / "README.md").read_text(), (run / "report.html").read_text()
    for text in (card, page):
        assert "selected − selected_stripped" in text and "the interaction" in text
    assert "| selected_stripped | backtracking |" in card and f"{half:,} selected" in card


def test_the_table_of_rewrites_is_adopted_with_its_targets_and_truth(tmp_path: Path) -> None:
    table = rewrites()
    path = real_data("rewrites/rewrites.parquet")
    assert curate("adopt", path, "--pair-key", "passage_id", "--out", tmp_path / "qa").exit_code == 0
    rows = rows_of(tmp_path / "qa")
    manifest = conserved(tmp_path / "qa")
    assert (len(rows), manifest.notes["arms"], manifest.inputs[0].rows) == (400, "2x2", 400)
    for row in rows:
        gold = table.row(row["source_row"], named=True)
        assert row["file_sha256"] == manifest.inputs[0].sha256 and row["thoughts"] == gold["thoughts"]
        assert [row[f"gold_{name}"] for name in NAMES] == [gold[name] >= 0.5 for name in NAMES]
        carried = [name for name in NAMES if gold[f"source_{name}"] >= 0.5]
        assert row["target"] == {"selected": carried, "free_injected": gold["injected"]}.get(gold["cell"], [])
    assert curate("adopt", path, "--pair-key", "passage_id", "--arms", "pairs", "--out", tmp_path / "pairs").exit_code == 0
    assert conserved(tmp_path / "pairs").dropped == {"not wanted by the arms pairs": 160}


BASE = {"pair_id": ["p", "p"], "cell": ["selected", "selected_stripped"], "question": ["q"] * 2, "thoughts": ["t"] * 2, "answer": ["a"] * 2}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"cell": ["selected", "striped"]}, "row 1: unknown cell 'striped'"),
        ({"cell": ["selected", "selected"]}, "has no row of the cell selected_stripped, which the arms pairs need"),
        ({"thoughts": None}, "row 0: no column 'thoughts'; it has answer, cell, pair_id, question"),
        ({"pair_id": None}, "row 0: no column 'pair_id' (--pair-key names it)"),
    ],
)
def test_a_table_that_is_none_of_rewrites_is_one_line(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    made = {key: value for key, value in {**BASE, **columns}.items() if value is not None}
    result = curate("adopt", write_parquet(tmp_path / "t.parquet", made), "--out", tmp_path / "qa")
    assert result.exit_code == 2 and message in error_line(result) and not (tmp_path / "qa").exists()


def test_empty_texts_repeated_rows_and_missing_sides_are_said_and_counted(tmp_path: Path) -> None:
    rows = [
        ("a", "selected", "t"),
        ("a", "selected_stripped", "\u200b "),
        ("b", "selected", "t"),
        ("c", "selected", "t"),
        ("c", "selected_stripped", "t"),
        ("c", "selected_stripped", "t"),
    ]
    table = [{"pair_id": pair, "cell": cell, "question": "q", "thoughts": text, "answer": "a"} for pair, cell, text in rows]
    result = curate("adopt", write_jsonl(tmp_path / "t.jsonl", table), "--out", tmp_path / "qa")
    assert result.exit_code == 0 and "1 of 3 documents lack one of selected, selected_stripped; match leaves them out" in result.stdout
    assert [row["error"] for row in rows_of(tmp_path / "qa")] == [
        *(None, "thoughts is empty", None, None, None),
        "the pair has two rows of the cell selected_stripped",
    ]
    assert conserved(tmp_path / "qa").errors == {"thoughts is empty": 1, "the pair has two rows of the cell selected_stripped": 1}


@pytest.mark.parametrize(
    "form",
    ["{open}{text}{close}", "{open}\n{text}\n{close}\n", "{open}{text}", "```\n{open}{text}{close}\n```", "Here:\n{open}{text}{close}"],
)
def test_real_mathematics_survives_the_tags_it_is_sent_in(form: str) -> None:
    for row in rewrites().to_dicts():
        for tag in ("question", "thoughts", "answer"):
            parsed = parse_tags(form.format(open=f"<{tag}>", close=f"</{tag}>", text=row[tag]), [tag])
            assert parsed.problem is None and parsed.fields[tag] == row[tag].strip()
