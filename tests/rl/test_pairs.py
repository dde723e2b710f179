"""Two primed sets become pairs that `curate adopt` and `curate match` take, framed as the RL stage's prompt `set`."""

import json

import pyarrow.parquet as pq
import pytest

from curate.records.errors import UserError
from rl import arithmetic, pairs, prime, tasks
from rl.pairs import PairsSettings
from rl.prompts import render
from tests.helpers import curate, rows_of


@pytest.fixture(scope="module")
def primed(tmp_path_factory):
    """Folders of the task file, of a tiny model, and of three primed sets."""
    root = tmp_path_factory.mktemp("primed")
    tasks.run(tasks.TasksSettings(out=root / "tasks", operands=(3,), max_number=9, max_target=20, num_train=300, num_test=20, min_target=1))
    arithmetic.run(arithmetic.ArithmeticSettings(out=root / "base", num_documents=2, tiny_size="0.4M"))
    for kind, seed in (("all", 0), ("linear", 0), ("incorrect-all", 0), ("empty", 1)):
        prime.run(
            prime.PrimeSettings(
                **{"tasks": root / "tasks", "out": root / kind, "kind": kind, "seed": seed, "num_train": 80, "num_heldout": 0},
                **{"voice": "terse", "template": "short", "tokenizer": str(root / "base" / "start")},
            )
        )
    return root


def test_pairs_are_adopted_and_matched(primed, tmp_path):
    pairs.run(PairsSettings(selected=primed / "all", stripped=primed / "linear", out=tmp_path / "pairs"))
    table = pq.read_table(tmp_path / "pairs" / "pairs.parquet").to_pylist()
    assert [row["cell"] for row in table] == ["selected", "selected_stripped"] * 80
    assert all(row["verification"] == (row["cell"] == "selected") for row in table)
    for command in (
        f"adopt {tmp_path}/pairs/pairs.parquet --out {tmp_path}/qa",
        f"match --qa {tmp_path}/qa --tokenizer {primed}/base/start --out {tmp_path}/sets --similarity 0 --length-tolerance 1 "
        "--budget-tokens 2000 --tolerance 0.02",
    ):
        result = curate(*command.split())
        assert result.exit_code == 0, result.output
    balance = json.loads((tmp_path / "sets" / "balance.json").read_text())
    assert balance["examples"] > 10
    arms = {arm: rows_of(tmp_path / "sets" / arm) for arm in ("enriched", "control")}
    prompts = [[row["prompt"] for row in rows] for rows in arms.values()]
    assert prompts[0] == prompts[1]
    asked = pq.read_table(primed / "all" / "train" / "primed.parquet").to_pylist()
    assert set(prompts[0]) <= {render("set", row["numbers"], row["target"]) for row in asked}
    assert all("vs" in row["completion"] for row in arms["enriched"]) and not any("vs" in row["completion"] for row in arms["control"])


def test_sets_that_are_no_pair_are_refused(primed, tmp_path):
    for selected, stripped, message in (
        ("all", "empty", "not about the same tasks in the same order"),
        ("incorrect-all", "linear", "trace 0 of .* do not give the same right answer"),
        ("linear", "all", "shows backtracking, backward_chaining, subgoal_setting, verification"),
        ("tasks", "all", "is no output of `rl prime`"),
    ):
        with pytest.raises(UserError, match=message):
            pairs.run(PairsSettings(selected=primed / selected, stripped=primed / stripped, out=tmp_path / "out"))
        assert not (tmp_path / "out").exists()
