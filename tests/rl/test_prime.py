"""Every priming set shows its behaviors and no others, on the same tasks with the same attempts; seeds reproduce it."""

import hashlib
import json
import random
import re
from fractions import Fraction

import pyarrow.parquet as pq
import pytest

from curate.matching import prompt_and_completion
from curate.records.errors import UserError
from curate.records.manifest import read_manifest
from rl import prime, prime_plans, prime_traces, tasks, traces
from rl.prime import PrimeSettings
from rl.prime_plans import random_node
from rl.prime_traces import EVERY, PROFILES
from rl.scoring import evaluate, score
from train.tiny import make_tiny_tokenizer

VOICES = {"prose": "tinyzero", "terse": "short"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    tasks.run(tasks.TasksSettings(out=folder, max_number=25, max_target=30, num_train=400, num_test=20, seed=1))
    return folder


def made(source, out, kind, **changes):
    given = {"tasks": source, "out": out, "kind": kind, "num_train": 60, "num_heldout": 10, "tokenizer": "tiny"}
    prime.run(PrimeSettings(**(given | changes)))
    return pq.read_table(out / "train" / "primed.parquet").to_pylist()


@pytest.mark.parametrize("voice", VOICES)
def test_each_kind_has_its_profile_on_the_same_tasks(source, tmp_path, voice, capsys):
    sets = {kind: made(source, tmp_path / kind.replace("+", "-"), kind, voice=voice, template=VOICES[voice]) for kind in PROFILES}
    for kind, rows in sets.items():
        assert [(row["numbers"], row["target"], row["prompt"]) for row in rows] == [
            (row["numbers"], row["target"], row["prompt"]) for row in sets["all"]
        ]
        for row in rows:
            found = traces.parse(row["completion"], row["numbers"], row["target"]).counts()
            assert {name for name in EVERY if found[name]} == PROFILES[kind], row["completion"]
            assert found["wrong_arithmetic"] == found["wrong_verification"] == 0
            assert row["correct"] == (kind != "incorrect-all") == score(row["completion"], row["numbers"], row["target"]).correct
    for straight in sets["linear"]:
        assert straight["attempts"] == 1 and straight["arithmetic"] > 1


def test_linear_is_as_long_in_tokens_where_a_tokenizer_is_named(source, tmp_path):
    terse = {"voice": "terse", "template": "short"}
    sets = {kind: made(source, tmp_path / kind, kind, **terse) for kind in ("all", "linear", "empty")}
    tokenizer = make_tiny_tokenizer(prime_traces.TERSE_WORDS)
    lengths = {kind: [len(tokenizer(row["completion"])["input_ids"]) for row in rows] for kind, rows in sets.items()}
    a_fact = len(tokenizer("9*9=81\n")["input_ids"])
    assert all(-0.05 * whole - 1 <= straight - whole < a_fact for whole, straight in zip(lengths["all"], lengths["linear"]))
    assert sum(lengths["linear"]) == pytest.approx(sum(lengths["all"]), rel=0.03)
    plain = {kind: made(source, tmp_path / f"plain-{kind}", kind, **terse, tokenizer=None) for kind in ("all", "linear")}
    assert sum(len(tokenizer(row["completion"])["input_ids"]) for row in plain["linear"]) > 1.2 * sum(lengths["all"])
    for whole, straight in zip(plain["all"], plain["linear"]):
        assert abs(len(straight["completion"]) / len(whole["completion"]) - 1) < 0.15
    assert [row["target"] for row in sets["all"]] == [row["target"] for row in sets["linear"]] == [row["target"] for row in sets["empty"]]


def test_a_set_made_for_the_frame_of_matched_sets_is_in_it(source, tmp_path):
    plain, framed = (made(source, tmp_path / template, "all", voice="terse", template=template)[0] for template in ("short", "set"))
    thoughts, answer = plain["completion"].removesuffix("</answer>").split("<answer>")
    row = {"question": plain["prompt"], "thoughts": thoughts, "answer": answer}
    assert (framed["prompt"], framed["completion"]) == prompt_and_completion(row)


def test_a_placeholder_has_exactly_as_many_tokens(source, tmp_path):
    whole, dots = (
        made(source, tmp_path / "a", "all", template="{numbers} {target}"),
        made(source, tmp_path / "p", "placeholder", template="{numbers} {target}"),
    )
    tokenizer = make_tiny_tokenizer(prime_traces.TERSE_WORDS)
    for row, other in zip(whole, dots):
        thoughts = [text["completion"].partition("<answer>")[0].rstrip("\n") for text in (row, other)]
        assert set(thoughts[1]) == {" ", "."}
        assert len({len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in thoughts}) == 1
        assert row["completion"].partition("<answer>")[2] == other["completion"].partition("<answer>")[2]


def test_the_seed_decides_and_what_is_passed_over_is_counted(source, tmp_path):
    first, again = made(source, tmp_path / "1", "all"), made(source, tmp_path / "2", "all")
    other = made(source, tmp_path / "3", "all", seed=1)
    assert first == again and first != other
    manifest = read_manifest(tmp_path / "1")
    assert manifest.rows_made == manifest.rows_out + sum(manifest.dropped.values()) and manifest.rows_out == 70
    assert manifest.notes["share_correct"] == 1 and manifest.notes["counts_per_trace"]["verification"] > 1
    assert pq.read_table(tmp_path / "1" / "heldout" / "primed.parquet").num_rows == 10


PINNED = {
    "prose": "88f4be0f505deb5a377607d6e1c11cb8aedb9b058e337ad1f9e951fc2ebae19c",
    "terse": "2edd21c6fde70c8c344ebf9faaac82b08527c16546c936978a2c669e02eaa8e8",
}


@pytest.mark.parametrize("voice", VOICES)
def test_the_same_options_give_the_same_bytes(source, tmp_path, voice):
    """Sets of a study that goes on are made again from their options: a change here would be another study."""
    written = hashlib.sha256()
    for kind in PROFILES:
        out = tmp_path / kind
        made(
            source, out, kind, voice=voice, template=VOICES[voice], num_train=30, traces_per_task=2, max_failures=3, max_result=200, seed=3
        )
        for part in ("train", "heldout"):
            for row in pq.read_table(out / part / "primed.parquet").to_pylist():
                written.update(json.dumps([row["prompt"], row["completion"]]).encode())
    assert written.hexdigest() == PINNED[voice]


def test_traces_are_varied(source, tmp_path):
    rows = made(source, tmp_path / "all", "all")
    assert len({row["completion"].split(" ")[0] for row in rows}) >= 3
    assert len({row["backtracking"] for row in rows}) >= 3


def test_random_expressions_are_what_they_say():
    generator = random.Random(0)
    for _ in range(300):
        numbers = [generator.randint(1, 20) for _ in range(generator.choice((2, 3, 4)))]
        node = random_node(numbers, generator)
        (numerator, denominator), used = evaluate(node.text(), "strict")
        assert Fraction(numerator, denominator) == node.value and sorted(used) == sorted(numbers)
        assert node.steps()[-1].endswith(f"= {node.value}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": 5_000}, "5010 were asked for"),
        ({"min_failures": 5}, "--min-failures is at most --max-failures"),
        ({"kind": "placeholder", "tokenizer": None}, "--tokenizer is needed"),
        ({"tasks": None}, "--tasks is needed"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        prime.run(PrimeSettings(**({"tasks": source, "out": tmp_path / "out", "num_train": 10, "num_heldout": 10} | changes)))
    assert not (tmp_path / "out").exists()


def test_plain_facts_are_found_even_of_three_ones():
    """1 + 1 = 2 and 1 * 1 = 1 may both be steps of the solution: other facts fill the length."""
    plans = [prime_plans.make_plan((1, 1, 1), 2, 2, f"{seed}") for seed in range(20)]
    for plan in filter(None, plans):
        for voice in prime_traces.VOICES:
            text, whole = (prime_traces.write(plan, kind, voice) for kind in ("linear", "all"))
            assert 0.9 * len(whole) <= len(text) <= 1.25 * len(whole)
    assert any(plans)


def test_results_stay_within_a_limit(tmp_path):
    tasks.run(
        tasks.TasksSettings(out=tmp_path / "tasks", operands=(3,), max_number=9, min_target=1, max_target=20, num_train=200, num_test=5)
    )
    for kind in ("all", "linear", "incorrect-all"):
        rows = made(tmp_path / "tasks", tmp_path / kind, kind, voice="terse", template="short", max_result=20)
        assert max(int(found) for row in rows for found in re.findall(r"=(\d+)", row["completion"])) <= 20


@pytest.mark.parametrize("voice", VOICES)
def test_what_follows_a_subgoal_may_fail(source, tmp_path, voice):
    """Else the words of a subgoal alone would say that the next check is a yes."""
    rows = made(source, tmp_path / voice, "all", voice=voice, template=VOICES[voice], min_failures=2)
    subgoal = ("need ",) if voice == "terse" else tuple(text.partition("{")[0].rstrip() for text in prime_traces.PROSE.subgoal)
    places = set()
    for row in rows:
        after = max(row["completion"].partition(start)[2] for start in subgoal if start in row["completion"])
        places.add(traces.parse(after, row["numbers"], row["target"]).attempts)
    assert len(places) >= 3, places
