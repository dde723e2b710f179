"""What must not be in the arms leaves both, counted once by its reason; what a user did wrong is one line."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from curate.matching import MatchSettings
from curate.records.errors import UserError
from curate.records.manifest import read_manifest
from curate.records.parts import write_json
from pipelines.match import match
from tests.helpers import conserved, embedded_model, write_jsonl
from tests.pipelines.test_match_command import made, pair_rows, sets, thoughts


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return str(embedded_model())


def settings(qa: Path, out: Path, tokenizer: str, **others: Any) -> MatchSettings:
    return MatchSettings(qa=qa, out=out, budget_tokens=100_000, tokenizer=tokenizer, tolerance=1.0, **others)


def documents_in(folder: Path) -> list[set[int]]:
    return [{row["source_row"] for row in arm} for arm in sets(folder)]


def test_a_planted_copy_of_a_pair_leaves_once_with_both_its_versions(
    tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pair_rows(20)
    copies = [{**row, "source_row": row["source_row"] + 100} for row in rows if row["source_row"] < 5]
    for row in copies:
        row["thoughts"] += " again"
    match(settings(made(tmp_path, rows + copies), tmp_path / "sets", tokenizer))
    manifest = read_manifest(tmp_path / "sets")
    conserved(tmp_path / "sets" / "control")
    assert manifest.dropped["near-duplicate"] == 10  # five documents of two versions
    assert manifest.notes["near_duplicates"] == {"documents": 25, "removed": 5, "similar_pairs_of_rows": 10}
    assert "near-duplicates: 5 of 25 documents repeat another" in capsys.readouterr().out
    enriched, control = documents_in(tmp_path / "sets")
    assert enriched == control
    for number in range(5):
        assert len(enriched & {number, number + 100}) == 1
    match(settings(made(tmp_path / "all", rows + copies), tmp_path / "all" / "sets", tokenizer, similarity=0))
    assert read_manifest(tmp_path / "all" / "sets").notes["examples_per_arm"] == 25


def test_a_copy_across_the_arms_leaves_one_of_them(tmp_path: Path, tokenizer: str) -> None:
    generator = random.Random(0)
    rows = [
        {"source_row": number, "cell": f"paper_{('enriched', 'control')[number % 2]}", "question": "q", "answer": "a"}
        | {"thoughts": thoughts(60, generator)}
        for number in range(40)
    ]
    rows[1]["thoughts"] = rows[0]["thoughts"]
    match(settings(made(tmp_path, rows, arms="paper"), tmp_path / "sets", tokenizer))
    manifest = read_manifest(tmp_path / "sets")
    assert manifest.dropped["near-duplicate"] == 1 and manifest.notes["examples_per_arm"] == 19
    assert len(set.union(*documents_in(tmp_path / "sets")) & {0, 1}) <= 1


def test_evaluation_problems_and_tasks_of_the_game_leave_with_their_siblings(
    tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pair_rows(20)
    problem = "Natalia sold clips to forty eight of her friends in April and then she sold half as many clips in May"
    for row in rows:
        if row["source_row"] == 3 and row["cell"] == "selected_stripped":
            row["thoughts"] += f" {problem}."
        if row["source_row"] in (4, 5):
            row["question"] = f"Using the numbers {[5, 3, 25] if row['source_row'] == 4 else [5, 3, 26]}, make an equation that equals 10."
    evaluation = write_jsonl(tmp_path / "gsm8k.jsonl", [{"question": problem, "answer": "72"}])
    tasks = write_jsonl(tmp_path / "tasks.jsonl", [{"nums": [3, 25, 5], "target": 10}, {"nums": [25, 3, 5], "target": 10}])
    match(settings(made(tmp_path, rows), tmp_path / "sets", tokenizer, decontaminate=(str(evaluation),), countdown_tasks=(str(tasks),)))
    manifest = read_manifest(tmp_path / "sets")
    assert manifest.dropped["evaluation problem"] == 2 and manifest.dropped["Countdown task"] == 2
    assert manifest.notes["decontamination"]["gsm8k"]["rows_matched"] == 1
    assert manifest.notes["countdown"] == {"rows": 2, "tasks": 1, "duplicates": 1, "rows_matched": 2}
    printed = capsys.readouterr().out
    assert "decontamination against gsm8k: 1 texts" in printed and "1 of 40 rows matched" in printed
    assert "Countdown tasks: 2 rows, 1 different tasks, 1 duplicates; 2 of 38 rows matched" in printed
    enriched, control = documents_in(tmp_path / "sets")
    assert enriched == control == set(range(20)) - {3, 4}


def test_rewrites_without_length_are_counted_and_their_siblings_too(tmp_path: Path, tokenizer: str) -> None:
    rows = pair_rows(10)
    for row in rows:
        if row["source_row"] == 0 and row["cell"] == "selected":
            row["thoughts"] = " \n"
        if row["source_row"] == 1:
            row["answer"] = ""
    match(settings(made(tmp_path, rows), tmp_path / "sets", tokenizer))
    assert {key: read_manifest(tmp_path / "sets").dropped.get(key) for key in ("empty thoughts", "empty answer", "sibling missing")} == {
        "empty thoughts": 1,
        "empty answer": 2,
        "sibling missing": 1,
    }


def test_rewrites_of_other_documents_than_the_candidates_are_refused(tmp_path: Path, tokenizer: str) -> None:
    qa = made(tmp_path, pair_rows(5))
    made(tmp_path / "other", pair_rows(2))
    manifest = json.loads((qa / "manifest.json").read_text())
    other = json.loads((tmp_path / "other" / "qa" / "manifest.json").read_text())
    write_json(qa / "manifest.json", {**manifest, "inputs": other["inputs"]})
    with pytest.raises(UserError, match="6 of 10 rewrites in .* are of documents that its candidates do not have"):
        match(settings(qa, tmp_path / "sets", tokenizer))


def test_an_arm_with_too_little_material_says_how_much_is_missing_and_what_would_help(tmp_path: Path, tokenizer: str) -> None:
    generator = random.Random(0)
    rows = [
        {"source_row": number, "cell": "paper_enriched" if number < 3 else "paper_control", "question": "q", "answer": "a"}
        | {"thoughts": thoughts(50, generator)}
        for number in range(30)
    ]
    manifest = match(settings(made(tmp_path, rows, arms="paper"), tmp_path / "sets", tokenizer))
    (warning,) = (line for line in manifest.notes["warnings"] if "are missing" in line)
    assert "label or rewrite more documents (usable now: 3 paper_enriched, 27 paper_control)" in warning
    assert "fewer covariates than --match-on source length" in warning and "widen --caliper 0.2" in warning
    with pytest.raises(UserError, match=r"--match-on 'lenght' is unknown \(did you mean 'length'\?\)"):
        match(settings(tmp_path / "qa", tmp_path / "again", tokenizer, match_on=("lenght",)))


def test_the_balance_holds_what_was_matched_and_what_was_not_before_and_after(tmp_path: Path, tokenizer: str) -> None:
    generator = random.Random(0)
    rows = [
        {
            "source_row": number,
            "cell": "paper_enriched" if number % 4 == 0 or number > 150 else "paper_control",
            "question": "q",
            "answer": "a",
        }
        | {"thoughts": thoughts(60 + number // 4, generator)}
        for number in range(200)
    ]
    match(settings(made(tmp_path, rows, arms="paper"), tmp_path / "sets", tokenizer))
    balance = json.loads((tmp_path / "sets" / "balance.json").read_text())
    (contrast,) = balance["contrasts"]
    by_name = {row["covariate"]: row for row in contrast["rows"]}
    assert by_name["log2_chars"]["kind"] == "matched" and by_name["question_words"]["kind"] == "held out"
    assert by_name["source_a_score"]["kind"] == "behavior"
    assert abs(by_name["log2_chars"]["smd_before"]) > 0.3 and abs(by_name["log2_chars"]["smd"]) <= 0.05
    assert by_name["log2_chars"]["ks"] < by_name["log2_chars"]["ks_before"]
    assert by_name["origin"]["smd"] == 0.0
    assert set(contrast["auc"]) == {"masked", "subject", "unmasked"} and contrast["auc"]["masked"]["blocks"] == balance["examples"]
    assert balance["matching"]["pairs"] >= balance["examples"] and set(balance["instances_per_1000_tokens"]) == {"enriched", "control"}


def test_files_and_rows_in_any_order_give_the_same_sets_after_cleaning_and_across_documents(tmp_path: Path, tokenizer: str) -> None:
    outputs = []
    for name, parts in (("a", 1), ("b", 7)):
        generator = random.Random(5)
        rows = [
            {"source_row": number, "cell": f"paper_{('enriched', 'control')[number % 3 == 0]}", "question": "q", "answer": "a"}
            | {"thoughts": thoughts(generator.randint(40, 90), generator)}
            for number in range(90)
        ]
        rows += [{**row, "source_row": row["source_row"] + 200} for row in rows[:9]]
        random.Random(name).shuffle(rows)
        qa = made(tmp_path / name, rows, arms="paper", parts=parts)
        match(settings(qa, tmp_path / name / "sets", tokenizer))
        outputs.append([pl.DataFrame(arm) for arm in sets(tmp_path / name / "sets")])
    for one, other in zip(*outputs, strict=True):
        assert one.equals(other)
