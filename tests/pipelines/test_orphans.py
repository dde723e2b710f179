"""Nothing that a run started outlives it, and a task that is killed alone is noticed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.endpoint import Endpoint
from tests.pipelines.runs import MODEL, environment, group_members, kill_group, rows_of, run, start, write_corpus

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only the Linux kernel ends children with their parent")
LIFELINE = """
import multiprocessing, os, sys, time
from curate.engines.lifeline import children_end_with_us
if __name__ == "__main__":
    with children_end_with_us():
        child = multiprocessing.get_context(sys.argv[1]).Process(target=time.sleep, args=(600,))
        child.start()
    print(child.pid, flush=True)
    time.sleep(600)
"""


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_end_with_a_killed_parent(tmp_path: Path, method: str) -> None:
    """Both ways in which vLLM starts its core."""
    program = tmp_path / "program.py"
    program.write_text(LIFELINE)
    process = subprocess.Popen(
        [sys.executable, str(program), method], env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        child = int(process.stdout.readline())
        assert child in group_members(process.pid)
        process.kill()
        process.wait()
        assert eventually(lambda: child not in group_members(process.pid))
    finally:
        kill_group(process)


@pytest.mark.slow
def test_killing_the_command_alone_ends_its_tasks(tmp_path: Path) -> None:
    with Endpoint(latency_seconds=0.5) as endpoint:
        command = ("classify", "--dataset", write_corpus(tmp_path / "corpus", 60), *MODEL, "--base-url", endpoint.url)
        process = start(*command, "--chunk-rows", 5, "--max-in-flight", 2, "--tasks", 2, "--out", tmp_path / "out")
        try:
            assert eventually(lambda: len(endpoint.bodies) > 4, 60)
            assert len(group_members(process.pid)) >= 4  # the command, the process that forks, two tasks
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert eventually(lambda: not group_members(process.pid)), group_members(process.pid)
        finally:
            kill_group(process)


@pytest.mark.slow
def test_a_task_that_is_killed_is_named_and_the_others_finish(tmp_path: Path) -> None:
    with Endpoint(latency_seconds=0.02) as endpoint:
        corpus = write_corpus(tmp_path / "corpus", 40)
        command = ("classify", "--dataset", corpus, *MODEL, "--base-url", endpoint.url, "--chunk-rows", 5, "--max-in-flight", 2)
        command += ("--out", tmp_path / "out", "--tasks", 2)
        process = start(*command)
        try:
            heartbeat = tmp_path / "out" / "logs" / "heartbeat-00000"
            assert eventually(heartbeat.exists, 60)
            victims = [pid for pid in group_members(process.pid) if _writes(pid, "task_00000.log")]
            assert len(victims) == 1
            os.kill(victims[0], signal.SIGKILL)
            output, _ = process.communicate(timeout=120)
        finally:
            kill_group(process)
        assert process.returncode == 4
        assert "task 0 was killed (SIGKILL" in output and "1 of 2 tasks stopped" in output
        assert output.count("error:") == 1 and "Traceback" not in output
        assert 20 <= len(rows_of(tmp_path / "out")) < 40  # the other task's share
        code, output = run(*command)
        assert code == 0, output
        assert len(rows_of(tmp_path / "out")) == 40


def _writes(process: int, name: str) -> bool:
    """Whether a process holds a file of this name open."""
    for link in Path(f"/proc/{process}/fd").glob("*"):
        try:
            if os.readlink(link).endswith(name):
                return True
        except OSError:
            continue
    return False
