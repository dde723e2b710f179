"""What an audit concludes: strata, weights and kappa by hand and against scikit-learn; the design is undone, ties and gaps are left out."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from curate.auditing.agreement import Answers, against_labels, agree, between_annotators, calibration, disagreements, kappa, prevalence
from curate.auditing.sample import LOWEST, allocate, answered_weights, assign_strata, draw, parse_bands
from curate.records.errors import UserError

BANDS = [0.2, 0.5, 0.8]


def test_a_document_belongs_to_its_highest_band_and_there_to_the_rarest_behavior() -> None:
    scores = {"common": np.array([0.9, 0.9, 0.9, 0.1, 0.6, 0.2]), "rare": np.array([0.95, 0.1, 0.3, 0.1, 0.3, 0.1])}
    assert assign_strata(scores, BANDS).tolist() == [
        "rare 0.8-1",
        "common 0.8-1",
        "common 0.8-1",
        LOWEST,
        "common 0.5-0.8",
        "common 0.2-0.5",
    ]


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 5000), min_size=1, max_size=9), st.integers(18, 800))
def test_every_stratum_is_drawn_from_and_none_beyond_its_size(sizes: dict[str, int], items: int) -> None:
    drawn = allocate(sizes, items)
    assert sum(drawn.values()) == min(items, sum(sizes.values()))
    assert all(min(2, sizes[name]) <= drawn[name] <= sizes[name] for name in sizes)


def test_allocation_goes_with_the_square_root_and_too_few_items_are_refused() -> None:
    assert allocate({"a": 10_000, "b": 100}, 110) == {"a": 100, "b": 10}
    with pytest.raises(UserError, match="3 strata need at least 6 items"):
        allocate({"a": 5, "b": 5, "c": 5}, 5)
    for text in ("0.5,0.2", "0", "x", "0.5,0.5", ""):
        with pytest.raises(UserError, match="is not a rising list"):
            parse_bands(text)


def frame(scores: list[float]) -> pl.DataFrame:
    count = len(scores)
    nothing = pl.Series("start", [None] * count, pl.Int64)
    return pl.DataFrame({"file_sha256": ["f"] * count, "source_row": range(count), "a_score": scores, "start": nothing, "end": nothing})


def test_inclusion_probabilities_are_those_of_the_draw() -> None:
    """Over 300 seeds each document of a stratum is drawn as often as its inclusion probability says."""
    labels = frame([0.05] * 40 + [0.9] * 10)
    counts, stated = np.zeros(50), np.zeros(50)
    for seed in range(300):
        drawn = draw(labels, ["a"], BANDS, 12, seed)
        assert drawn.height == drawn["item"].n_unique() == 12
        counts[drawn["source_row"].to_list()] += 1
        stated[drawn["source_row"].to_list()] = drawn["inclusion_probability"].to_list()
    assert np.abs(counts / 300 - stated).max() < 0.12
    assert stated[0] * 40 + stated[-1] * 10 == pytest.approx(12)
    assert draw(labels, ["a"], BANDS, 12, 0)["item"].to_list() == draw(labels.reverse(), ["a"], BANDS, 12, 0)["item"].to_list()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    found = agree(first, second, np.ones(len(pairs)), np.zeros(len(pairs)), np.random.default_rng(0))
    if len({*first.tolist(), *second.tolist()}) < 2:
        assert found.kappa is None and found.low is None  # chance alone would agree as well
        return
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
    assert found.weighted == pytest.approx(found.kappa)
    if found.low is not None:
        assert found.low - 1e-9 <= found.kappa <= found.high + 1e-9 or len(pairs) < 20


def test_kappa_at_natural_frequency_weighs_by_the_design() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.5, rng.random(200) < 0.5
    strata = np.array([0] * 100 + [1] * 100)
    weights = np.where(strata == 0, 30.0, 1.0)
    found = agree(first, second, weights, strata, rng)
    assert found.weighted == pytest.approx(cohen_kappa_score(first, second, sample_weight=weights))
    assert kappa(np.array([3.0, 0, 0, 0])) != kappa(np.array([3.0, 0, 0, 0]))  # not a number: everybody says no


def test_the_bootstrap_interval_covers_the_kappa_of_the_population() -> None:
    rng = np.random.default_rng(3)
    cells = np.array([0.6, 0.1, 0.05, 0.25])
    truth, covered = float(kappa(cells)), 0
    for _ in range(200):
        codes = rng.choice(4, size=120, p=cells)
        found = agree(codes // 2 == 1, codes % 2 == 1, np.ones(120), np.zeros(120), rng)
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.9 <= covered / 200 <= 0.99


def answers(**truth: list[float]) -> Answers:
    """Six items: four of 8 documents that score high, two of 92 that score low."""
    strata = np.array(["high"] * 4 + ["low"] * 2)
    return Answers(
        "a", {name: np.array(values) for name, values in truth.items()}, np.array([0.9] * 4 + [0.1] * 2), strata, {"high": 8, "low": 92}
    )


NAN = float("nan")


def test_prevalence_undoes_the_design_and_names_what_nobody_saw() -> None:
    row = prevalence(answers(ann=[1, 1, 1, 0, 0, 0]))
    assert row["value"] == pytest.approx(0.75 * 8 / 100) and row["raw"] == 0.5 and row["uncovered"] == 0
    assert row["low"] < row["value"] < row["high"]
    row = prevalence(answers(ann=[1, 1, NAN, NAN, NAN, NAN]))
    assert (row["items"], row["value"], row["uncovered"]) == (2, 1.0, pytest.approx(0.92))
    assert prevalence(answers(ann=[NAN] * 6))["value"] is None
    assert answered_weights(["low", "high", "low"], {"high": 8, "low": 92}).tolist() == [46, 8, 46]


def test_annotators_that_disagree_are_listed_and_ties_decide_nothing() -> None:
    both = answers(ann=[1, 1, 0, NAN, 0, 1], ben=[1, 0, 0, 1, 0, 1])
    rng = np.random.default_rng(0)
    (pair,) = between_annotators(both, rng)
    assert (pair["first"], pair["second"], pair["items"]) == ("ann", "ben", 5)
    assert pair["kappa"] == pytest.approx(cohen_kappa_score([1, 1, 0, 0, 1], [1, 0, 0, 0, 1]))
    judged = {row["first"]: row for row in against_labels(both, 0.5, rng)}
    assert judged["everybody"]["items"] == 5 and judged["ann"]["items"] == 5  # item 1 is a tie, item 3 has one answer
    listed = {(row["item"], row["between"]) for row in disagreements(both, list("uvwxyz"), 0.5)}
    assert listed == {("v", "annotators"), ("w", "label"), ("z", "label")}


def test_calibration_is_read_at_natural_frequencies() -> None:
    low, high = calibration(answers(ann=[1, 1, 1, 0, 0, 1]), [0.0, 0.5, 1.0])
    assert (low["items"], low["mean_score"], low["share"]) == (2, pytest.approx(0.1), 0.5)
    assert (high["items"], high["share"]) == (4, 0.75) and high["low"] < 0.75 < high["high"]


def test_strata_of_one_item_and_a_handful_of_items_claim_no_certainty() -> None:
    rng = np.random.default_rng(0)
    first, second = np.arange(12) % 2 == 0, np.arange(12) % 3 == 0
    alone, one = (agree(first, second, np.ones(12), strata, rng) for strata in (np.arange(12).astype(str), np.full(12, "all")))
    assert alone.kappa == one.kappa and alone.low is not None and one.low is not None
    assert alone.low == pytest.approx(one.low, abs=0.05) and alone.high == pytest.approx(one.high, abs=0.05) and alone.low < alone.high
    assert alone.weighted_low == pytest.approx(alone.low)
    few = agree(first[:9], second[:9], np.ones(9), np.full(9, "all"), rng)
    assert few.kappa is not None and few.low is None and few.weighted_high is None
