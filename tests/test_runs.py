"""The scripts in runs/: each parses, every command line is one that the commands take, the same line goes on, the demonstration reaches its report."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.helpers import ROOT
from tests.test_flags import SCRIPTS, app_of

# Stands in for every command: writes down how it was called, and leaves what the scripts look for.
RECORDER = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >>"$CALLS"
while [ $# -gt 0 ]; do
    if [ "$1" = --out ]; then case $2 in *.html) ;; *) mkdir -p "$2" && touch "$2/manifest.json" ;; esac; fi
    shift
done
"""
RUNS = {
    "learn_countdown.sh": {},
    "speedrun_cpu.sh": {},
    "study_cpu.sh": {},
    "study_gpu.sh": {},
    "study_gpu.sh small": {"SMALL": "1", "SEEDS": "1", "STEP_SECONDS": "60"},
}
SMALL = {"BASE_UPDATES": "2", "PRIMED_TRACES": "20", "PRIMED_UPDATES": "2", "PPO_STEPS": "2"}


def calls_of(script: str, folder: Path, times: int = 1, **environment: str) -> list[list[str]]:
    """The commands that a script gives, in order, as lists of words; a program run by accelerate counts as itself."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in (*SCRIPTS, "accelerate", "python"):
        (programs / name).write_text(RECORDER)
        (programs / name).chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CALLS": str(calls), **environment}
    for _ in range(times):
        done = subprocess.run(["sh", f"runs/{script}", str(folder / "out")], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = [shlex.split(line) for line in calls.read_text().splitlines()]
    for number, words in enumerate(found):
        if words[0] == "accelerate":
            place = words.index("-m")
            found[number] = [words[place + 1].partition(".")[0], *words[place + 2 :]]
    return found


@pytest.mark.parametrize("name", RUNS)
def test_every_command_line_is_one_that_the_commands_take(name: str, tmp_path: Path) -> None:
    calls = calls_of(name.split()[0], tmp_path, **RUNS[name])
    assert len(calls) >= 5
    for program, *arguments in calls:
        if program == "python":
            assert (ROOT / arguments[0]).is_file()
            continue
        group = typer.main.get_command(app_of(SCRIPTS[program]))
        command = group.commands[arguments[0]]  # type: ignore[attr-defined]
        command.make_context(f"{program} {arguments[0]}", arguments[1:])  # raises for an unknown option or a value of another type


def test_the_study_gives_every_seed_the_primary_pair_first_and_the_same_line_goes_on(tmp_path: Path) -> None:
    calls = calls_of("study_cpu.sh", tmp_path, times=2)
    runs = [tuple(Path(words[words.index("--out") + 1]).parts[-2:]) for words in calls if words[:2] == ["rl", "ppo"]]
    seeds = {f"seed-{seed}" for seed in range(1, 9)}
    for condition in ("all", "linear", "pairs-enriched", "pairs-control", "incorrect-all", "backtracking", "empty", "random-reward"):
        assert {seed for name, seed in runs if name == condition} == seeds
    assert len(runs) == len(set(runs)) == 64  # the second call finds every run finished
    odd = [run for run in runs if int(run[1][5:]) % 2]  # one of the two jobs
    assert {name for name, _ in odd[:8]} == {"all", "linear"} and {seed for _, seed in odd[:8]} == {f"seed-{n}" for n in (1, 3, 5, 7)}
    primed = [words for words in calls if words[:2] == ["rl", "prime"]]
    assert len(primed) == len({tuple(words) for words in primed})  # tables are written once


def test_a_folder_holds_the_runs_of_one_recipe(tmp_path: Path) -> None:
    calls_of("study_cpu.sh", tmp_path)
    with pytest.raises(AssertionError, match="was begun with another recipe"):
        calls_of("study_cpu.sh", tmp_path, PPO_STEPS="7")


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "runs").glob("*.sh")))
def test_a_script_parses(script):
    subprocess.run(["sh", "-n", ROOT / "runs" / script], check=True)


@pytest.mark.slow
def test_the_demonstration_reaches_its_report_and_repeats_nothing(tmp_path):
    environment = os.environ | SMALL | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["sh", ROOT / "runs" / "speedrun_cpu.sh", tmp_path / "out"]
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
