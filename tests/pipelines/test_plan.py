"""`curate plan`: what it says before anything is spent comes true; nothing leaves this machine, and nothing large starts, unasked."""

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.consent import is_loopback
from curate.planning import Range, Rate, Workload, _total, measured_rate, table_rate
from curate.records.manifest import read_manifest
from tests.endpoint import Endpoint
from tests.helpers import ENGINE, classify, curate, documents, error_line, rows_of, write_jsonl
from tests.pipelines.runs import COMMAND, environment

FAR = ("--engine", "openai", "--model", "m", "--base-url", "https://endpoint.invalid/v1")


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


def long_documents(count: int) -> list[dict[str, Any]]:
    """Of 1 to 9 windows each."""
    return [
        {**row, "text": row["text"] + "\n\n" + "A line of mathematics, x = 1.\n\n" * (80 * (n % 9))}
        for n, row in enumerate(documents(count))
    ]


def planned(tmp_path: Path, *arguments: Any) -> list[dict[str, Any]]:
    result = curate("plan", *arguments, "--json-file", tmp_path / "plan.json")
    assert result.exit_code == 0, result.stderr
    return json.loads((tmp_path / "plan.json").read_text())


def test_documents_requests_and_money_are_those_of_the_run(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", [*long_documents(40), {"text": ""}])
    options = ("--dataset", corpus, *ENGINE, "--base-url", server.url, "--price-in", 3, "--price-out", 10, "--ask-above-dollars", 50)
    (stage,) = planned(tmp_path, *options, "--out", tmp_path / "labels")
    assert curate("classify", *options, "--out", tmp_path / "labels").exit_code == 0
    manifest = read_manifest(tmp_path / "labels")
    work = stage["work"]
    assert (
        work["documents"] == 41 and work["requests"]["low"] == work["requests"]["likely"] == manifest.notes["requests"]
    )  # few: all were read
    assert work["windows"]["likely"] == sum(row["num_windows"] for row in rows_of(tmp_path / "labels"))
    assert work["answer_tokens"]["likely"] == manifest.notes["requests"]
    expected = (work["prompt_tokens"]["likely"] * 3 + work["answer_tokens"]["likely"] * 10) / 1e6
    assert stage["dollars"]["likely"] == pytest.approx(expected) and stage["seconds"] is None
    assert "nothing is left to do" in curate("plan", *options, "--out", tmp_path / "labels").stdout
    size = sum(path.stat().st_size for path in (tmp_path / "labels" / "parts").glob("*"))
    assert size < stage["disk_bytes"]["high"] + 20_000  # a file's own overhead


def test_a_draw_of_documents_estimates_the_whole_with_an_interval(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", long_documents(900))
    true = sum(len(row["text"]) for row in long_documents(900))
    inside = 0
    for seed in range(12):
        (stage,) = planned(tmp_path, "--dataset", corpus, *ENGINE, "--base-url", server.url, "--seed", seed, "--chunk-rows", 20)
        characters = stage["work"]["characters"]
        assert characters["likely"] == pytest.approx(true, rel=0.5)
        inside += characters["low"] <= true <= characters["high"]
    assert inside >= 9


@pytest.mark.slow
def test_seconds_are_within_a_quarter_of_what_the_run_takes(tmp_path: Path) -> None:
    """An endpoint that answers in 120 ms on average, four requests at a time: 33 a second at the most, so that a busy machine hardly
    shows."""
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(70))
    with Endpoint(latency_seconds=0.12) as slow:
        options = ("--dataset", corpus, *ENGINE, "--base-url", slow.url, "--max-in-flight", 4)
        (stage,) = planned(tmp_path, *options, "--calibrate", 30)
        asked = len(slow.bodies)
        assert curate("classify", *options, "--out", tmp_path / "labels").exit_code == 0
    taken = read_manifest(tmp_path / "labels").seconds
    assert asked == 30 * 6 and taken > 70 * 6 * 0.12 / 4 * 0.8
    assert stage["seconds"]["likely"] == pytest.approx(taken, rel=0.25)
    assert stage["source"] == "timing 29 documents just now"
    (again,) = planned(tmp_path, *options, "--rate-from", tmp_path / "labels")
    assert again["seconds"]["likely"] == pytest.approx(taken, rel=0.25)
    (given,) = planned(tmp_path, *options, "--rate", 10)
    assert given["seconds"]["likely"] == pytest.approx(7, abs=2)


def test_the_student_is_timed_and_a_cascade_is_not(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", long_documents(40))
    (stage,) = planned(tmp_path, "--dataset", corpus, "--engine", "student", "--calibrate", 20)
    assert stage["source"] == "timing 19 documents just now" and 0 < stage["seconds"]["likely"] < 120
    assert not list(tmp_path.glob("**/parts"))
    (known,) = planned(tmp_path, "--dataset", corpus, "--engine", "student")
    assert "bench/plan_accuracy.py" in known["source"] and known["seconds"]["likely"] < 30
    assert known["work"]["requests"]["likely"] == 40 and known["work"]["prompt_tokens"]["high"] == 0
    result = curate("plan", "--dataset", corpus, "--engine", "cascade", "--calibrate", 20)
    assert result.exit_code == 2 and "time --engine student and --engine vllm on their own" in error_line(result)


def test_rates_that_say_nothing_are_refused(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(6))
    assert classify(server.url, tmp_path / "labels", "--dataset", corpus).exit_code == 0
    options = ("--dataset", corpus, "--engine", "openai", "--model", "other", "--base-url", server.url)
    result = curate("plan", *options, "--rate-from", tmp_path / "labels")
    assert result.exit_code == 2 and "with model 'fake', not 'other'" in error_line(result)
    result = curate("plan", *options, "--rate", 3, "--calibrate", 4)
    assert result.exit_code == 2 and "give one of them" in error_line(result)
    with Endpoint(fault=lambda number, body: (400, {}, b"{}")) as broken:
        result = curate("plan", *options[:-1], broken.url, "--calibrate", 4)
        assert result.exit_code == 4 and "so it cannot be timed" in error_line(result)


def test_the_table_names_its_sources_and_scales_by_parameters() -> None:
    known = table_rate("vllm", "Qwen/Qwen2.5-32B-Instruct", "fp8", "gpu")
    smaller = table_rate("vllm", "org/Other-8B-Instruct", "fp8", "gpu")
    assert known and smaller and known.new_tokens and smaller.new_tokens
    assert "not measured" in known.source and "scaled by parameters" in smaller.source
    assert smaller.new_tokens.likely == pytest.approx(known.new_tokens.likely * 4)
    assert table_rate("vllm", "no-size", None, "gpu") is None and table_rate("vllm", "org/Other-8B", None, "cpu") is None


def test_a_gpu_plan_counts_gpu_hours_and_later_stages(tmp_path: Path) -> None:
    """On a cluster: two tasks of two GPUs take the same GPU-hours and half of the time."""
    corpus = write_jsonl(tmp_path / "a.jsonl", long_documents(64))
    model = tmp_path / "Model-32B"
    model.mkdir()
    (model / "config.json").write_text("{}")
    options = ("--dataset", corpus, "--model", model, "--executor", "slurm", "--tensor-parallel-size", 2)
    one = planned(tmp_path, *options, "--selected-share", 0.25)
    two = planned(tmp_path, *options, "--tasks", 2)
    assert [stage["stage"] for stage in one] == ["classify", "rewrite", "verify"]
    assert one[1]["work"]["documents"] == 16 and one[2]["work"]["documents"] == 32
    assert all(stage["gpu_hours"]["low"] < stage["gpu_hours"]["likely"] < stage["gpu_hours"]["high"] for stage in one)
    assert two[0]["seconds"]["likely"] < one[0]["seconds"]["likely"]


def test_the_student_s_pace_stands_for_verifying_too_and_not_for_rewriting(tmp_path: Path) -> None:
    plan = planned(tmp_path, "--engine", "student", "--dataset", "sample", "--selected-share", 0.5)
    assert [stage["seconds"] is None for stage in plan] == [False, True, False]


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30), st.integers(0, 10**6))
@settings(deadline=None)
def test_intervals_hold_their_middle(values: list[float], documents: int) -> None:
    total = _total(np.array(values), documents)
    assert 0 <= total.low <= total.likely + 1e-6 and total.likely <= total.high + 1e-6
    rate = measured_rate(np.cumsum(np.array(values) + 0.1).tolist(), [100] * len(values), 0.0, "x").characters
    assert rate is not None and 0 < rate.low <= rate.likely <= rate.high


