"""Intervals of an accuracy over tasks with several responses each: between Wilson's of the tasks and Wilson's of the responses."""

import numpy as np
import polars as pl
import pytest

from eval.accuracy import clustered_wilson, share
from rl.evaluate import wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_newcombe_1998(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-4)


def test_without_trials_a_share_may_be_anything():
    assert wilson(0, 0) == (0, 1)


def test_nothing_right_and_everything_right_have_the_width_of_the_tasks():
    """A t interval over tasks collapses here: [0, 0] of 4,096 responses to 1,024 tasks."""
    four = np.full(1024, 4)
    assert clustered_wilson(0 * four, four) == wilson(0, 1024)
    assert wilson(0, 1024) == pytest.approx((0, 0.003737), abs=1e-6)
    assert clustered_wilson(four, four) == pytest.approx(wilson(1024, 1024))
    assert clustered_wilson(np.array([3]), np.array([4])) == wilson(0.75, 1)  # one task: its responses say nothing of others


@pytest.mark.parametrize("right", [0, 1, 7, 50])
def test_one_response_a_task_is_plain_wilson(right):
    rows = pl.DataFrame({"task": range(50), "correct": [place < right for place in range(50)]})
    found = share(rows)
    assert (found["low"], found["high"]) == pytest.approx(wilson(right, 50)) and found["responses"] == 50


def test_independent_responses_count_each_and_copies_count_once():
    generator = np.random.default_rng(0)
    four = np.full(5000, 4)
    independent = generator.binomial(4, 0.3, 5000)
    assert clustered_wilson(independent, four) == pytest.approx(wilson(independent.sum(), 20000), abs=4e-4)
    copies = 4 * generator.binomial(1, 0.3, 5000)
    assert clustered_wilson(copies, four) == pytest.approx(wilson(copies.sum() / 4, 5000))


def test_deff_by_hand():
    """Tasks with 4, 2, 2, 0 right of 4: between-task variance 4/3 * 8 / 256 = 1/24, of independent responses 1/64, so n = 16 * 24 / 64."""
    assert clustered_wilson(np.array([4, 2, 2, 0]), np.full(4, 4)) == pytest.approx(wilson(3, 6))
    assert clustered_wilson(np.array([2, 2, 2, 2]), np.full(4, 4)) == wilson(8, 16)  # more alike than independent: no more than all


@pytest.mark.parametrize("mean", [0.005, 0.05, 0.4])
@pytest.mark.parametrize("alike", [0.5, 4.0])
def test_intervals_cover(mean, alike):
    """Tasks whose chances differ (beta, `alike` its two parameters' sum): 95 % intervals hold the truth in at least 93 % of 1,000 draws."""
    generator = np.random.default_rng(1)
    four, held = np.full(250, 4), 0
    for _ in range(1000):
        low, high = clustered_wilson(generator.binomial(4, generator.beta(mean * alike, (1 - mean) * alike, 250)), four)
        held += low <= mean <= high
    assert held >= 930
