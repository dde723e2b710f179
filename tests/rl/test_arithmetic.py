"""Plain arithmetic is right, whole, and free of the four habits; the model beside it knows the words of terse traces."""

import re

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from curate.frame import FRAME_WORDS
from curate.records.errors import UserError
from rl import traces
from rl.arithmetic import ArithmeticSettings, run
from rl.prime_traces import TERSE_WORDS
from rl.scoring import evaluate

SMALL = {"num_documents": 40, "lines_per_document": 5, "tiny_size": "0.4M"}


def test_every_step_and_statement_is_right_and_nothing_is_tried_or_checked(tmp_path):
    run(ArithmeticSettings(out=tmp_path / "a", operands=(2, 3, 4), **SMALL))
    texts = pq.read_table(tmp_path / "a" / "text" / "arithmetic.parquet")["text"].to_pylist()
    lines = [line for text in texts for line in text.splitlines()]
    assert len(lines) == 200
    for line in lines:
        steps, stated = line.split(" ")
        for step in [*steps.split(","), stated]:
            expression, value = step.rsplit("=", 1)
            (numerator, denominator), _ = evaluate(expression)
            assert numerator == int(value) * denominator, line
        numbers = [int(number) for number in re.findall(r"\d+", stated.rsplit("=", 1)[0])]
        found = traces.parse(line, numbers, -1)
        assert steps.count("=") == len(numbers) - 1 and all(1 <= number <= 9 for number in numbers)
        assert not (found.verification or found.backtracking or found.subgoal_setting or found.backward_chaining)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a" / "start")
    assert all(len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1 for word in (*TERSE_WORDS, *FRAME_WORDS))


def test_results_stay_within_a_limit(tmp_path):
    run(ArithmeticSettings(out=tmp_path / "a", max_result=12, **SMALL))
    text = "".join(pq.read_table(tmp_path / "a" / "text" / "arithmetic.parquet")["text"].to_pylist())
    results = [int(found) for found in re.findall(r"=(\d+)", text)]
    assert max(results) == 12 and min(results) >= 0


def test_the_seed_decides(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(ArithmeticSettings(out=tmp_path / folder, seed=seed, **SMALL))
    text = {folder: (tmp_path / folder / "text" / "arithmetic.parquet").read_bytes() for folder in "abc"}
    weights = {folder: (tmp_path / folder / "start" / "model.safetensors").read_bytes() for folder in "abc"}
    assert text["a"] == text["b"] != text["c"] and weights["a"] == weights["b"] != weights["c"]


def test_numbers_that_make_no_expression_are_refused(tmp_path):
    for wrong in ({"operands": (1,)}, {"min_number": 9, "max_number": 3}, {"max_number": 9, "max_result": 8}):
        with pytest.raises(UserError, match="--operands are at least 2"):
            run(ArithmeticSettings(out=tmp_path, **wrong))
