"""Usefulness: within a task, at equal length, whatever the shape of length's effect, however many responses a task has."""

import numpy as np
import pytest

from eval import traces
from eval.traces import TracesSettings
from eval.usefulness import conditional_logit, usefulness
from tests.eval.test_traces import summary, write


def logistic(value):
    return 1 / (1 + np.exp(-value))


def simulated(effect=0.0, of_length=lambda length: 0.0, tasks=150, each=8, seed=0) -> list[dict]:
    """Success depends on the task, on a behavior (log odds `effect`) and on log length about 4 (`of_length`); long responses show it."""
    generator = np.random.default_rng(seed)
    rows = []
    for task in range(tasks):
        ability = generator.normal(0, 1.5)
        for _ in range(each):
            length = generator.normal(4, 0.5)
            shows = generator.random() < logistic((length - 4.4) * 6)
            right = generator.random() < logistic(ability + effect * shows + of_length(length - 4))
            row = {"file": "a", "step": 0, "numbers": [task, 1], "target": 1, "correct": bool(right), "truncated": False}
            rows.append(row | {"verification": int(shows), "num_tokens": int(np.exp(length))})
    return rows


def test_an_effect_is_found():
    found = usefulness(simulated(effect=1.0), "verification")
    assert 1 < found["low"] < np.e < found["high"]


@pytest.mark.parametrize(
    "of_length",
    [lambda x: 2 * x, lambda x: -3 * x * x, lambda x: -6 * (x > 0.4), lambda x: -6 * (x - 0.2) ** 2],
    ids=["rising", "best in the middle", "falling at a length", "best beyond the middle"],
)
def test_length_alone_is_no_effect(of_length):
    covered = 0
    for seed in range(5):
        found = usefulness(simulated(of_length=of_length, seed=seed), "verification")
        covered += found["low"] < 1 < found["high"]
    assert covered >= 4


def test_responses_that_were_cut_off_have_no_known_length():
    rows = simulated(effect=1.0)
    cut = [row | {"truncated": True, "correct": False, "verification": 1, "num_tokens": 90} for row in rows[::4]]
    with_cut, without = usefulness(rows + cut, "verification"), usefulness(rows, "verification")
    assert with_cut["cut_off"] == len(cut) and with_cut["odds_ratio"] == without["odds_ratio"]


def test_two_sets_with_the_same_task_numbers_are_not_mixed(tmp_path):
    """One set is hard and shows the behavior seldom, the other easy and often: inside a task the two have nothing to do with each other."""
    generator = np.random.default_rng(0)
    check = {True: "2+3=5 no\n", False: ""}
    for place, (often, easy) in enumerate([(0.1, 0.15), (0.9, 0.85)]):
        found = [
            {"numbers": [task, 3 + place], "target": 6, "response": check[bool(generator.random() < often)], "task": task, "step": 0}
            | {"correct": bool(generator.random() < easy), "num_tokens": 9, "truncated": False}
            for task in range(150)
            for _ in range(4)
        ]
        write(tmp_path / "r" / f"set-{place}-sampled-0000000.parquet", found)
    traces.run(TracesSettings(responses=(tmp_path / "r",), out=tmp_path / "out"))
    found = summary(tmp_path / "out")["usefulness"]["verification"]
    assert found["low"] < 1 < found["high"] < 4


def test_the_conditional_likelihood_is_that_of_statsmodels():
    from statsmodels.discrete.conditional_models import ConditionalLogit

    generator = np.random.default_rng(1)
    sizes = generator.integers(2, 9, 60)
    groups = np.repeat(np.arange(60), sizes)
    features = generator.normal(size=(len(groups), 3))
    right = generator.random(len(groups)) < logistic(features @ [0.8, -0.5, 0.2] + generator.normal(size=60)[groups])
    theirs = ConditionalLogit(right.astype(int), features, groups=groups).fit(disp=False, method="newton")
    assert conditional_logit(right, features, sizes) == pytest.approx((theirs.params[0], theirs.bse[0]), rel=1e-4)


def test_many_responses_a_task_and_what_cannot_be_told():
    found = usefulness(simulated(effect=1.0, tasks=12, each=400), "verification")
    assert 1 < found["low"] < np.e < found["high"]
    rows = simulated(tasks=40)
    perfect = [row | {"verification": int(row["correct"])} for row in rows]  # its odds have no bound
    as_length = [row | {"verification": n % 2, "num_tokens": 9 + n % 2} for n, row in enumerate(rows)]
    for given in (perfect, as_length, rows[:40]):
        assert usefulness(given, "verification")["odds_ratio"] is None
