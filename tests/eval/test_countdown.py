"""Responses are made once, stored part by part, and every number follows from them."""

import shutil

import polars as pl
import pyarrow.parquet as pq
import pytest

from curate.records.errors import UserError
from eval import countdown
from eval.countdown import CountdownSettings, parallel, read_responses
from eval.model import Loaded
from rl.rollouts import Rollout
from rl.samplers.base import Sample
from rl.scoring import score
from rl.traces import Trace
from tests.rl.tiny import small_model, small_tasks


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("countdown")
    return small_model(folder / "model"), small_tasks(folder / "tasks")


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


@pytest.mark.parametrize("text", ["1+2=3 yes\n<answer>1+2</answer>", "1+2=3", "<answer>1*2</answer>1+2=3 yes\n<answer>1+2</answer> 3"])
def test_a_response_cut_at_a_budget_scores_as_its_prefix_does(material, tmp_path, text):
    loaded = Loaded.load(settings(material, tmp_path / "out"))
    tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    sample = Sample(tokens, [0.0] * len(tokens), True, 0)
    (item,) = [Rollout(0, 0, 0, sample, text, score(text, (1, 2), 3), Trace())]
    reached = loaded.tokens_to_answer(item)
    for budget in range(1, len(tokens) + 1):
        prefix = loaded.tokenizer.decode(tokens[:budget])
        assert (item.score.correct and reached <= budget) == score(prefix, (1, 2), 3).correct


def test_numbers_by_hand():
    rows = pl.DataFrame({"task": [0, 0, 1, 1], "correct": [True, True, True, False], "tokens_to_answer": [4, 9, 8, 3]})
    assert parallel(rows, 10, [1, 2]) == {"budget_tokens": 10, "best_of_1": 0.75, "best_of_2": 0.5}
    assert parallel(rows, 16, [1, 2])["best_of_2"] == 1.0


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
    assert {"numbers", "target", "response", "correct", "reason", "truncated", "tokens_to_answer"} <= set(pq.read_schema(file).names)
    assert read_responses(tmp_path / "out").num_rows == 6
