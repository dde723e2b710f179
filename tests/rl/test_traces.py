"""Behaviors are counted exactly: in our own traces by construction, in natural ones by hand."""

import json
import random
import re
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from rl import countdown, traces
from rl.scoring import score
from rl.warmstart import in_steps, trace
from tests.rl.data import countdown_folder

NATURAL = """Let me try:
**(70 - 53) + (49 × 1)**
= **17 + 49**
= **66** → Not 70
- 70 - 53 = 17
- 17 + 49 = 66 (too low)
I need 21 first.
66 + 53 = 119, wrong
70 + 53 - 49 = 75 ✗
"""


def test_our_own_traces_are_counted_as_they_were_made():
    generator = random.Random(0)
    game = countdown.Game(operands=(3, 4), max_number=9, min_target=1, max_target=20)
    right = 0
    for task in (task for task, _ in zip(countdown.tasks(game, generator), range(150))):
        completion, tries = trace(task.numbers, task.target, 6, generator)
        found = traces.parse(completion, task.numbers, task.target)
        correct = score(completion, task.numbers, task.target, syntax="strict").correct
        right += correct
        assert (found.attempts, found.verification) == (tries, tries)
        assert found.fitting_attempts == correct and found.backtracking == tries - 1
        assert found.wrong_arithmetic == found.wrong_verification == found.subgoal_setting == found.backward_chaining == 0
    assert right > 20


def test_steps_go_one_operation_at_a_time():
    assert in_steps("(4*7)-1") == "4*7=28,28-1=27"
    assert in_steps("((1+2)*3)-(8/4)") == "1+2=3,3*3=9,8/4=2,9-2=7"


@pytest.mark.parametrize(
    ("text", "numbers", "target", "expected"),
    [
        (NATURAL, (70, 53, 49), 70, {"attempts": 2, "verification": 4, "backtracking": 3, "subgoal_setting": 1}),
        ("3*4=12 yes", (3, 4), 11, {"verification": 1, "wrong_verification": 1}),
        ("3*4=13 no", (3, 4), 11, {"arithmetic": 1, "wrong_arithmetic": 1, "verification": 1, "wrong_verification": 0}),
        ("24 - 7 = 17, so 17 from 9 and 8: 9 + 8 = 17", (7, 8, 9), 24, {"backward_chaining": 1, "attempts": 0}),
        ("(9-3)+(3/3)=6+1=7 not 12, so 9+3=12 works", (9, 3), 12, {"attempts": 1, "verification": 2, "backtracking": 1}),
        ("$$(9-3)=6\\quad\\text{(Too low)}$$\n9+3=12 \u2705", (9, 3), 12, {"attempts": 2, "verification": 2, "backtracking": 1}),
        (
            "9-3=6\nThat gives us 6, not 12. Then 9+3=12.\nThis uses both and results in 12.",
            (9, 3),
            12,
            {"verification": 2, "backtracking": 1},
        ),
        ("9-3=6 — too low\n9/3=3, and that's not 12", (9, 3), 12, {"verification": 2, "backtracking": 1}),
        ("9-3=6, and 3 not needed", (9, 3), 12, {"verification": 0}),
        ("7/2 = 3.5 (not 12)", (7, 2), 12, {"verification": 1}),
        ("5-70=-65, 28+(-65)=-37 no. 5+70-28=47", (5, 70, 28), 47, {"attempts": 2, "backtracking": 1}),
        ("1+2=3\n2-1=1\n2*1=2", (1, 2), 2, {"attempts": 3, "verification": 0, "implicit_verification": 3, "backtracking": 2}),
        ("1+2=3 no\n2*1=2", (1, 2), 2, {"verification": 1, "implicit_verification": 0, "backtracking": 1}),
        ("2*1=2", (1, 2), 2, {"attempts": 1, "implicit_verification": 0}),
        ("nothing to see", (1, 2), 3, {"attempts": 0, "verification": 0}),
        ("1+2=3 yes <answer>1+2=3 no</answer>", (1, 2), 3, {"attempts": 1, "verification": 1, "wrong_verification": 0}),
    ],
)
def test_natural_text(text, numbers, target, expected):
    found = traces.parse(text, numbers, target).counts()
    assert {key: found[key] for key in expected} == expected, found


