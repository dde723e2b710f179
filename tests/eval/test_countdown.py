"""Responses are made once, stored part by part, and every number follows from them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.frame import PROMPT
from curate.records.errors import UserError
from curate.records.manifest import read_manifest
from eval import countdown
from eval.accuracy import parallel, right_within
from eval.countdown import CountdownSettings, read_responses
from eval.model import Loaded
from rl.prompts import render
from rl.rollouts import prompts_for, score_response
from rl.scoring import score
from rl.settings import PPOSettings, resolve
from rl.tasks import read_tasks
from tests.rl.test_prime_sampling import bigram_model
from tests.rl.tiny import small_model, small_tasks
from train.model import load_tokenizer

SCHEMA = {"verdicts": pl.List(pl.Struct({"tokens": pl.Int32, "correct": pl.Boolean}))}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("countdown")
    return small_model(folder / "model"), small_tasks(folder / "tasks")


@pytest.fixture(scope="module")
def loaded(material, tmp_path_factory):
    return Loaded.load(settings(material, tmp_path_factory.mktemp("loaded")))


def settings(material, out, **changes) -> CountdownSettings:
    model, tasks = material
    given = {"model": str(model), "data": (tasks,), "out": out, "preset": "tiny", "max_response_tokens": 12, "tasks_per_part": 5}
    return CountdownSettings(**(given | changes))


def test_a_killed_evaluation_goes_on_and_ends_the_same(material, tmp_path, capsys):
    countdown.run(settings(material, tmp_path / "whole"))
    assert "pass@k" in capsys.readouterr().out
    whole = read_responses(tmp_path / "whole")
    assert whole.num_rows == 12 * 4 + 12
    shutil.copytree(tmp_path / "whole" / "responses", tmp_path / "part" / "responses")
    (tmp_path / "part" / "responses" / "set-0-sampled-0000005.parquet").unlink()
    kept = tmp_path / "part" / "responses" / "set-0-sampled-0000000.parquet"
    before = kept.stat().st_mtime_ns
    countdown.run(settings(material, tmp_path / "part"))
    assert read_responses(tmp_path / "part").equals(whole) and kept.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings .*seed: 0 -> 1"):
        countdown.run(settings(material, tmp_path / "part", seed=1))


TEXTS = [
    "1+2=3 yes\n<answer>1+2</answer>",
    "1+2=3",
    "<answer>1*2</answer>1+2=3 yes\n<answer>1+2</answer> 3",
    "<answer>1+2</answer>\n1,5=6: <answer>1+5</answer>",  # right, then another problem
    "<answer>1*2</answer> no <answer>2+1</answer> yes\n<answer>2</answer><answer>1+2</answer>",
    "<answer>1+2</answer></answer> <answer>1+",
    "Assistant: 3\n<answer>1+2</answer> Assistant: <answer>1</answer>\n 1",
]


@pytest.mark.parametrize("scorer", ["exact", "tinyzero"])
@pytest.mark.parametrize("template", ["short", "tinyzero"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_response_cut_at_a_budget_scores_as_its_prefix_does(loaded, text, template, scorer):
    tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    prompt = render(template, (1, 2), 3)
    loaded = replace(loaded, settings=replace(loaded.settings, scorer=scorer))
    found = pl.DataFrame({"verdicts": [loaded.verdicts(tokens, prompt, ((1, 2), 3))]}, schema=SCHEMA)
    for budget in range(len(tokens) + 1):
        prefix = loaded.tokenizer.decode(tokens[:budget])
        assert found.select(right_within(budget)).item() == score_response(prompt, prefix, (1, 2), 3, loaded.settings).correct


def test_right_and_then_another_problem_counts_within_the_budget_and_not_beyond(loaded):
    """As a base model answers: it goes on with a problem of its own, so that all of the response is wrong and its beginning right."""
    first, second = (
        loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("<answer>1+2</answer>", "5:<answer>5</answer>")
    )
    one, two = len(first), len(first) + len(second)
    right_then_wrong = loaded.verdicts(first + second, "", ((1, 2), 3))
    assert right_then_wrong == [{"tokens": one, "correct": True}, {"tokens": two, "correct": False}]
    wrong_then_right = loaded.verdicts(second + first, "", ((1, 2), 3))
    assert wrong_then_right == [{"tokens": len(second), "correct": False}, {"tokens": two, "correct": True}]
    rows = pl.DataFrame({"task": [0, 1], "verdicts": [right_then_wrong, wrong_then_right]}, schema={"task": pl.Int64, **SCHEMA})
    assert [parallel(rows, budget, [1])["best_of_1"] for budget in (one - 1, one, two - 1, two)] == [0, 0.5, 0.5, 0.5]
    assert rows.select(right_within(two))["verdicts"].to_list() == [False, True]


def test_the_numbers_of_a_run_are_those_of_its_responses(material, tmp_path, capsys):
    """A model that often answers twice: every budget by cutting the stored text, every share by counting."""
    model, tasks = bigram_model(tmp_path / "model"), tmp_path / "tasks.parquet"
    pq.write_table(pa.table({"numbers": [[1], [2], [3], [1, 2]] * 16, "target": [1, 2, 3, 3] * 16}), tasks)
    given = {"data": (tasks,), "model": str(model), "greedy": False, "max_response_tokens": 16, "budget_tokens": ("3", "6", "9")}
    countdown.run(settings(material, tmp_path / "out", **given))
    rows = read_responses(tmp_path / "out").to_pylist()
    (found,) = json.loads((tmp_path / "out" / countdown.SUMMARY).read_text())["sets"]
    tokenizer = load_tokenizer(str(model))
    changed = 0
    for row in rows:
        tokens = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        cut = {n: tokenizer.decode(tokens[:n]) for n in (3, 6, 9, 16)}
        row["right"] = {n: score(text, row["numbers"], row["target"]).correct for n, text in cut.items()}
        changed += any(row["right"].values()) and not row["correct"]
    assert changed > 2  # right, and then not: or the test shows nothing
    assert found["by_budget"] == {str(n): pytest.approx(np.mean([row["right"][n] for row in rows])) for n in (3, 6, 9, 16)}
    assert found["by_budget"]["16"] == found["sampled"]["accuracy"] == found["pass_at_k"]["1"]
    for operands, responses in ((1, 192), (2, 64)):
        group = [row["correct"] for row in rows if len(row["numbers"]) == operands]
        assert found["by_operands"][str(operands)]["responses"] == len(group) == responses
        assert found["by_operands"][str(operands)]["accuracy"] == pytest.approx(np.mean(group))
    assert found["by_operands"]["1"]["accuracy"] > found["by_operands"]["2"]["accuracy"] > 0


def test_numbers_by_hand():
    verdicts = [[{"tokens": 4, "correct": True}], [{"tokens": 9, "correct": True}], [{"tokens": 8, "correct": True}], []]
    rows = pl.DataFrame({"task": [0, 0, 1, 1], "verdicts": verdicts}, schema={"task": pl.Int64, **SCHEMA})
    assert parallel(rows, 10, [1, 2]) == {"budget_tokens": 10, "best_of_1": 0.75, "best_of_2": 0.5}
    assert parallel(rows, 16, [1, 2])["best_of_2"] == 1.0


def test_responses_of_another_model_or_other_tasks_are_refused(material, tmp_path):
    """The paths stay; what lies there is replaced, as a model that is trained again under its old name."""
    model, tasks = tmp_path / "model", tmp_path / "tasks"
    small_model(model)
    shutil.copytree(material[1], tasks)
    given = {"model": str(model), "data": (tasks,), "limit": 3, "greedy": False}
    countdown.run(settings(material, tmp_path / "out", **given))
    inputs = read_manifest(tmp_path / "out").inputs
    assert [Path(file.path).name for file in inputs][:2] == ["tasks.parquet", "model.safetensors"]
    small_model(model, seed=1)
    with pytest.raises(UserError, match=r"other settings \(model_sha256: 1 of \d gone, 1 new\); choose another --out") as refusal:
        countdown.run(settings(material, tmp_path / "out", **given))
    assert "\n" not in str(refusal.value)
    small_model(model)
    countdown.run(settings(material, tmp_path / "out", **given))
    small_tasks(tasks, num_test=11)
    with pytest.raises(UserError, match="other settings .*data_sha256"):
        countdown.run(settings(material, tmp_path / "out", **given))


def test_a_model_of_matched_sets_is_asked_in_its_own_frame(material, tmp_path):
    """`--template set` puts a task as `rl ppo --template set` does, which is how `curate match` frames its question."""
    tasks = read_tasks(material[1], "test")
    prompted, refused = Loaded.load(settings(material, tmp_path / "out", template="set", max_prompt_tokens=256)).prompts(tasks)
    ppo = resolve(PPOSettings(preset="tiny", template="set", max_prompt_tokens=256))
    tokenizer = load_tokenizer(str(material[0]))
    assert (prompted, refused) == prompts_for(tasks, ppo, tokenizer)
    (numbers, target) = tasks[0]
    assert prompted.texts[0] == PROMPT.format(question=f"{','.join(map(str, numbers))}={target}:")
    countdown.run(settings(material, tmp_path / "out", template="set", max_prompt_tokens=256, limit=2, greedy=False))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["template"] == "set"


def test_refused_prompts_are_counted(material, tmp_path):
    with pytest.raises(UserError, match="every prompt is longer"):
        countdown.run(settings(material, tmp_path / "none", max_prompt_tokens=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "--data is needed"),
        ({"budget_tokens": ("many",)}, "whole numbers of tokens"),
        ({"model": "/nowhere"}, "cannot load a tokenizer from /nowhere"),
    ],
)
def test_mistakes_are_one_line(material, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        countdown.run(settings(material, tmp_path / "out", **changes))


def test_a_checkpoint_without_a_tokenizer_is_refused(material, tmp_path):
    shutil.copytree(material[0], tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="has no tokenizer .*copy in the files"):
        countdown.run(settings(material, tmp_path / "out", model=str(tmp_path / "model")))


def test_responses_have_the_columns_of_rollouts(material, tmp_path):
    countdown.run(settings(material, tmp_path / "out", limit=3, greedy=False, samples_per_task=2))
    file = next((tmp_path / "out" / "responses").glob("*.parquet"))
    assert {"numbers", "target", "response", "correct", "reason", "truncated", "verdicts"} <= set(pq.read_schema(file).names)
    assert read_responses(tmp_path / "out").num_rows == 6
