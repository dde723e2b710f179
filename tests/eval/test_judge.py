"""The judge: no number is no zero, a failure is no answer, nothing is paid for twice, and nothing is sent or spent unasked."""

import json

import pyarrow.parquet as pq
import pytest

from curate.records.errors import EngineError, UserError
from eval import judge, traces
from eval.traces import TracesSettings
from tests.endpoint import Endpoint, completion
from tests.eval.test_traces import rows, summary, write

REFUSED = (400, {}, b'{"error": {"message": "no model gpt-5o"}}')


def text_of(body):
    return body["messages"][-1]["content"]


def said(text):
    return 200, {}, json.dumps(completion(text=text)).encode()


def counted(number, body):
    return said("so <count> 1 </count>.")


@pytest.fixture
def responses(tmp_path):
    return write(tmp_path / "responses" / "part.parquet", rows()).parent


def run(responses, tmp_path, answer, **changes):
    """What the endpoint was asked."""
    with Endpoint(fault=answer) as endpoint:
        given = {"responses": (responses,), "out": tmp_path / "out", "judge": "openai", "base_url": endpoint.url}
        traces.run(TracesSettings(**(given | changes)))
    return [text_of(body) for body in endpoint.bodies]


def test_no_number_and_a_failure_are_counted_apart_and_never_zero(responses, tmp_path, capsys):
    def answer(number, body):
        text = text_of(body)
        if "stated intermediate goals" in text:
            return said("I cannot say.")
        if "steps from the target" in text and "I need" in text.partition("</attempt>")[0]:
            return REFUSED
        return said("so <count> 2 </count>." if " no\n" in text else "so <count> 0 </count>.")

    run(responses, tmp_path, answer)
    found = summary(tmp_path / "out")["judge"]
    assert found["subgoal_setting"] == {"answered": 0, "no_number": 3, "failed": 0, "cut_off": 0}
    assert found["verification"]["answered"] == 3 and found["verification"]["judge_mean"] == pytest.approx(4 / 3)
    assert found["verification"]["kappa"] == pytest.approx(1.0)
    backward = found["backward_chaining"]
    assert (backward["answered"], backward["no_number"], backward["failed"]) == (2, 0, 1)
    assert backward["last_failure"] == "HTTP 400: no model gpt-5o"
    shown = capsys.readouterr().out
    assert "subgoal_setting: no number at all; 3 answers without a number, 0 requests failed" in shown
    assert "1 requests failed, the last: HTTP 400: no model gpt-5o" in shown
    table = pq.read_table(tmp_path / "out" / traces.TABLE)
    assert table["judge_subgoal_setting"].to_pylist() == [None] * 3
    assert table["judge_subgoal_setting_problem"].to_pylist() == ["no number"] * 3


def test_a_judge_that_never_answers_is_an_error(responses, tmp_path, monkeypatch):
    with pytest.raises(EngineError, match="of 12 requests to the judge none was answered; the last: HTTP 400: no model gpt-5o"):
        run(responses, tmp_path, lambda number, body: REFUSED)
    assert not (tmp_path / "out" / traces.SUMMARY).exists()
    monkeypatch.setattr(judge, "HOPELESS", 5)
    with pytest.raises(EngineError, match="of 5 requests"):
        run(responses, tmp_path, lambda number, body: REFUSED, max_in_flight=1)


def test_a_budget_keeps_what_it_bought(responses, tmp_path):
    with pytest.raises(EngineError, match="the budget of 9 requests is used up.* 9 of 12 answers came and are stored in .*judge"):
        run(responses, tmp_path, counted, max_requests=9)
    assert len(run(responses, tmp_path, counted)) == 3
    assert summary(tmp_path / "out")["judge"]["verification"]["answered"] == 3
    assert run(responses, tmp_path, counted) == []
    with pytest.raises(UserError, match="was made with other settings.*choose another --out"):
        run(responses, tmp_path, counted, judge_model="another")
    file = sorted((tmp_path / "out" / "judge").glob("*[0-9a-f].json"))[0]
    file.write_text('{"answers": {"verification": {"text": 3}}}')
    with pytest.raises(UserError, match="is damaged: remove it"):
        run(responses, tmp_path, counted)


def test_the_same_response_is_asked_about_once(tmp_path):
    twice = write(tmp_path / "twice.parquet", rows()[:1] * 2)
    assert len(run(twice, tmp_path, counted)) == 4
    assert summary(tmp_path / "out")["judge"]["verification"]["answered"] == 2


def test_nothing_is_sent_or_spent_unasked(responses, tmp_path, capsys):
    with pytest.raises(UserError, match=r"3 responses are sent to https://judge.invalid/v1: agree with --yes"):
        run(responses, tmp_path, counted, base_url="https://judge.invalid/v1")
    with pytest.raises(UserError, match="what the models answer is sent to https://judge.invalid/v1: agree with --yes"):
        run(responses, tmp_path, counted, base_url="https://judge.invalid/v1", models=("none",), data=tmp_path)
    with pytest.raises(UserError, match=r"up to \$6.14 are spent \(more than --ask-above-dollars 1\)"):
        run(responses, tmp_path, counted, price_out=1000.0)
    assert "12 questions about 3 responses to gpt-4o-mini" in capsys.readouterr().out
    assert not (tmp_path / "out" / "judge").exists()
    assert len(run(responses, tmp_path, counted, price_out=1000.0, yes=True)) == 12