def test_a_rate_is_applied_to_its_unit() -> None:
    one = Range(10, 10, 10)
    work = Workload(10, one * 10, one, one * 6, one * 100, one * 50, one * 5)
    assert Rate("", characters=Range(1, 2, 4), startup_seconds=2).seconds(work) == Range(100 / 4 + 3, 100 / 2 + 3, 100 / 1 + 3)
    assert Rate("", documents=Range(5, 5, 5)).seconds(work).likely == 3
    assert Rate("", new_tokens=Range(100, 100, 100), answer_tokens=Range(10, 10, 10)).seconds(work).likely == 5 + 5 + 1


# --- consent


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:1/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://[::1]:80/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://localhost.evil.com/v1", False),
        ("http://0.0.0.0/v1", False),
        ("http://127.0.0.1@evil.com/v1", False),
        ("http://evil.com#@127.0.0.1/v1", False),
        ("localhost:1", True),  # no address at all: the engine refuses it
    ],
)
def test_only_this_machine_is_this_machine(url: str, own: bool) -> None:
    assert is_loopback(url) is own


@pytest.mark.slow
def test_no_text_leaves_unasked(server: Endpoint, tmp_path: Path) -> None:
    """Every command that could send a text, without a terminal and without --yes: one line, exit code 2, nothing begun."""
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(12))
    run = tmp_path / "run"
    near = (*ENGINE, "--base-url", server.url)
    assert curate("classify", "--dataset", corpus, *near, "--out", run / "labels").exit_code == 0
    assert curate("select", "--labels", run / "labels", "--out", run / "candidates").exit_code == 0
    assert curate("rewrite", "--candidates", run / "candidates", *near, "--out", run / "qa").exit_code == 0
    engines = ("--label-engine", "openai", "--rewrite-engine", "openai", *FAR[2:], "--tokenizer", "smollm2-135m")
    commands = {
        "classify": ("--dataset", corpus, *FAR),
        "frequencies": ("--dataset", corpus, *FAR),
        "sensitivity": ("--dataset", corpus, *FAR),
        "rewrite": ("--candidates", run / "candidates", *FAR),
        "verify": ("--qa", run / "qa", *FAR),
        "plan": ("--dataset", corpus, *FAR, "--calibrate", 4),
        "run": ("--dataset", corpus, *engines),
    }
    for name, options in commands.items():
        out = tmp_path / f"new-{name}"
        result = curate(name, *options, "--out", out)
        line = error_line(result)
        assert result.exit_code == 2 and "sent to https://endpoint.invalid/v1" in line and "agree with --yes" in line, (name, line)
        assert not out.exists()
    assert "plan of classify: 12 documents" in curate("classify", *commands["classify"], "--out", tmp_path / "x").stdout


