"""The scorer: agrees with verdicts of others, refuses with reasons, does bounded work, never raises."""

import runpy
from collections import Counter
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rl import scoring, tinyzero
from rl.scoring import MAX_CHARS, MAX_DEPTH, REASONS, evaluate, extract, score
from tests.rl.data import judged_outputs

# Their name for a verdict, our strict reasons for it.
THEIRS = {
    None: {"correct"},
    "missing_answer_tag": {"no_answer"},
    "wrong_value": {"wrong_value"},
    "number_mismatch": {"numbers"},
    "invalid_expression": {"character", "equals", "syntax"},
}


def test_strict_agrees_with_all_verdicts_and_default_differs_on_signs_and_trailing_values_only():
    rows = judged_outputs()
    assert len(rows) == 1000
    differing = []
    for row in rows:
        strict = score(row["raw_generation"], row["numbers"], row["target"], syntax="strict")
        assert strict.correct == row["correct"] and strict.reason in THEIRS[row["error"]], row["id"]
        lenient = score(row["raw_generation"], row["numbers"], row["target"])
        if lenient.correct != strict.correct:
            assert any(sign in strict.expression for sign in "×÷−=")
            differing.append(strict.expression)
        else:
            assert lenient.reason == strict.reason or not strict.expression.isascii() or "=" in strict.expression
    assert len(differing) == 99
    assert sum("=" in expression for expression in differing) == 15


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("(3 + 4) * 2", "correct"),
        ("(3+4)*2 = 14", "correct"),
        ("(3+4)*2 = 99", "correct"),  # what stands after a lone = is not looked at
        ("(3+4)×2", "correct"),
        ("2*(3−-4) ", "correct"),
        ("-(-3-4)*2", "correct"),
        ("\n  (3 +\n 4) * 2\n", "correct"),
        ("```\n(3+4)*2\n```", "correct"),
        ("```python\n(3+4)*2\n```", "correct"),
        ("`(3+4)*2`", "correct"),
        ("(3+4)*2 = 14 = 14", "equals"),
        ("14 = (3+4)*2", "equals"),
        ("3+4+2", "wrong_value"),
        ("(3+4)*2*1", "numbers"),
        ("(3+4)", "numbers"),
        ("14", "numbers"),
        ("34+2", "numbers"),
        ("2**3+4", "power"),
        ("2^3+4", "power"),
        ("3*4//2", "floor_division"),
        ("3.0+4*2", "float"),
        (".3+4*2", "float"),
        ("03+4*2", "leading_zero"),
        ("sqrt(4)+3*2", "call"),
        ("2(3+4)", "call"),
        ("x+3+4+2", "name"),
        ("__import__('os')", "call"),
        ("3+4*2;", "character"),
        ("٣+4*2", "character"),
        ("²+3+4", "character"),
        ("", "empty"),
        ("3 4 + 2", "syntax"),
        ("3+(4*2", "syntax"),
        ("3+4)*2", "syntax"),
        ("()3+4*2", "syntax"),
        ("+3+4*2", "syntax"),
        ("3+*4*2", "syntax"),
        ("--3+4*2", "syntax"),
        ("(" * (MAX_DEPTH + 1) + "3" + ")" * (MAX_DEPTH + 1), "too_deep"),
        ("3+4*2" + " " * MAX_CHARS + "+0", "too_long"),
    ],
)
def test_each_answer_gets_its_reason(answer, reason):
    result = score(f"I think <answer>{answer}</answer> it is", [3, 4, 2], 14)
    assert result.reason == reason and reason in REASONS
    assert result.correct == (reason == "correct")
    assert result.value == (1.0 if result.correct else 0.1)


def test_division_is_exact_and_by_zero_refused():
    assert score("<answer>8/(3-8/3)</answer>", [3, 3, 8, 8], 24).correct
    assert score("<answer>1/(2-2)</answer>", [1, 2, 2], 5).reason == "division_by_zero"
    assert score("<answer>0/(2-2)</answer>", [0, 2, 2], 0).reason == "division_by_zero"
    assert score("<answer>1/3*3</answer>", [1, 3, 3], 1).correct
    assert score("<answer>0.1+0.2</answer>", [1, 2], 3).reason == "float"


def test_the_last_complete_answer_counts():
    right, wrong = "<answer>3+4</answer>", "<answer>3-4</answer>"
    for text, correct in (
        (f"{wrong} no, {right}", True),
        (f"{right} or {wrong}", False),
        (f"{right} and <answer>3-4", True),
        (f"{right}</answer></answer>", True),
        ("<answer> <answer>3+4</answer>", True),
        ("<answer>3+4", False),
        ("</answer>3+4<answer>", False),
        ("", False),
    ):
        assert score(text, [3, 4], 7).correct == correct, text
    assert extract("a</answer>") is None


