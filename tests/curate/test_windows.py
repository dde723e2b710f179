"""Windows lose nothing and stay in bounds; a document's score does not grow with its length."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.classification import Labelling
from curate.windows import AGGREGATIONS, document_score, notation_density, published_cut, split_windows

PROSE = st.lists(
    st.sampled_from(["word ", "A sentence. ", "line\n", "para\n\n", "  \n \n", "\t", "\r\n", "x" * 37, "ü∑ ", "\n\n\n", " ", "?"]),
    max_size=60,
).map("".join)
SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=40)
PARAGRAPH = re.compile(r"\n[ \t\r]*\n+")


@given(PROSE | st.text(max_size=300), st.integers(1, 120))
def test_windows_are_the_document_again(text: str, max_chars: int) -> None:
    spans = split_windows(text, max_chars)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(0 < end - start <= max_chars for start, end in spans)
    assert [start for start, _ in spans] == [0, *[end for _, end in spans]][: len(spans)]


@given(PROSE, st.integers(10, 120))
def test_windows_end_after_the_last_whole_paragraph_that_fits(text: str, max_chars: int) -> None:
    for start, end in split_windows(text, max_chars)[:-1]:
        ends = [match.end() for match in PARAGRAPH.finditer(text, start, start + max_chars)]
        if ends and ends[-1] - start >= max_chars // 10:
            assert end == ends[-1]


def test_a_paragraph_too_long_is_cut_after_a_line_else_a_sentence_else_a_word_else_hard() -> None:
    assert split_windows("one line\nanother line", 12)[0] == (0, 9)
    assert split_windows("One. Another sentence", 12)[0] == (0, 5)
    assert split_windows("several words here", 12)[0] == (0, 8)
    assert split_windows("x" * 25, 12) == [(0, 12), (12, 24), (24, 25)]


def test_no_text_has_no_window_and_no_room_is_refused() -> None:
    assert split_windows("", 10) == []
    with pytest.raises(ValueError, match="at least 1"):
        split_windows("text", 0)


def test_five_megabytes_are_cut_in_time_linear_in_the_text() -> None:
    text = ("A paragraph of some words.\n" + " " * 50) * 66_000
    spans = split_windows(text, 2400)
    assert spans[-1][1] == len(text) > 5_000_000


RULES = st.sampled_from(AGGREGATIONS)


@given(SCORES, RULES)
def test_document_score_is_a_probability_and_not_above_what_its_windows_can_say(scores: list[float], rule: str) -> None:
    score = document_score(scores, rule)
    assert 0 <= score <= 1
    assert min(min(scores), 0.9999) - 1e-9 <= score <= document_score(scores, "noisy-or") + 1e-9


@given(SCORES, st.randoms(use_true_random=False), st.integers(2, 5), RULES)
def test_document_score_knows_no_order_and_only_noisy_or_knows_length(scores: list[float], random: object, times: int, rule: str) -> None:
    shuffled = list(scores)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert document_score(shuffled, rule) == pytest.approx(document_score(scores, rule), abs=1e-12)
    if rule != "noisy-or":
        assert document_score(scores * times, rule) == pytest.approx(document_score(scores, rule), abs=1e-9)


@given(SCORES, st.data(), RULES)
def test_a_higher_window_never_lowers_the_document(scores: list[float], data: st.DataObject, rule: str) -> None:
    index = data.draw(st.integers(0, len(scores) - 1))
    raised = list(scores)
    raised[index] = data.draw(st.floats(scores[index], 1))
    assert document_score(raised, rule) >= document_score(scores, rule) - 1e-12


@given(st.floats(0, 0.999), RULES)
def test_one_window_is_the_document(score: float, rule: str) -> None:
    assert document_score([score], rule) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize("rule", ["max", "mean-odds"])
def test_ten_clean_windows_stay_clean_and_one_sure_window_stays_sure_without_calibration(rule: str) -> None:
    assert document_score([0.04] * 10, rule) == pytest.approx(0.04)
    assert document_score([0.04] * 9 + [0.999], rule) > 0.95
    assert document_score([], rule) == 0.0


def test_calibrated_windows_add_up_as_they_occur() -> None:
    """A thousand documents of ten windows that show it in 4 of 100 cases: what noisy-or says is what happens."""
    shows = np.random.default_rng(0).random((1000, 10)) < 0.04
    assert document_score([0.04] * 10, "noisy-or") == pytest.approx(1 - 0.96**10)
    assert shows.any(axis=1).mean() == pytest.approx(document_score([0.04] * 10, "noisy-or"), abs=0.03)


def test_only_a_calibrated_engine_gets_noisy_or_unless_told() -> None:
    def rule(calibrated: bool, **options: str) -> str:
        return Labelling(2400, **options).method(calibrated).aggregate  # type: ignore[attr-defined]

    assert (rule(True), rule(False)) == ("noisy-or", "max")
    assert rule(True, aggregate="mean-odds") == rule(False, aggregate="mean-odds") == "mean-odds"
    with pytest.raises(ValueError, match="unknown rule"):
        document_score([0.5], "mean")


def test_a_saturated_window_cannot_outvote_any_number_of_others_in_mean_odds() -> None:
    assert document_score([1.0] + [0.0] * 100_000, "mean-odds") < 0.5


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("short", "short"),
        ("line one\nline two is long", "line one"),
        ("nothing to cut at, at all", "nothing to cu"),
        ("\nonly at the start", "\nonly at the "),
    ],
)
def test_the_published_cut_goes_back_to_a_newline_and_loses_nothing_without_one(text: str, read: str) -> None:
    assert published_cut(text, lambda whole, tokens: min(len(whole), 13)) == read


@given(st.text(max_size=200))
def test_notation_density_is_a_share(text: str) -> None:
    assert 0 <= notation_density(text) <= 1
    assert not math.isnan(notation_density(text))
