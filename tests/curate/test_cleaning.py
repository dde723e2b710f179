"""Planted duplicates, evaluation problems and tasks of the game are all found; what only looks alike stays; an empty index is an error."""

import random
from pathlib import Path

import polars as pl
import pytest

from curate.cleaning import (
    connect,
    contains_task,
    contaminated,
    near_duplicates,
    read_evaluation,
    read_tasks,
    task_key,
)
from curate.records.errors import UserError
from tests.helpers import real_data, write_jsonl, write_parquet

WORDS = [f"word{number}" for number in range(400)]


def made_text(seed: int, count: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def changed(text: str, seed: int, changes: int) -> str:
    words = text.split()
    for place in random.Random(seed).sample(range(len(words)), changes):
        words[place] = "other"
    return " ".join(words)


def test_planted_near_duplicates_are_all_found_and_nothing_else() -> None:
    texts = [made_text(seed) for seed in range(60)]
    planted = [changed(text, seed, 2) for seed, text in enumerate(texts[:40])]
    found = near_duplicates([*texts, *planted], [str(number) for number in range(100)], 0.75)
    assert found == [(number, 60 + number) for number in range(40)]


def test_versions_of_one_document_are_no_duplicates_but_copies_of_either_are() -> None:
    one, other = made_text(1), made_text(2)
    texts = [one, changed(one, 1, 1), other, changed(one, 2, 1)]
    found = near_duplicates(texts, ["a", "a", "b", "c"], 0.75)
    assert found == [(0, 3), (1, 3)]


def test_three_equal_texts_are_three_pairs_and_one_component() -> None:
    text = made_text(3)
    pairs = near_duplicates([text, made_text(4), text, text], list("abcd"), 0.75)
    assert pairs == [(0, 2), (0, 3), (2, 3)]
    assert connect(4, pairs) == [0, 1, 0, 0]


def test_short_texts_are_compared_whole_and_numbers_make_a_different_problem() -> None:
    assert near_duplicates(["Two and two?", "two  and two?", "Two and three?"], list("abc"), 0.75) == [(0, 1)]
    sums = [f"what is {a} + {b} and then {a} - {b} and {a} * {b} in the end" for a, b in ((17, 5), (23, 4))]
    assert near_duplicates(sums, list("ab"), 0.75) == []


def test_planted_evaluation_problems_are_found_whether_question_or_answer(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "eval.jsonl", [{"question": made_text(seed, 30), "answer": made_text(100 + seed, 30)} for seed in range(20)]
    )
    evaluation = read_evaluation(str(path))
    questions = [f"{made_text(200 + seed)} {evaluation.rows[seed][seed % 2]} {made_text(300 + seed)}" for seed in range(20)]
    clean = [made_text(400 + seed) for seed in range(20)]
    result = contaminated([*questions, *clean], [""] * 40, [evaluation], 12)
    assert sorted(result.found) == list(range(20)) and set(result.found.values()) == {"eval"}
    assert result.indexed["eval"]["texts"] == 20 and result.indexed["eval"]["n_grams"] > 0


def test_a_problem_shorter_than_the_n_gram_is_matched_as_a_whole_question(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("What is 2 + 3?\n\nWhat is the largest prime below 20?\n")
    evaluation = read_evaluation(str(path))
    assert len(evaluation.rows) == 2
    questions = ["what is 2 + 3", "What is 2 + 4?", "What is the largest prime below 20 ?"]
    assert sorted(contaminated(questions, questions, [evaluation], 12).found) == [0, 2]


def test_an_index_without_anything_in_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation texts: it needs rows with a text in one of the columns question, problem"):
        read_evaluation(str(write_jsonl(tmp_path / "other.jsonl", [{"label": "x"}])))
    dots = read_evaluation(str(write_jsonl(tmp_path / "dots.jsonl", [{"question": "..."}])))
    with pytest.raises(UserError, match="the index of dots is empty: none of its 1 texts has 12 words"):
        contaminated(["a"], ["a"], [dots], 12)
    with pytest.raises(UserError, match="cannot read the evaluation texts .*: it does not exist"):
        read_evaluation(str(tmp_path / "none.parquet"))
    with pytest.raises(UserError, match="is neither Parquet nor JSONL"):
        read_evaluation(str(write_jsonl(tmp_path / "x.pdf", [])))


def test_a_task_is_known_by_its_numbers_in_any_order_and_its_target() -> None:
    tasks = frozenset({task_key([44, 19, 35], 98), task_key([3, 3, 7], 13)})
    assert contains_task("Using the numbers [19, 44, 35], create an equation that equals 98.", tasks)
    assert contains_task("Make 13 out of 7, 3 and 3.", tasks) and contains_task("Make 13 out of 7, 3, and 3.", tasks)
    assert not contains_task("Using the numbers [19, 44, 35], create an equation that equals 97.", tasks)
    assert not contains_task("Make 13 out of 7 and 3.", tasks)
    assert not contains_task("In 98 days 44 hens lay 19.35 eggs.", tasks)


def test_tasks_that_repeat_are_counted_and_a_file_without_tasks_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "tasks.parquet", {"nums": [[1, 2, 3], [3, 2, 1], [1, 2, 3], [1, 2]], "target": [6, 6, 7, 6]})
    index = read_tasks([str(path), str(write_jsonl(tmp_path / "more.jsonl", [{"numbers": [2, 1], "target": 6}]))])
    assert (index.rows, len(index.tasks), index.duplicates) == (5, 3, 2)
    with pytest.raises(UserError, match=r"bad.jsonl: row 1 is no Countdown task"):
        read_tasks([str(write_jsonl(tmp_path / "bad.jsonl", [{"nums": [1, 2], "target": 3}, {"nums": 5, "target": 1}]))])
    with pytest.raises(UserError, match="the index of .*empty.jsonl is empty"):
        read_tasks([str(write_jsonl(tmp_path / "empty.jsonl", []))])


def test_the_duplicate_tasks_of_a_published_file_are_found_exactly() -> None:
    index = read_tasks([str(real_data("countdown/tasks_117k.parquet"))])
    assert (index.rows, index.duplicates) == (117_000, 1_825)


@pytest.mark.slow
def test_gsm8k_problems_planted_in_real_documents_are_all_found() -> None:
    path = real_data("corpus/gsm8k_test.parquet")
    problems = pl.read_parquet(path)["text"].to_list()[:300]
    hosts = pl.read_parquet(real_data("corpus/stackmathqa.parquet"))["text"].to_list()[:300]
    planted = [f"{host[:400]}\n{problem}\n{host[400:]}" for host, problem in zip(hosts, problems, strict=True)]
    result = contaminated([*planted, *hosts], [""] * 600, [read_evaluation(str(path))], 12)
    assert sorted(result.found) == list(range(300))