@given(st.text(alphabet="0123456789+-*/()= \nnoyes→$*", max_size=400))
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_text_breaks_it(text):
    assert set(traces.parse(text, (1, 2, 3), 6).counts()) == set(traces.COUNTS)


@pytest.mark.parametrize("piece", ["1", "(", "1+", "=", "1=", " ", "1 ", "- ", "no ", "1+1=2 no\n", "*", "\n="])
def test_long_texts_take_bounded_time(piece):
    started = time.perf_counter()
    traces.parse(piece * (100_000 // len(piece)), (1, 2, 3), 6)
    assert time.perf_counter() - started < 2


def test_teacher_traces_show_attempts_and_checks():
    rows = pq.read_table(countdown_folder() / "teacher_traces_2k.parquet").slice(0, 300).to_pylist()
    found = [traces.parse(row["response"], json.loads(row["numbers"]), row["target"]) for row in rows]
    assert sum(item.attempts > 0 for item in found) > 240
    assert sum(item.verification > 0 for item in found) > 200
    assert sum(item.wrong_arithmetic for item in found) < 0.1 * sum(item.arithmetic for item in found)


@pytest.mark.parametrize("name", ["trace_labels", "trace_labels_fresh"])
def test_the_parser_agrees_with_labels_made_by_hand(name):
    """Twice 150 responses of three models, 50 each, drawn at random and read without seeing the parser's counts: is the behavior there?

    The parser's misses on the first 150 were read and mended in general forms, so their agreement is somewhat optimistic; the fresh ones
    were drawn and labelled after that. Subgoals and steps from the target are in one response of each at most.
    """
    document = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    agree: dict[str, list[tuple[int, int]]] = {name: [] for name in document["columns"]}
    for file, labels in document["labels"].items():
        rows = {row["id"]: row for row in pq.read_table(countdown_folder() / f"{file}.parquet").to_pylist()}
        for key, by_hand in labels.items():
            row = rows[key]
            numbers = json.loads(re.search(r"\[.*?\]", row["prompt"])[0])
            target = int(re.search(r"equals (\d+)", row["prompt"])[1])
            found = traces.parse(row.get("response") or row["raw_generation"], numbers, target).counts()
            for behavior, label in zip(document["columns"], by_hand):
                agree[behavior].append((int(found[behavior] > 0), label))
    assert {len(pairs) for pairs in agree.values()} == {150}
    shares = {behavior: sum(a == b for a, b in pairs) / 150 for behavior, pairs in agree.items()}
    assert min(shares.values()) >= 0.9, shares
    assert cohen_kappa_score(*zip(*agree["backtracking"])) > 0.9 and cohen_kappa_score(*zip(*agree["verification"])) > 0.7


def test_spans_say_where_each_behavior_stands():
    text = "I need 6 first. 12 - 9 = 3, from the end 12 / 2 = 6. 3 + 2 + 1 = 6, too low. 3 * 2 / 1 = 6, not 12. (3 + 1) * 2 = 8"
    trace, read, spans = traces.read(text, (3, 2, 1), 12)
    found: dict[str, list[str]] = {}
    for span in spans:
        found.setdefault(span.behavior, []).append(read[span.start : span.end])
    assert {name: len(texts) for name, texts in found.items()} == {name: count for name, count in trace.counts().items() if name in found}
    assert found["subgoal_setting"] == ["need 6"]
    assert [text.strip(" ,") for text in found["verification"]] == ["too low", "not 12"]
    assert found["backward_chaining"][1].strip() == "12 / 2 = 6" and "3 + 2 + 1 = 6, too low" in found["backtracking"][0]
