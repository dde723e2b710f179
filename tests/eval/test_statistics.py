"""The seed is the unit: exact small-sample values, and claims that too few seeds cannot support."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import statistics


def test_sign_flips_are_counted_exactly():
    values = [0.03, 0.05, -0.01, 0.04, 0.02, 0.06]
    observed = abs(np.mean(values))
    signs = list(itertools.product((-1, 1), repeat=6))
    expected = sum(abs(np.mean(np.array(values) * pattern)) >= observed - 1e-12 for pattern in signs) / len(signs)
    assert statistics.paired(values).p == pytest.approx(expected)


@pytest.mark.parametrize(("seeds", "reaches"), [(3, False), (5, False), (6, True), (8, True)])
def test_the_least_p_decides_how_many_seeds_a_claim_needs(seeds, reaches):
    best = statistics.paired([0.2 + 0.001 * seed for seed in range(seeds)])
    assert best.p == pytest.approx(best.least_p) == pytest.approx(2 / 2**seeds)
    assert (best.p < 0.05) is reaches and (seeds >= statistics.MIN_SEEDS) is reaches


def test_the_interval_covers_and_the_test_keeps_its_level():
    generator = np.random.default_rng(0)
    inside = rejected = 0
    for _ in range(400):
        found = statistics.paired(generator.normal(0.1, 0.05, 8))
        inside += found.low <= 0.1 <= found.high
        rejected += statistics.paired(generator.normal(0.0, 0.05, 8)).p < 0.05
    assert 0.92 <= inside / 400 <= 0.98 and rejected / 400 <= 0.08


def test_equivalence_needs_closeness_and_enough_certainty():
    tight = [0.001, -0.002, 0.0, 0.003, -0.001, 0.002]
    assert statistics.equivalence(tight, 0.05) < 0.001
    assert statistics.equivalence([value + 0.1 for value in tight], 0.05) > 0.9
    assert statistics.equivalence([0.2, -0.2, 0.15, -0.15], 0.05) > 0.05  # a mean of zero alone proves nothing
    assert statistics.equivalence([0.0] * 6, 0.05) == 0 and statistics.equivalence([0.1] * 6, 0.05) == 1


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(case):
    samples, correct, k = case
    expected = 1 - math.comb(samples - correct, k) / math.comb(samples, k)
    assert statistics.pass_at_k(correct, samples, k) == pytest.approx(expected)