def test_consent_is_not_replayed_from_a_manifest(tmp_path: Path, server: Endpoint) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(6))
    assert classify(server.url, tmp_path / "labels", "--dataset", corpus, "--yes").exit_code == 0
    assert "yes" not in read_manifest(tmp_path / "labels").settings
    result = curate("classify", "--from-manifest", tmp_path / "labels", "--base-url", FAR[-1], "--out", tmp_path / "again")
    assert result.exit_code == 2 and "agree with --yes" in error_line(result)


def test_money_and_time_above_a_threshold_are_asked_for(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(12))
    near = ("--dataset", corpus, *ENGINE, "--base-url", server.url, "--out", tmp_path / "labels")
    result = curate("classify", *near, "--price-in", 1000)
    assert result.exit_code == 2 and "are spent (more than --ask-above-dollars 1)" in error_line(result)
    assert curate("classify", *near, "--price-in", 1000, "--ask-above-dollars", 1000).exit_code == 0
    big = tmp_path / "Model-32B"
    big.mkdir()
    (big / "config.json").write_text("{}")
    slurm = ("classify", "--dataset", corpus, "--model", big, "--executor", "slurm", "--out", tmp_path / "big", "--ask-above-hours", 0.001)
    result = curate(*slurm)
    assert result.exit_code == 2 and "GPU-hours are taken (more than --ask-above-hours 0.001)" in error_line(result)
    assert not (tmp_path / "big").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "begun"), [("n\n", False), ("y\n", True)])
def test_at_a_terminal_it_is_asked_once(tmp_path: Path, answer: str, begun: bool) -> None:
    """A name that is not this machine's, although it leads here: agreeing lets the run begin (and fail to connect, in one line)."""
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(6))
    options = ["classify", "--dataset", corpus, *FAR, "--max-retries", 0, "--out", tmp_path / "out"]
    here, there = pty.openpty()
    command = [sys.executable, str(COMMAND), "never", "0", *map(str, options)]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environment(), close_fds=True)
    os.close(there)
    os.write(here, answer.encode())
    screen = ""
    while select.select([here], [], [], 60)[0]:
        try:
            screen += os.read(here, 1 << 16).decode()
        except OSError:
            break
    code = process.wait(60)
    assert screen.count("Go on? [y/N]") == 1
    assert code == (4 if begun else 2), screen
    assert (tmp_path / "out").exists() is begun and ("not agreed to" in screen) is not begun
