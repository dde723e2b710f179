"""Prevalences with intervals, and what rewriting did to behaviors: golden values by hand and from the literature."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.arms import ARM_DESIGNS
from curate.prevalence import frequencies, unshifted
from curate.verification import TARGETS, against_gold, family, fidelity, passage, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe_1998(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(0, 300).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_an_interval_holds_its_share_and_stays_a_share(pair: tuple[int, int]) -> None:
    low, high = wilson(*pair)
    assert 0 <= low <= high <= 1
    assert pair[1] == 0 or low - 1e-9 <= pair[0] / pair[1] <= high + 1e-9


def test_frequencies_leave_errors_out_and_say_that_nothing_corrected_them() -> None:
    labels = pl.DataFrame({"a_score": [0.9, 0.6, 0.1, 0.2, None], "error": [None, None, None, None, "broken"]})
    share, mean = frequencies(labels, ["a"], threshold=0.6)
    assert (share["estimate"], mean["estimate"]) == ("naive", "mean")
    assert (share["value"], share["documents"], share["corrected"]) == (0.5, 4, False)
    assert (share["low"], share["high"]) == wilson(2, 4)
    assert mean["value"] == pytest.approx(0.45) and mean["low"] < 0.45 < mean["high"]


def test_the_mean_is_of_probabilities_before_a_student_moved_them() -> None:
    """Log-odds of .2 and .5 moved by ln 4 are those of .5 and .8; in a cascade a language model's scores are as they are."""
    labels = pl.DataFrame({"a_score": [0.5, 0.8], "error": [None, None]}, schema={"a_score": pl.Float32, "error": pl.String})
    share, mean = frequencies(labels, ["a"], 0.5, {"a": math.log(4)})
    assert share["value"] == 1 and mean["value"] == pytest.approx(0.35)
    cascade = labels.with_columns(pl.Series("cascade", [{"judge": "student"}, {"judge": "llm"}]))
    assert frequencies(cascade, ["a"], 0.5, {"a": math.log(4)})[1]["value"] == pytest.approx(0.5)
    assert unshifted(np.array([0.0, 1.0]), 1.0).tolist() == [0, 1]


def test_no_usable_label_gives_no_value_and_the_widest_interval() -> None:
    labels = pl.DataFrame({"a_score": [None], "error": ["broken"]}, schema={"a_score": pl.Float32, "error": pl.String})
    for row in frequencies(labels, ["a"], 0.5):
        assert (row["value"], row["documents"], row["low"], row["high"]) == (None, 0, 0.0, 1.0)


def test_fidelity_holds_each_cell_against_its_own_target() -> None:
    """Four documents: two show the behavior (0, 1), two do not; each is rewritten as it is and stripped."""
    sources = pl.DataFrame({"file_sha256": ["f"] * 4, "source_row": range(4), "a_score": [0.9, 0.8, 0.1, 0.2]})
    preserve, strip = [0.9, 0.1, 0.7, 0.1], [0.1, 0.6, 0.1, 0.1]
    labels = pl.DataFrame(
        {
            "file_sha256": ["f"] * 9,
            "source_row": [0, 1, 2, 3, 0, 1, 2, 3, 3],
            "cell": ["selected"] * 4 + ["selected_stripped"] * 4 + ["selected"],
            "target": [["a"], ["a"], [], [], [], [], [], [], ["a"]],
            "a_score": [*preserve, *strip, None],
            "error": [None] * 8 + ["broken"],
        }
    )
    kept, stripped = fidelity(labels, sources, ["a"], {"a": 0.5})
    assert [kept[key] for key in ("cell", "rewrites", "source_shows", "kept", "lost", "gained")] == ["selected", 4, 2, 1, 1, 1]
    assert kept["agreement"] == 0.5 and (kept["agreement_low"], kept["agreement_high"]) == wilson(2, 4)
    assert [stripped[key] for key in ("cell", "kept", "lost", "gained", "target")] == ["selected_stripped", 1, 1, 0, "none"]
    assert stripped["agreement"] == 0.75
    assert (kept["kept_share"], kept["kept_share_low"], kept["kept_share_high"]) == (0.5, *wilson(1, 2))
    assert (stripped["gained_share"], stripped["gained_share_high"]) == (0.0, wilson(0, 2)[1])


def test_an_injected_behavior_is_a_hit_where_it_was_asked_for_and_a_fault_where_it_was_not() -> None:
    sources = pl.DataFrame({"file_sha256": ["f"] * 3, "source_row": range(3), "a_score": [0.1] * 3, "b_score": [0.1] * 3})
    labels = pl.DataFrame(
        {
            "file_sha256": ["f"] * 3,
            "source_row": range(3),
            "cell": ["free_injected"] * 3,
            "target": [["a"], ["a"], ["b"]],
            "a_score": [0.9, 0.2, 0.9],
            "b_score": [0.1, 0.1, 0.1],
            "error": [None] * 3,
        },
        schema_overrides={"error": pl.String},
    )
    first, second = fidelity(labels, sources, ["a", "b"], {"a": 0.5, "b": 0.5})
    assert [first[key] for key in ("should_show", "shows", "gained", "target")] == [2, 2, 2, "injected"]
    assert first["agreement"] == 1 / 3 and second["agreement"] == 2 / 3
    assert first["kept_share"] is None and (first["kept_share_low"], first["kept_share_high"]) == (0, 1)


def test_the_judge_is_held_against_the_truth_cell_by_cell() -> None:
    labels = pl.DataFrame(
        {
            "cell": ["selected"] * 4 + ["free"] * 2,
            "a_score": [0.9, 0.9, 0.1, 0.9, 0.1, None],
            "gold_a": [True, False, True, None, False, True],
            "error": [None] * 5 + ["broken"],
        }
    )
    free, selected, everywhere = against_gold(labels, ["a"], {"a": 0.5})
    assert [selected[key] for key in ("cell", "rewrites", "gold_shows", "judge_finds", "both")] == ["selected", 3, 2, 2, 1]
    assert selected["precision"] == selected["recall"] == 0.5 and selected["false_alarms"] == 1.0
    assert (free["rewrites"], free["precision"], free["recall"], free["false_alarms"]) == (1, None, None, 0.0)
    assert (everywhere["cell"], everywhere["rewrites"], everywhere["both"]) == ("all", 4, 1)


def test_every_cell_that_is_written_has_a_target() -> None:
    assert {cell for design in ARM_DESIGNS.values() for cell in design.cells} == set(TARGETS)


def test_judge_and_rewriter_of_one_family_are_recognised() -> None:
    assert family("Qwen/Qwen2.5-32B-Instruct") == family("/models/qwen3-8b/") == "qwen"
    assert family("meta-llama/Llama-3.2-3B") == "llama" != family("smollm2-135m")
    assert family(None) == ""


def test_the_judge_sees_no_tags() -> None:
    assert passage({"question": "q", "thoughts": "t", "answer": "a"}) == "q\n\nt\n\na"
