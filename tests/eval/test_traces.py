"""Behaviors in responses: the parser's counts, a judge that sometimes gives no number, and usefulness at equal length."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records.errors import UserError
from eval import traces
from eval.traces import TracesSettings, usefulness
from tests.endpoint import Endpoint
from tests.rl.tiny import small_model, small_tasks

RESPONSES = ["2+3=5 no\n2*3=6 yes\n<answer>2*3</answer>", "2*3=6\n<answer>2*3</answer>", "I need 5 first: 2+3=5 no\n<answer>2+3</answer>"]


@pytest.fixture
def responses(tmp_path):
    rows = [
        {"numbers": [2, 3], "target": 6, "response": text, "task": 0, "correct": "2*3</" in text, "num_tokens": 9} for text in RESPONSES
    ]
    (tmp_path / "responses").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "responses" / "part.parquet")
    return tmp_path / "responses"


def summary(out):
    return next(iter(json.loads((out / traces.SUMMARY).read_text())["sources"].values()))


def test_counts_with_intervals(responses, tmp_path, capsys):
    traces.run(TracesSettings(responses=(responses,), out=tmp_path / "out"))
    found = summary(tmp_path / "out")
    assert found["counts"]["verification"] == {"mean": 1.0, "half_width": pytest.approx(2.484, abs=0.01), "share": pytest.approx(2 / 3)}
    assert found["counts"]["backtracking"]["mean"] == pytest.approx(1 / 3) and found["accuracy"] == pytest.approx(2 / 3)
    assert "only 1 tasks can tell" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out" / traces.TABLE)["attempts"].to_pylist() == [2, 1, 1]


def test_a_gate_on_tries_and_checks(responses, tmp_path):
    traces.run(TracesSettings(responses=(responses,), out=tmp_path / "a", require=("success_per_try=0.5", "checks_right=1")))
    assert summary(tmp_path / "a")["qualities"] == {"success_per_try": 0.5, "checks_right": 1.0, "arithmetic_right": 1.0}
    with pytest.raises(UserError, match="success_per_try is 0.500, --require asks for 0.51"):
        traces.run(TracesSettings(responses=(responses,), out=tmp_path / "b", require=("success_per_try=0.51",)))
    for wrong, message in (("checks_wrong=1", "no quality 'checks_wrong'"), ("checks_right", "not NAME=SHARE")):
        with pytest.raises(UserError, match=message):
            traces.run(TracesSettings(responses=(responses,), out=tmp_path / "c", require=(wrong,)))


def test_a_judge_without_a_number_is_counted_not_zero(responses, tmp_path, capsys):
    def answer(number, body):
        text = body["messages"][-1]["content"]
        checks = 2 if " no\n" in text else 0
        said = "I cannot say." if "stated intermediate goals" in text else f"so <count> {checks} </count>."
        message = {
            "choices": [{"message": {"content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 5},
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(message).encode()

    endpoint = Endpoint(fault=answer)
    traces.run(TracesSettings(responses=(responses,), out=tmp_path / "out", judge="openai", base_url=endpoint.url))
    found = summary(tmp_path / "out")["judge"]
    assert found["subgoal_setting"] == {"answered": 0, "unanswered": 3}
    assert found["verification"]["answered"] == 3 and found["verification"]["judge_mean"] == pytest.approx(4 / 3)
    assert found["verification"]["kappa"] == pytest.approx(1.0)
    assert "no answer held a number" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out" / traces.TABLE)["judge_subgoal_setting"].to_pylist() == [None] * 3


def simulated(effect: float, by_length: float, tasks: int = 150) -> list[dict]:
    """Responses whose success depends on the task, on a behavior (log odds `effect`) and on length (`by_length`), which go together."""
    generator = np.random.default_rng(0)
    rows = []
    for task in range(tasks):
        ability = generator.normal(0, 1.5)
        for _ in range(8):
            length = generator.normal(4, 0.5)
            shows = generator.random() < 1 / (1 + np.exp(-(length - 4) * 3))
            odds = ability + effect * shows + by_length * (length - 4)
            rows.append(
                {
                    "task": task,
                    "correct": bool(generator.random() < 1 / (1 + np.exp(-odds))),
                    "verification": int(shows),
                    "num_tokens": int(np.exp(length)),
                }
            )
    return rows


def test_usefulness_is_asked_at_equal_length():
    found = usefulness(simulated(effect=1.0, by_length=0.0), "verification")
    assert found["low"] < np.e < found["high"] and found["low"] > 1.3
    longer = usefulness(simulated(effect=0.0, by_length=2.0), "verification")  # length alone helps, and goes with the behavior
    assert longer["low"] < 1 < longer["high"]


def test_profiles_of_models(tmp_path):
    model, data = small_model(tmp_path / "model"), small_tasks(tmp_path / "tasks")
    traces.run(TracesSettings(models=(str(model),), data=data, preset="tiny", out=tmp_path / "out", limit=20))
    assert summary(tmp_path / "out")["responses"] == 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--responses"),
        ({"models": ("x",)}, "--data is needed"),
        ({"responses": ("nowhere",)}, "nowhere does not exist"),
        ({"responses": ("bad",)}, "has no column numbers"),
    ],
)
def test_mistakes_are_one_line(tmp_path, given, message):
    (tmp_path / "bad").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "bad" / "x.parquet")
    if "responses" in given:
        given = {"responses": (tmp_path / given["responses"][0],)}
    with pytest.raises(UserError, match=message):
        traces.run(TracesSettings(**given, out=tmp_path / "out"))