def test_any_subset_rule():
    assert score("<answer>3+4</answer>", [3, 4, 9], 7, rule="any-subset").correct
    assert score("<answer>3+3</answer>", [3, 4, 9], 6, rule="any-subset").reason == "numbers"
    assert score("<answer>3+4</answer>", [3, 4, 9], 7).reason == "numbers"


def test_format_reward_is_what_it_is_told():
    assert score("<answer>1</answer>", [1], 2, format_reward=0.0).value == 0.0
    assert score("<answer>1</answer>", [1], 2, format_reward=0.25).value == 0.25
    assert score("none", [1], 2, format_reward=0.25).value == 0.0


TREES = st.recursive(
    st.integers(0, 30).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda x: f"({x[0]}{x[1]} {x[2]})"),
        inner.map(lambda x: f"(-{x})"),
    ),
    max_leaves=8,
)


@given(TREES, TREES, TREES, st.sampled_from(["+", "-", "*", "/"]), st.sampled_from(["+", "-", "*", "/"]))
@hypothesis_settings(max_examples=300, deadline=None)
def test_values_equal_exact_rational_arithmetic(a, b, c, first, second):
    expression = f"{a}{first}{b} {second}{c}"
    try:
        # an oracle for the test only: Python's own parser over Fractions, of text that this test made
        expected = eval(__import__("re").sub(r"\d+", r"F(\g<0>)", expression), {"F": Fraction})
    except ZeroDivisionError:
        expected = None
    (numerator, denominator), _ = evaluate(expression)
    assert (Fraction(numerator, denominator) if denominator else None) == expected


BENCH = runpy.run_path(str(Path(__file__).parents[2] / "bench" / "scorer.py"))


@pytest.mark.parametrize(
    "scorer", [score, partial(score, syntax="strict"), tinyzero.score, lambda text, *rest: tinyzero.score("Assistant:" + text, *rest)]
)
def test_no_input_of_100_kb_takes_over_5_ms(scorer):
    shapes = list(BENCH["long_texts"]())
    assert len(shapes) > 250 and min(map(len, shapes)) > 90_000
    for text in shapes:
        # the machine may be busy, so the best of a few
        assert any(BENCH["timed"](scorer, text) < 0.005 for _ in range(5)), text[:40]


def _fuzz(number: int, seed: int) -> None:
    reasons = Counter(BENCH["check_fuzzed"](text, place % 4) for place, text in enumerate(BENCH["fuzzed"](number, seed)))
    assert set(reasons) >= set(REASONS) - {"too_deep", "too_long", "division_by_zero"}


def test_fuzzed_inputs_never_raise():
    """A million of them: `python bench/scorer.py --fuzz 1000000`."""
    _fuzz(20_000, 1)


@given(st.text(max_size=300))
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_text_gets_a_score(text):
    assert score(text, [1, 2], 3).reason in REASONS
    assert score(f"<answer>{text}</answer>", [1, 2], 3).reason in REASONS


@pytest.mark.parametrize(
    ("text", "numbers", "target", "value"),
    [
        ("<answer>2+3</answer>", [2, 3], 5, 0.0),  # no "Assistant:"
        ("Assistant: <answer>2+3</answer>", [2, 3], 5, 1.0),
        ("Assistant: <answer>2+3</answer>\n", [2, 3], 5, 0.0),  # only the last line is read
        ("Assistant: <answer>\n2+3</answer>", [2, 3], 5, 0.0),
        ("Assistant: <answer>2+3 = 5</answer>", [2, 3], 5, 0.1),
        ("Assistant: <answer>2**3</answer>", [2, 3], 8, 1.0),
        ("Assistant: <answer>7//2</answer>", [7, 2], 3, 1.0),
        ("Assistant: <answer>1.5*2</answer>", [1, 2, 5], 3, 1.0),
        ("Assistant: <answer>2+3</answer>", [2, 4], 5, 0.1),
        ("Assistant: <answer>1/3*3</answer>", [1, 3, 3], 1, 1.0),
        ("Assistant: <answer>9**9**9</answer>", [9, 9, 9], 1, 0.1),  # hangs the reference
        ("<|im_start|>assistant <answer>2+3</answer>", [2, 3], 5, 1.0),
    ],
)
def test_tinyzero_scores_with_its_defects(text, numbers, target, value):
    assert tinyzero.score(text, numbers, target).value == value


def test_signs_table_is_complete():
    for sign in "×·÷−–":
        assert scoring._plain(sign) in "*/-"
