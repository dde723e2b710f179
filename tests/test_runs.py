"""The scripts of runs/ are whole: each parses, and the demonstration goes from nothing to its report, and goes on when called again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = Path(__file__).resolve().parents[1] / "runs"
SMALL = {"BASE_UPDATES": "2", "PRIMED_TRACES": "20", "PRIMED_UPDATES": "2", "PPO_STEPS": "2"}


@pytest.mark.parametrize("script", sorted(path.name for path in RUNS.glob("*.sh")))
def test_a_script_parses(script):
    subprocess.run(["sh", "-n", RUNS / script], check=True)


@pytest.mark.slow
def test_the_demonstration_reaches_its_report_and_repeats_nothing(tmp_path):
    environment = os.environ | SMALL | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", RUNS / "speedrun_cpu.sh", tmp_path / "out"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    logs = "".join(path.read_text() for path in (tmp_path / "out").glob("*.log"))
    assert done.returncode == 0, (done.stderr + logs)[-2000:]
    report = tmp_path / "out" / "report.html"
    assert "linear" in report.read_text()
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("evaluations.jsonl")}
    assert len(runs) == 2
    report.unlink()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert report.exists() and runs == {path: path.stat().st_mtime_ns for path in runs}
