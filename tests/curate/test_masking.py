"""A classifier that cannot tell the arms apart is at .5, one that can is not, and masking takes away just what was marked."""

import random

import numpy as np
import pytest

from curate.behaviors import load_behaviors
from curate.masking import about_the_subject, area_under_curve, cue_pattern, mask, separability

WORDS = ["sum", "prime", "factor", "root", "angle", "line", "square", "proof", "limit", "number"]


def sentences(generator: random.Random, count: int = 8) -> list[str]:
    return [" ".join(generator.choices(WORDS, k=6)).capitalize() + "." for _ in range(count)]


def test_sentences_with_evidence_or_a_cue_go_and_the_others_stay() -> None:
    text = "We add. That fails, so I turn back. Next we multiply.\nLet me try 3. Done."
    start = text.index("turn")
    spans = [{"start": start, "end": start + 4, "score": 0.9}, {"start": 0, "end": 2, "score": 0.1}]
    assert mask(text, spans, None) == "We add. Next we multiply. Let me try 3. Done."
    assert mask(text, [], cue_pattern(["LET ME TRY"])) == "We add. That fails, so I turn back. Next we multiply. Done."
    everything = [{"start": 0, "end": len(text), "score": 1.0}]
    assert mask(text, everything, None) == "We add. That fails, so I turn back. Next we multiply. Let me try 3. Done."
    assert mask("", [], None) == ""


def test_words_of_the_subject_are_those_of_the_question_and_the_answer() -> None:
    assert about_the_subject("Now the prime 7 divides it", "Which prime? 7") == "prime 7"


def test_arms_alike_are_at_one_half_and_a_mark_is_found_until_it_is_masked() -> None:
    generator = random.Random(0)
    one, other = ([sentences(generator) for _ in range(150)] for _ in range(2))
    plain = [[" ".join(text) for text in side] for side in (one, other)]
    alike = separability(*plain, seed=0)
    assert alike is not None and alike["low"] < 0.5 < alike["high"] and alike["blocks"] == 150
    marked = [" ".join([*text[:4], "But wait, that fails.", *text[4:]]) for text in one]
    apart = separability(marked, plain[1], seed=0)
    assert apart is not None and apart["auc"] > 0.99
    cues = cue_pattern(cue for behavior in load_behaviors() for cue in behavior.cues)
    masked = separability([mask(text, [], cues) for text in marked], plain[1], seed=0)
    assert masked is not None and masked["low"] < 0.5 < masked["high"]
    assert separability(*plain, seed=0) == alike


def test_versions_of_a_document_never_stand_on_both_sides_of_the_test() -> None:
    """Each block has words of its own: a model that had seen one version of a block would guess the other one wrong."""
    blocks = [f"only{number} here{number} seen{number}" for number in range(60)]
    result = separability(blocks, blocks, seed=1)
    assert result is not None and result["auc"] == pytest.approx(0.5)


def test_too_few_examples_give_no_number_and_empty_texts_tell_nothing() -> None:
    assert separability(["a b"] * 19, ["c d"] * 19, seed=0) is None
    empty = separability([""] * 30, [""] * 30, seed=0)
    assert empty is not None and empty["auc"] == 0.5


def test_area_under_curve_is_the_share_of_pairs_in_order() -> None:
    positive, negative = np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.0])
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert area_under_curve(positive, negative) == pytest.approx(np.mean(pairs))
