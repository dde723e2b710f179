"""What models send back: every usable answer is read, nothing raises, nothing half-read passes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.parsing import is_blank, num_words, parse_count, parse_tags, within
from tests.helpers import real_data

NAMES = ("question", "thoughts", "answer")
PIECES = st.sampled_from(
    [
        "<question>",
        "</question>",
        "<thoughts>",
        "</thoughts>",
        "<answer>",
        "</answer>",
        "< Answer >",
        "<\n/ANSWER>",
        "```",
        "```xml\n",
        "<",
        ">",
        "text",
        " ",
        "\n",
        "</",
        "<count>",
        "<answer",
        "\x00",
        "𝒙",
        "<|im_end|>",
        "x < y > z",
    ]
)
CONTENT = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    .map(lambda text: text.replace("<", "≺"))
    .filter(lambda text: not is_blank(text))
)


def written(fields: dict[str, str], blank: str = "", upper: bool = False) -> str:
    def tag(name: str) -> str:
        return f"{blank}{name.upper() if upper else name}{blank}"

    return "\n".join(f"<{tag(name)}>{text}<{blank}/{tag(name)}>" for name, text in fields.items())


@given(st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join), st.booleans())
def test_the_parser_never_raises_and_never_gives_half_an_answer(text: str, truncated: bool) -> None:
    parsed = parse_tags(text, NAMES, truncated)
    if parsed.problem is None:
        assert list(parsed.fields) == list(NAMES)
        assert all(value.strip() == value and value for value in parsed.fields.values())
    else:
        assert parsed.fields == {}


@given(
    st.fixed_dictionaries({name: CONTENT for name in NAMES}),
    st.permutations(NAMES),
    st.sampled_from(["", " ", "\n"]),
    st.booleans(),
    st.sampled_from(["", "Sure! Here it is:\n", "Let me think. "]),
)
def test_what_is_written_in_tags_is_read_back(fields: dict[str, str], order: list[str], blank: str, upper: bool, before: str) -> None:
    text = before + written({name: fields[name] for name in order}, blank, upper)
    assert parse_tags(text, NAMES).fields == {name: value.strip() for name, value in fields.items()}


@given(CONTENT.filter(lambda text: not text.strip().endswith("```")))
def test_the_last_closing_tag_may_be_missing_only_in_a_finished_answer(content: str) -> None:
    assert parse_tags(f"<thoughts>{content}", ["thoughts"]).fields == {"thoughts": content.strip()}
    assert parse_tags(f"<thoughts>{content}", ["thoughts"], truncated=True).problem == "cut off inside <thoughts>"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing <question>"),
        ("no tags at all", "missing <question>"),
        ("<question>q</question><answer>  </answer>", "empty <answer>"),
        ("<question>q<question>r</question><answer>a</answer>", "<question> inside <question>"),
        ("<question>q</answer><answer>a</answer>", "<question> closed by </answer>"),
    ],
)
def test_answers_that_cannot_be_used_say_why(text: str, problem: str) -> None:
    assert parse_tags(text, ["question", "answer"]).problem == problem


def test_fences_repeats_and_text_around_are_tolerated() -> None:
    text = "```xml\n<answer></answer>\n<ANSWER>42</ANSWER>\n<answer>43</answer>\n```"
    assert parse_tags(text, ["answer"]).fields == {"answer": "42"}
    assert parse_tags("<question>q<answer>a</answer>", ["question", "answer"]).fields == {"question": "q", "answer": "a"}
    assert (
        parse_tags("<thoughts>if a < b > c then <b>bold</b></thoughts>", ["thoughts"]).fields["thoughts"] == "if a < b > c then <b>bold</b>"
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("<count> 2 </count>.", 2),
        ("<count>2</count>", 2),
        ("<COUNT>\n3\n</ count >", 3),
        ("first <count>1</count>, finally <count>4</count>", 4),
        ("<count>two</count>", None),
        ("<count>-1</count>", None),
        ("", None),
        ("<count>" + "9" * 5000 + "</count>", 999_999_999),
    ],
)
def test_counts_are_read_with_blanks_which_the_published_parser_refused(text: str, count: int | None) -> None:
    assert parse_count(text) == count


def test_every_count_that_a_real_judge_wrote_is_read() -> None:
    rows = [json.loads(line) for line in real_data("labels/owm_llama70b_labelled.jsonl").read_text().splitlines()]
    counts = [row[name] for row in rows for name in row if name.endswith("_count")]
    assert len(counts) == 8
    for text in counts:
        assert parse_count(text) == int("".join(character for character in text if character.isdigit()))
    raw = [row[name] for row in rows for name in row if name.endswith("_raw") and "solution" not in name]
    assert len(raw) == 14
    assert all(parse_count(text) is not None for text in raw)


@given(st.integers(0, 500), st.integers(1, 500), st.floats(0, 1))
def test_the_length_rule_is_symmetric_around_its_target(distance: int, target: int, tolerance: float) -> None:
    assert within(target, target, tolerance)
    assert within(target + distance, target, tolerance) == (distance <= tolerance * target)
    assert within(target - distance, target, tolerance) == within(target + distance, target, tolerance)
    assert num_words(" a\nb\t c ") == 3
