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

# Stands in for every command: writes down how it was called, and leaves what the scripts look for. PPO refuses a finished folder, as the
# real one does, and gives up where the test asks for it.
RECORDER = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >>"$CALLS"
case " $* " in *" ppo "*) ppo=1 ;; *) ppo= ;; esac
while [ $# -gt 0 ]; do
    if [ "$1" = --out ] && [ "$ppo" ]; then
        [ ! -e "$2/manifest.json" ] || exit 2
        mkdir -p "$2"
        case $2 in *"${GIVES_UP:-no run}") touch "$2/stopped.json" && exit 2 ;; esac
    fi
    case "$1 $2" in "--out "*"${FAILS:-no folder}") echo "error: no such sums" >&2 && exit 2 ;; esac
    if [ "$1" = --out ]; then case $2 in *.html) ;; *) mkdir -p "$2" && touch "$2/manifest.json" ;; esac; fi
    shift
done
"""
RUNS = {
    "learn_countdown.sh": {},
    "speedrun_cpu.sh": {},
    "study_cpu.sh": {},
    "study_gpu.sh": {},
    "study_gpu.sh small": {"SMALL": "1", "SEEDS": "1", "STEP_SECONDS": "300"},
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
    page = next(words for words in calls if words[:2] == ["evals", "report"])
    assert sum(words == "--sets" for words in page) == 8  # each seed's own
    primed = [words for words in calls if words[:2] == ["rl", "prime"]]
    assert len(primed) == len({tuple(words) for words in primed})  # tables are written once


@pytest.mark.parametrize("small", [{}, {"SMALL": "1", "STEP_SECONDS": "300"}])
def test_the_study_on_gpus_goes_on_past_finished_runs_and_one_that_gave_up(small: dict[str, str], tmp_path: Path) -> None:
    calls = calls_of("study_gpu.sh", tmp_path, times=2, GIVES_UP="control/seed-2", SEEDS="1 2 3", **small)
    runs = [words[words.index("--out") + 1] for words in calls if words[:2] == ["rl", "ppo"]]
    models = 1 if small else 2
    assert len(runs) == len(set(runs)) == models * 3 * 3
    drawn = {words[words.index("--seed") + 1]: words[words.index("--out") + 1] for words in calls if words[:2] == ["curate", "match"]}
    assert set(drawn) == {"1", "2", "3"}
    for words in calls:
        if words[:2] == ["train", "cpt"]:
            assert words[words.index("--data") + 1].startswith(drawn[words[words.index("--seed") + 1]] + "/")


def test_a_limit_of_time_ends_the_script_with_75_and_a_senseless_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, code in (("rl", "exit 75"), ("curate", ""), ("train", ""), ("evals", "")):
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    command = ["sh", "runs/study_gpu.sh", tmp_path / "out"]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SMALL": "1", "SETS": "sets", "STEP_SECONDS": "300"}
    (tmp_path / "out" / "tasks").mkdir(parents=True)
    (tmp_path / "out" / "tasks" / "manifest.json").touch()
    (tmp_path / "out" / "sets").mkdir()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "no sets in sets" in done.stderr
    environment["SETS"] = str(tmp_path / "out" / "tasks")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 75 and "run the same line again" in done.stderr
    done = subprocess.run(command, cwd=ROOT, env=environment | {"STEP_SECONDS": "200"}, capture_output=True, text=True)
    assert done.returncode == 2 and "too short" in done.stderr


def test_a_failed_run_is_named_and_the_other_job_comes_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)no such sums.*a run failed, see .*second\.log"):
        calls_of("study_cpu.sh", tmp_path, FAILS="base/4")
    calls = [shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines()]
    runs = {words[words.index("--out") + 1].rpartition("-")[2] for words in calls if words[:2] == ["rl", "ppo"]}
    assert {"1", "3", "5", "7"} <= runs and "6" not in runs and not any(words[0] == "evals" for words in calls)


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
