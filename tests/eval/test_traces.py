"""Behaviors in responses: the parser's counts, what is read and what is left out, each row accounted for."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records.errors import UserError
from curate.records.manifest import read_manifest
from eval import traces
from eval.traces import TracesSettings
from tests.helpers import real_data
from tests.rl.tiny import small_model, small_tasks

RESPONSES = ["2+3=5 no\n2*3=6 yes\n<answer>2*3</answer>", "2*3=6\n<answer>2*3</answer>", "I need 5 first: 2+3=5 no\n<answer>2+3</answer>"]


def rows(**changes):
    return [
        {"numbers": [2, 3], "target": 6, "response": text, "task": 0, "correct": "2*3</" in text, "num_tokens": 9} | changes
        for text in RESPONSES
    ]


def write(path, given, schema=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(given, schema), path)
    return path


@pytest.fixture
def responses(tmp_path):
    return write(tmp_path / "responses" / "part.parquet", rows()).parent


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


def test_greedy_responses_are_not_counted_with_sampled_ones(tmp_path, capsys):
    write(tmp_path / "r" / "set-0-sampled-0000000.parquet", rows())
    greedy = write(tmp_path / "r" / "set-0-greedy-0000000.parquet", rows()[:1])
    traces.run(TracesSettings(responses=(tmp_path / "r",), out=tmp_path / "r"))
    assert summary(tmp_path / "r")["responses"] == 3 and f"left out: {greedy}" in capsys.readouterr().out
    traces.run(TracesSettings(responses=(tmp_path / "r",), out=tmp_path / "r"))  # its own table lies there now
    assert summary(tmp_path / "r")["responses"] == 3
    assert read_manifest(tmp_path / "r").notes["files left out"] == [str(greedy), str(tmp_path / "r" / traces.TABLE)]
    traces.run(TracesSettings(responses=(greedy,), out=tmp_path / "out"))
    assert summary(tmp_path / "out")["responses"] == 1


def test_columns_that_only_some_files_or_sources_have_are_kept(tmp_path):
    bare = [{name: row[name] for name in ("numbers", "target", "response")} for row in rows()]
    write(tmp_path / "both" / "a.parquet", bare)
    write(tmp_path / "both" / "b.parquet", rows())
    first = write(tmp_path / "bare.parquet", bare)
    traces.run(TracesSettings(responses=(first, tmp_path / "both"), out=tmp_path / "out"))
    sources = json.loads((tmp_path / "out" / traces.SUMMARY).read_text())["sources"]
    assert "accuracy" not in sources[str(first)]
    assert sources[str(tmp_path / "both")]["accuracy"] == pytest.approx(2 / 3) and sources[str(tmp_path / "both")]["scored"] == 3
    table = pq.read_table(tmp_path / "out" / traces.TABLE)
    assert table["correct"].to_pylist() == [None] * 6 + [True, True, False] and table["num_tokens"].null_count == 6


def test_rows_without_a_response_are_counted(tmp_path, capsys):
    file = write(tmp_path / "r.parquet", [*rows(), rows()[0] | {"response": None}, rows()[0] | {"numbers": None}])
    traces.run(TracesSettings(responses=(file,), out=tmp_path / "out", limit=2))
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.rows_in, manifest.rows_out) == (5, 2)
    assert manifest.dropped == {"no response (null)": 1, "no numbers or no target (null)": 1, "not drawn (--limit)": 1}
    assert "dropped: 1 × no response (null)" in capsys.readouterr().out


def test_numbers_as_json_text(tmp_path):
    file = write(tmp_path / "r.parquet", rows(numbers="[2, 3]", task="train-7"))
    traces.run(TracesSettings(responses=(file,), out=tmp_path / "out"))
    assert summary(tmp_path / "out")["counts"]["attempts"]["mean"] == pytest.approx(4 / 3)
    table = pq.read_table(tmp_path / "out" / traces.TABLE)
    assert table["numbers"].to_pylist() == [[2, 3]] * 3 and table["task"].to_pylist() == ["train-7"] * 3


def test_traces_by_a_teacher_of_another_layout(tmp_path):
    file = real_data("countdown/teacher_traces_2k.parquet")
    traces.run(TracesSettings(responses=(file,), out=tmp_path / "out", limit=50))
    assert summary(tmp_path / "out")["counts"]["attempts"]["mean"] > 0.5


def test_profiles_of_models_in_their_own_frame(tmp_path):
    model, data = small_model(tmp_path / "model"), small_tasks(tmp_path / "tasks")
    given = {"models": (str(model),), "data": data, "preset": "tiny", "out": tmp_path / "out", "limit": 20}
    traces.run(TracesSettings(**given, template="set", max_prompt_tokens=256, max_response_tokens=16))
    assert summary(tmp_path / "out")["responses"] == 20
    assert read_manifest(tmp_path / "out" / "model-0").settings["template"] == "set"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--responses"),
        ({"models": ("x",)}, "--data is needed"),
        ({"responses": ("nowhere",)}, "nowhere does not exist"),
        ({"responses": ("bad.parquet",)}, "has no column numbers"),
        ({"responses": ("empty.parquet",)}, r"empty.parquet holds no responses \(its files have no rows\)"),
        ({"responses": ("null.parquet",)}, r"null.parquet holds no responses \(3 × no response \(null\)\)"),
        ({"responses": ("words.parquet",)}, "words.parquet: numbers 'two, three' are no list of whole numbers"),
        ({"responses": ("halves.parquet",)}, r"halves.parquet: numbers '\[0.5\]' are no list of whole numbers"),
        ({"responses": ("text.parquet",)}, "text.parquet: column target is string; a whole number is meant"),
        ({"responses": ("bad.parquet", "bad.parquet")}, "is named twice"),
        ({"responses": ("bad.parquet",), "template": "set"}, "--template means nothing without --models"),
        ({"responses": ("bad.parquet",), "judge_model": "x"}, "--judge-model means nothing without --judge"),
        ({"responses": ("bad.parquet",), "judge": "openai"}, "--base-url is needed"),
    ],
)
def test_mistakes_are_one_line(tmp_path, given, message):
    write(tmp_path / "bad.parquet", [{"x": 1}])
    write(tmp_path / "empty.parquet", [], pa.Table.from_pylist(rows()).schema)
    write(tmp_path / "null.parquet", rows(response=None))
    write(tmp_path / "words.parquet", rows(numbers="two, three"))
    write(tmp_path / "halves.parquet", rows(numbers=[0.5]))
    write(tmp_path / "text.parquet", rows(target="6"))
    if "responses" in given:
        given = given | {"responses": tuple(tmp_path / name for name in given["responses"])}
    with pytest.raises(UserError, match=message):
        traces.run(TracesSettings(**given, out=tmp_path / "out"))
