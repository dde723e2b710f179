"""What the wording of a question and the way of asking do to labels: `curate sensitivity` and `curate compare`."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from curate.agreement import kappa
from curate.behaviors import load_behaviors
from curate.comparison import ways
from curate.records.manifest import Manifest
from curate.sensitivity import spread, wording_rows
from tests.curate.test_rationale import ANSWERS, judge
from tests.endpoint import Endpoint
from tests.helpers import ENGINE, classify, conserved, curate, documents, error_line, rows_of, write_jsonl

OWN = """
[[behavior]]
name = "verification"
short = "checking"
definition = "A result is checked."
question = "Does the text check a result?"
paraphrases = ["Is there a check of a result?", "Is a result confirmed?", "Is a result made sure of, or checked?"]
"""
ONE = [f'[[behavior]]\nname = "{name}"\nshort = "s"\ndefinition = "d"\nquestion = "q?"\nparaphrases = ["r?"]\n' for name in ("backtracking", "subgoal_setting", "backward_chaining")]  # fmt: skip


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_kappa_is_that_of_scikit_learn_and_none_where_undefined(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not pairs or (len(set(first)) == 1 and first == second):
        assert kappa(first, second) is None
    else:
        assert kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_wordings_by_hand() -> None:
    """Ten documents; the question says yes to two, one wording to the same two, one to five others: golden values by hand."""
    (behavior, *_) = load_behaviors()
    scores = np.full((4, 10), 0.1)
    scores[:2, :2] = 0.9
    scores[2, 5:] = 0.8
    table = {f"{behavior.name}~{number}_score": [*row, 1.0] for number, row in enumerate(scores)}
    labels = pl.DataFrame(table | {"error": [None] * 10 + ["broken"]})
    rows = wording_rows(labels, [behavior], 0.5)
    assert [row["share"] for row in rows] == pytest.approx([0.2, 0.2, 0.5, 0.0])
    assert [row["flipped"] for row in rows] == pytest.approx([0, 0, 0.7, 0.2])
    assert rows[0]["kappa"] is None and rows[1]["kappa"] == 1 and rows[3]["kappa"] == 0
    assert rows[2]["kappa"] == pytest.approx((0.3 - 0.5) / (1 - 0.5))
    assert all(row["documents"] == 10 and row["low"] <= row["share"] <= row["high"] for row in rows)
    assert [row["highest"] for row in rows] == pytest.approx([0.9, 0.9, 0.8, 0.1])
    assert rows[0]["spearman"] is None and rows[1]["spearman"] == pytest.approx(1) and rows[3]["spearman"] is None
    assert rows[2]["spearman"] == pytest.approx(-0.5)  # of two binary rankings: phi of 2 in 10 and 5 in 10, disjoint
    about = spread(labels, behavior, 0.5)
    assert (about["lowest"], about["highest"], about["disputed"]) == pytest.approx((0.0, 0.5, 0.7))
    assert about["least_kappa"] == pytest.approx(-0.4)


def test_each_wording_is_asked_and_compared(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(12))
    own = tmp_path / "own.toml"
    own.write_text(OWN + "\n".join(ONE))
    with Endpoint() as server:
        arguments = ("--base-url", server.url, "--dataset", corpus, "--behaviors", own, "--out", tmp_path / "out")
        result = curate("sensitivity", *ENGINE, *arguments)
        assert result.exit_code == 0, result.stderr
        asked = len(server.bodies)
        again = curate("sensitivity", *ENGINE, *arguments)
        assert again.exit_code == 0 and len(server.bodies) == asked  # nothing is asked twice
        assert again.stdout.partition("verification:")[2] == result.stdout.partition("verification:")[2]  # after the plan, the same table
    assert asked == 12 * (4 + 3 * 2 + 2)
    assert "verification: prevalence 0.000 to 0.167; 16.7% of 12 documents disputed" in result.stdout
    table = pl.read_parquet(tmp_path / "out" / "wordings.parquet").filter(behavior="verification")
    assert table["share"].to_list() == pytest.approx([1 / 6, 1 / 6, 0, 1 / 6])
    assert table["kappa"].to_list() == [None, 1, 0, 1]
    manifest = conserved(tmp_path / "out")
    assert manifest.stage == "sensitivity"
    assert next(item["behavior"] for item in manifest.notes["spread"]) == "verification"
    assert "verification~3_score" in rows_of(tmp_path / "out")[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--mode", "rationale"), "leave --mode and --preset out"), (("--preset", "four-habits"), "leave --mode and --preset out")],
)
def test_only_questions_have_wordings(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    result = curate("sensitivity", *ENGINE, "--base-url", "http://127.0.0.1:1", "--dataset", "sample", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and said in error_line(result)


def test_a_behavior_without_paraphrases_is_named(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN.replace("verification", "analogy").replace("paraphrases", "#"))
    result = curate(
        "sensitivity", *ENGINE, "--base-url", "http://127.0.0.1:1", "--dataset", "sample", "--out", tmp_path / "o", "--behaviors", own
    )
    assert result.exit_code == 2 and "analogy: no other wording" in error_line(result)


def test_the_shipped_questions_have_three_paraphrases_each() -> None:
    for behavior in load_behaviors():
        assert len(set(behavior.wordings)) >= 4
        assert all(text.endswith("?") for text in behavior.wordings)


def test_two_modes_of_the_same_documents_side_by_side(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*documents(6), {"id": "e", "text": " "}])
    with Endpoint() as server:
        assert classify(server.url, tmp_path / "a", "--dataset", corpus).exit_code == 0
    answers = {**ANSWERS, "verification": "<quote>What is</quote><count>1</count>", "backtracking": "<count>0</count>"}
    with judge(answers) as server:
        assert classify(server.url, tmp_path / "b", "--dataset", corpus, "--mode", "rationale").exit_code == 0
    result = curate("compare", "--first", tmp_path / "a", "--second", tmp_path / "b", "--out", tmp_path / "c")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split()[:2] == ["score", "rationale"]
    assert "verification shown                  16.7%       100.0%  kappa 0.00, 83.3% of 6 documents differ" in result.stdout
    manifest = conserved(tmp_path / "c")
    assert manifest.dropped == {"labelled": 6, "error in one of them": 1}
    assert manifest.notes["cost_first"]["requests_per_document"] == pytest.approx(36 / 7)
    assert manifest.notes["cost_second"]["generated_tokens_per_document"] > 0
    first = rows_of(tmp_path / "c")[0]
    assert (first["behavior"], first["only_first"], first["only_second"]) == ("verification", 0, 5)
    json.dumps(manifest.notes)


def test_where_no_label_is_whole_the_cost_is_shown_and_the_reasons_counted(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(3))
    with Endpoint() as server:
        assert classify(server.url, tmp_path / "a", "--dataset", corpus).exit_code == 0
    with judge({**ANSWERS, "verification": "It is checked.", "backtracking": "<count>0</count>"}) as server:
        classify(server.url, tmp_path / "b", "--dataset", corpus, "--mode", "rationale")
    result = curate("compare", "--first", tmp_path / "a", "--second", tmp_path / "b", "--out", tmp_path / "c")
    assert result.exit_code == 2 and "generated tokens per document" in result.stdout
    assert f"{tmp_path / 'b'}: N of N questions failed: the rationale has no count (3)" in error_line(result)


def test_what_differs_names_the_two_ways() -> None:
    big, small = (
        Manifest("classify", {"mode": "score"}, engine="vllm", model=name) for name in ("Qwen/Qwen2.5-32B-Instruct", "smollm2-135m")
    )
    assert ways(big, small) == ("score Qwen2.5-32B-Instruct", "score smollm2-135m")
    assert ways(small, Manifest("classify", {"mode": "score"}, engine="student")) == ("score vllm smollm2-135m", "score student")
    assert ways(small, Manifest("classify", {"preset": "four-habits"}, engine="vllm", model="smollm2-135m")) == ("score", "four-habits")


def test_labels_of_other_documents_are_refused(tmp_path: Path) -> None:
    with Endpoint() as server:
        for name, start in (("a", 0), ("b", 6)):
            corpus = write_jsonl(tmp_path / f"{name}.jsonl", documents(2, start))
            classify(server.url, tmp_path / name, "--dataset", corpus)
    result = curate("compare", "--first", tmp_path / "a", "--second", tmp_path / "b", "--out", tmp_path / "c")
    assert result.exit_code == 2 and "have no document in common" in error_line(result)
