"""A real sbatch, not a fake: four tasks give the rows of a local run, and what goes wrong in a task is told where it was submitted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from curate.classification import ClassifySettings
from curate.engines.models import has_gpu, resolve_model
from curate.records.errors import EngineError, UserError
from curate.records.manifest import Manifest, read_manifest
from pipelines.classify import classify
from pipelines.executors import RunOptions
from pipelines.slurm import environment, settings_from
from tests.endpoint import Endpoint
from tests.pipelines.runs import MODEL, parts_of, rows_of, run, start, write_corpus
from tests.pipelines.slurm import PARTITION, Cluster, cluster

__all__ = ["cluster"]  # the fixture
ROWS, CHUNK_ROWS, QUESTIONS = 24, 2, 6
SMALL = ("--slurm", f"partition={PARTITION}", "--slurm", "cpus_per_task=1", "--slurm", "mem_per_cpu_gb=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("slurm") / "corpus", ROWS)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def local(corpus: Path, endpoint: Endpoint) -> Manifest:
    """The manifest of a run on this machine, beside the corpus."""
    settings = ClassifySettings(
        engine="openai", model="fake", base_url=endpoint.url, dataset=(str(corpus),), out=corpus.parent / "local", chunk_rows=CHUNK_ROWS
    )
    return classify(settings)


def submitted(corpus: Path, url: str, tasks: int, *more: object) -> tuple[object, ...]:
    """`curate classify` on the cluster. The output folder is relative: tasks must find it from where they are started."""
    options = ("--chunk-rows", CHUNK_ROWS, "--executor", "slurm", "--tasks", tasks, *SMALL, "--out", "labels", *more)
    return ("classify", "--dataset", corpus, *MODEL, "--base-url", url, *options)


def wait_for_requests(endpoint: Endpoint, number: int) -> None:
    deadline = time.monotonic() + 60
    while len(endpoint.bodies) < number and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(endpoint.bodies) >= number


@pytest.mark.slow
def test_four_tasks_give_the_rows_of_a_local_run(
    cluster: Cluster, corpus: Path, endpoint: Endpoint, local: Manifest, tmp_path: Path
) -> None:
    code, output = run(*submitted(corpus, endpoint.url, 4), cwd=tmp_path, env=cluster.env)
    assert code == 0, output
    out = tmp_path / "labels"
    rows = rows_of(out)
    assert len({(row["file_sha256"], row["source_row"]) for row in rows}) == len(rows) == ROWS
    assert rows == rows_of(corpus.parent / "local")
    found = read_manifest(out)
    for name in ("rows_in", "rows_made", "rows_out", "dropped", "errors", "tokens", "notes", "inputs", "prompt_hash"):
        assert getattr(found, name) == getattr(local, name), name

    [logs] = (out / "logs").glob("slurm-*")
    assert str(logs) in output
    assert len(list((logs / "slurm_logs").glob("*.out"))) == 4
    assert (logs / "stats.json").stat().st_size
    program = Path(sys.executable).with_name("jobs_status")
    shown = subprocess.run([program, out / "logs"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "300"})
    assert "4/4 (100%) completed tasks" in shown.stdout and "Could not" not in shown.stdout, shown.stdout
    assert not cluster.ask("squeue", "--noheader"), "something is left in the queue"


@pytest.mark.slow
def test_a_task_that_fails_is_told_with_its_reason_and_log(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    down = "http://127.0.0.1:9/v1"
    code, output = run(*submitted(corpus, down, 2, "--max-retries", 0), cwd=tmp_path, env=cluster.env)
    assert code == 4, output
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    [logs] = (tmp_path / "labels" / "logs").glob("slurm-*")
    assert line.startswith(f"error: {down}: ConnectError") and line.endswith(f"(2 of 2 tasks stopped; log: {logs})"), line
    assert any("ConnectError" in path.read_text() for path in (logs / "slurm_logs").glob("*.out"))
    assert not cluster.ask("squeue", "--noheader"), "something waits behind the failed job for ever"
    assert not list((tmp_path / "labels" / "parts").glob("*"))


@pytest.mark.slow
def test_a_killed_command_finds_its_job_again(cluster: Cluster, corpus: Path, local: Manifest, tmp_path: Path) -> None:
    with Endpoint(latency_seconds=0.1) as slow:
        command = submitted(corpus, slow.url, 2, "--max-in-flight", 2)
        process = start(*command, cwd=tmp_path, env=cluster.env)
        wait_for_requests(slow, 10)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        code, output = run(*command, cwd=tmp_path, env=cluster.env)
        assert code == 0, output
        assert "of an earlier call is still there" in output
        assert len(slow.bodies) == (ROWS - 1) * QUESTIONS, "the work was given out twice"
    assert rows_of(tmp_path / "labels") == rows_of(corpus.parent / "local")


@pytest.mark.slow
def test_a_task_that_is_killed_leaves_whole_chunks(cluster: Cluster, corpus: Path, local: Manifest, tmp_path: Path) -> None:
    """What the others did is kept, and the rest may be done anywhere: here on this machine."""
    with Endpoint(latency_seconds=0.05) as slow:
        command = submitted(corpus, slow.url, 2, "--max-in-flight", 2)
        process = start(*command, cwd=tmp_path, env=cluster.env)
        wait_for_requests(slow, 30)
        [task] = [name for name in cluster.ask("squeue", "--noheader", "--array", "--format", "%i").split() if name.endswith("_1")]
        cluster.ask("scancel", "--signal=KILL", "--full", task)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 4, output
        assert f"chunks are not done; the tasks' logs are in {Path('labels/logs')}" in output
        kept = parts_of(tmp_path / "labels")
        assert ROWS // CHUNK_ROWS // 2 <= len(kept) < ROWS // CHUNK_ROWS
        code, output = run(*command, "--executor", "local", "--tasks", 1, cwd=tmp_path)
        assert code == 0, output
    assert rows_of(tmp_path / "labels") == rows_of(corpus.parent / "local")
    assert {name: content for name, content in parts_of(tmp_path / "labels").items() if name in kept} == kept


@pytest.mark.slow
def test_what_slurm_refuses_is_said_in_its_words(cluster: Cluster, corpus: Path, endpoint: Endpoint, tmp_path: Path) -> None:
    for setting, words in (("partition=elsewhere", "Invalid partition"), ("gpus_per_task=1", "Invalid generic resource")):
        code, output = run(*submitted(corpus, endpoint.url, 2, "--slurm", setting), cwd=tmp_path, env=cluster.env)
        assert code == 4, output
        assert words in output and output.count("error:") == 1, output


def test_only_an_engine_on_gpus_asks_for_gpus() -> None:
    def asked(**values: object) -> dict:
        options = RunOptions.of(ClassifySettings(executor="slurm", slurm=("partition=a",), **values))  # type: ignore[arg-type]
        return settings_from(options.slurm, options.gpus)

    assert asked()["gpus_per_task"] == 1
    assert asked(tensor_parallel_size=4)["gpus_per_task"] == 4
    assert asked(model="smollm2-135m")["gpus_per_task"] == 0
    assert (asked(engine="openai")["gpus_per_task"], asked(engine="openai")["cpus_per_task"]) == (0, 2)


def test_slurm_settings_are_checked_before_anything_is_submitted() -> None:
    assert settings_from(["partition=a", "account=math", "mem-per-cpu-gb=2"], 0)["sbatch_args"] == {"account": "math"}
    for items, words in (
        (["time=1:00"], "needs --slurm partition=NAME"),
        (["partition=a", "acount=x"], "did you mean 'account'"),
        (["partition=a", "cpus_per_task=many"], "not a whole number"),
    ):
        with pytest.raises(UserError, match=words):
            settings_from(items, 0)


def test_tasks_find_this_python_and_this_checkout() -> None:
    assert f'PATH="{Path(sys.executable).parent}:' in environment()
    assert f'PYTHONPATH="{Path(__file__).resolve().parents[2]}' in environment()


@pytest.mark.skipif(has_gpu(), reason="about a machine without a GPU, and this one has one")
def test_a_login_node_without_gpu_may_submit_a_large_model(tmp_path: Path) -> None:
    model = tmp_path / "Large-32B"
    model.mkdir()
    (model / "config.json").write_text("{}")
    assert resolve_model(str(model), here=False).location == str(model)
    with pytest.raises(EngineError, match="needs a GPU"):
        resolve_model(str(model))
