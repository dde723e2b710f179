"""The warm start's traces are honest: results are right and small, checks are right, and giving up is all that is left to luck."""

import random
import re

import pyarrow.parquet as pq
import pytest

from curate.records.errors import UserError
from rl import tasks, traces
from rl.warmstart import WarmstartSettings, in_steps, random_expression, run

GAME = {"operands": (3,), "max_number": 9, "min_target": 1, "max_target": 20, "num_train": 200, "num_test": 20}


def test_results_are_small_and_larger_operands_come_first():
    generator = random.Random(0)
    for _ in range(500):
        hand = tuple(generator.randint(1, 30) for _ in range(4))
        worked = in_steps(random_expression(hand, generator, 30))
        for x, _, y, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", worked):
            assert int(x) >= int(y) and int(result) <= 30, worked


def test_traces_check_rightly_and_give_up_by_chance(tmp_path):
    tasks.run(tasks.TasksSettings(out=tmp_path / "tasks", **GAME))
    run(WarmstartSettings(out=tmp_path / "warm", tasks=tmp_path / "tasks", num_traces=3000, give_up=0.4, max_tries=5))
    rows = pq.read_table(tmp_path / "warm" / "primed" / "primed.parquet").to_pylist()
    train = set(tasks.read_tasks(tmp_path / "tasks", "train"))
    assert {(tuple(row["numbers"]), row["target"]) for row in rows} <= train
    failed, gave_up = 0, 0
    for row in rows:
        found = traces.parse(row["completion"], row["numbers"], row["target"])
        assert found.attempts == found.verification == row["attempts"] <= 5
        assert found.wrong_verification == found.wrong_arithmetic == 0
        assert row["correct"] == (found.fitting_attempts == 1)
        failed += min(found.backtracking + (not row["correct"]), 4)  # after the fifth there is no choice
        gave_up += not row["correct"] and found.attempts < 5
    assert 0.37 < gave_up / failed < 0.43


def test_numbers_that_no_try_could_hold_are_refused(tmp_path):
    tasks.run(tasks.TasksSettings(out=tmp_path / "tasks", **(GAME | {"max_number": 50, "max_target": 60})))
    with pytest.raises(UserError, match="--max-result"):
        run(WarmstartSettings(out=tmp_path / "warm", tasks=tmp_path / "tasks"))
