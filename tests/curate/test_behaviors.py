"""Behaviors are data: a file of the user's adds or replaces them, and every mistake in it is named at once."""

from pathlib import Path

import pytest

from curate.behaviors import behaviors_hash, load_behaviors
from curate.prompts import ScoringPrompts
from curate.records.errors import UserError
from curate.records.schemas import behaviors_in, labels

SHIPPED = ["verification", "backtracking", "subgoal_setting", "backward_chaining"]
FIFTH = """
[[behavior]]
name = "analogy"
short = "solving by analogy with a simpler case"
definition = "A simpler case is solved first and carried over."
question = "Does the text solve a simpler case first {and carry it over}?"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_the_four_habits_ship_with_texts_for_each_use() -> None:
    shipped = load_behaviors()
    assert [item.name for item in shipped] == SHIPPED
    for item in shipped:
        assert item.positive and item.negative and item.cues
        assert all(cue == cue.lower() for cue in item.cues)
        assert item.question.endswith("?")


def test_a_fifth_behavior_is_asked_for_and_gets_its_columns(tmp_path: Path) -> None:
    behaviors = load_behaviors(write(tmp_path, FIFTH))
    assert [item.name for item in behaviors] == [*SHIPPED, "analogy"]
    assert behaviors_in(labels([item.name for item in behaviors])) == [*SHIPPED, "analogy"]
    prompts = ScoringPrompts(behaviors)
    assert list(prompts.questions) == [*SHIPPED, "analogy", "problem", "solution"]
    assert "carried over" in prompts.head and "simpler case first {and carry it over}" in prompts.prompt("", "analogy").tail
    assert prompts.hash() != ScoringPrompts(load_behaviors()).hash()


def test_a_shipped_name_is_replaced_in_its_place(tmp_path: Path) -> None:
    behaviors = load_behaviors(write(tmp_path, FIFTH.replace("analogy", "backtracking")))
    assert [item.name for item in behaviors] == SHIPPED
    assert behaviors[1].short == "solving by backtracking with a simpler case"
    assert behaviors_hash(behaviors) != behaviors_hash(load_behaviors())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no [[behavior]] block"]),
        ("[[behaviour]]\nname='a'", ["unknown table 'behaviour' (did you mean 'behavior'?)", "no [[behavior]] block"]),
        ("[behavior]\nname='a'", ["no [[behavior]] block"]),
        ("behavior = [1]", ["behavior 1 is not a [[behavior]] block"]),
        ("[[behavior]]\nname = ['a']", ["'name' is missing or empty"]),
        (
            "[[behavior]]\nnaem='a'\nshort=' '",
            ["unknown key 'naem' (did you mean 'name'?)", "'name' is missing", "'short' is missing", "'question' is"],
        ),
        (FIFTH + "cues = 'wait'", ["'cues' must be a list of texts"]),
        (FIFTH + "cues = [1]", ["'cues' must be a list of texts"]),
        (FIFTH.replace('"analogy"', '"by analogy"'), ["a name is made of letters, digits and _"]),
        (FIFTH.replace('"analogy"', '"problem"'), ["this name is taken"]),
        (FIFTH.replace('"analogy"', '"solution"'), ["this name is taken"]),
        (FIFTH + FIFTH, ["behavior 'analogy' stands twice"]),
        ("[[behavior]", ["is not valid TOML"]),
    ],
)
def test_mistakes_are_named_together(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_behaviors(write(tmp_path, text))
    assert all(part in str(caught.value) for part in ["mine.toml", *parts])


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "gone.toml", tmp_path, tmp_path / "binary.toml"):
        with pytest.raises(UserError, match="cannot read the behaviors file"):
            load_behaviors(path)
