"""Corrected intervals hold the true share about 95 times in 100; the judge's own do not. Seeded simulations of a known corpus."""

from collections.abc import Callable

import numpy as np
import pytest

from curate.estimation import Errors, design_error, designed, judge_errors, kish, korn_graubard, prediction_powered, rogan_gladen
from curate.verification import wilson

REPEATS = 400
# 400 draws of a coin that falls on 95 %: below .92 or above .99 once in a hundred runs of a sound interval; the seed is fixed anyway.
LOW, HIGH = 0.92, 0.995


def corpus(
    rng: np.random.Generator, share: float, sensitivity: float, specificity: float, size: int = 3000
) -> tuple[np.ndarray, np.ndarray]:
    """(truth, the judge's probabilities), both of shape (size,)."""
    truth = rng.random(size) < share
    flagged = np.where(truth, rng.random(size) < sensitivity, rng.random(size) > specificity)
    scores = np.where(flagged, 0.5 + rng.beta(3, 2, size) / 2, rng.beta(1, 3, size) / 2)
    return truth.astype(np.float64), scores


def coverage(share: float, draw: Callable[[np.random.Generator], tuple[float, float]]) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([low <= share <= high for low, high in (draw(rng) for _ in range(REPEATS))]))


CORPORA = [(0.02, 0.6, 0.95, 300), (0.1, 0.8, 0.9, 300), (0.1, 0.8, 0.9, 100), (0.3, 0.7, 0.9, 200)]


@pytest.mark.parametrize(("share", "sensitivity", "specificity", "gold"), CORPORA)
def test_prediction_powered_intervals_cover_where_the_judges_do_not(
    share: float, sensitivity: float, specificity: float, gold: int
) -> None:
    def naive(rng: np.random.Generator) -> tuple[float, float]:
        _, scores = corpus(rng, share, sensitivity, specificity)
        return wilson(int((scores >= 0.5).sum()), len(scores))

    def powered(rng: np.random.Generator) -> tuple[float, float]:
        truth, scores = corpus(rng, share, sensitivity, specificity)
        chosen = rng.choice(len(truth), gold, replace=False)
        estimate = prediction_powered(truth[chosen], scores[chosen], scores)
        return estimate.low, estimate.high

    assert coverage(share, naive) < 0.5
    assert LOW <= coverage(share, powered) <= HIGH


@pytest.mark.parametrize(("share", "sensitivity", "specificity", "gold"), CORPORA)
def test_a_stratified_audit_covers_and_ignoring_its_design_does_not(
    share: float, sensitivity: float, specificity: float, gold: int
) -> None:
    """Half of the gold labels among the few documents that score high: unweighted they overstate the share."""

    def audit(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        truth, scores = corpus(rng, share, sensitivity, specificity)
        strata = (scores >= 0.5).astype(np.int64)
        inside = [np.flatnonzero(strata == stratum) for stratum in (0, 1)]
        number = [gold - min(gold // 2, len(inside[1])), min(gold // 2, len(inside[1]))]
        chosen = np.concatenate([rng.choice(rows, count, replace=False) for rows, count in zip(inside, number, strict=True)])
        weights = np.array([len(inside[stratum]) / number[stratum] for stratum in strata[chosen]])
        return truth[chosen], scores[chosen], scores, weights, strata[chosen]

    def powered(rng: np.random.Generator) -> tuple[float, float]:
        truth, predicted, pool, weights, strata = audit(rng)
        estimate = prediction_powered(truth, predicted, pool, weights, strata)
        return estimate.low, estimate.high

    def design_alone(rng: np.random.Generator) -> tuple[float, float]:
        truth, _, _, weights, strata = audit(rng)
        estimate = designed(truth, weights, strata)
        return estimate.low, estimate.high

    def unweighted(rng: np.random.Generator) -> tuple[float, float]:
        truth, *_ = audit(rng)
        return wilson(int(truth.sum()), len(truth))

    assert coverage(share, powered) >= LOW  # careful rather than sharp where nothing was found in a large stratum
    assert coverage(share, design_alone) >= LOW
    assert coverage(share, unweighted) < 0.5


@pytest.mark.parametrize(("share", "sensitivity", "specificity", "gold"), CORPORA)
def test_rogan_gladen_covers_with_gold_labels_of_another_corpus(share: float, sensitivity: float, specificity: float, gold: int) -> None:
    """The other corpus shows the behavior much more often, but the judge errs in the same way."""

    def corrected(rng: np.random.Generator) -> tuple[float, float]:
        _, scores = corpus(rng, share, sensitivity, specificity)
        truth, elsewhere = corpus(rng, 0.4, sensitivity, specificity, gold)
        errors = judge_errors(truth, elsewhere >= 0.5, np.ones(gold))
        assert errors is not None
        estimate = rogan_gladen(float(np.mean(scores >= 0.5)), len(scores), errors)
        assert estimate is not None
        return estimate.low, estimate.high

    assert LOW <= coverage(share, corrected) <= HIGH


def test_a_better_judge_gives_a_narrower_interval() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for sensitivity, specificity in ((0.55, 0.55), (0.8, 0.95), (0.99, 0.999)):
        truth, scores = corpus(rng, 0.1, sensitivity, specificity, 20_000)
        estimate = prediction_powered(truth[:400], scores[:400], scores)
        widths.append(estimate.high - estimate.low)
    assert widths[0] > 1.2 * widths[1] > 1.2 * 1.2 * widths[2]


def test_a_uniform_design_gives_what_ppi_py_gives() -> None:
    truth, scores = corpus(np.random.default_rng(2), 0.2, 0.8, 0.9)
    own = prediction_powered(truth[:500], scores[:500], scores, np.ones(500), np.zeros(500))
    library = prediction_powered(truth[:500], scores[:500], scores)
    assert own.value == pytest.approx(library.value, abs=1e-3)
    assert (own.low, own.high) == pytest.approx((library.low, library.high), abs=3e-3)


def test_rogan_gladen_gives_the_textbook_value_and_nothing_for_a_coin() -> None:
    estimate = rogan_gladen(0.14, 1000, Errors(0.8, 0.9, 1e9, 1e9))  # (.14 + .9 - 1) / (.8 + .9 - 1)
    assert estimate is not None and estimate.value == pytest.approx(0.04 / 0.7)
    assert rogan_gladen(0.5, 1000, Errors(0.5, 0.5, 50, 50)) is None
    assert judge_errors(np.ones(5), np.ones(5, dtype=bool), np.ones(5)) is None


def test_intervals_are_never_empty_where_nothing_was_found() -> None:
    low, high, effective = korn_graubard(0.0, 0.0, 100)
    assert low == 0 and high == pytest.approx(1 - 0.025**0.01) and effective == 100  # Clopper and Pearson for 0 of 100
    estimate = designed(np.zeros(50), np.ones(50), np.zeros(50))
    assert estimate.value == 0 and 0.05 < estimate.high < 0.1
    assert design_error(np.zeros(50), np.ones(50), np.zeros(50)) > 0
    assert kish(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)
