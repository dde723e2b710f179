"""Slurm: one array job of datatrove's, submitted with our settings, waited for, and taken up again by a repeated command.

The tasks tell nothing to the process that waits but what is in files: parts that exist, and one note for each task that stopped.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from curate.records.errors import EngineError, UserError
from curate.records.parts import write_json
from curate.records.settings import did_you_mean

FASTEST_POLL_SECONDS, SLOWEST_POLL_SECONDS = 1.0, 15.0
# What datatrove takes by name, and what goes into the script as `#SBATCH --name=value`.
KNOWN = (
    "partition", "time", "cpus_per_task", "mem_per_cpu_gb", "gpus_per_task", "qos", "job_name", "workers", "env_command", "max_array_size",
)  # fmt: skip
SBATCH_KNOWN = ("account", "comment", "constraint", "exclude", "gres", "licenses", "nice", "nodelist", "reservation")
JOB_FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """An array job: its number, its name (numbers are used again when a cluster forgets), and the folder of its logs."""

    id: str
    name: str
    logs: Path


class TaskArray(SlurmPipelineExecutor):
    """datatrove's executor, with a note for every task that stops, and no second job: it would wait for ever behind a failed task."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)
        except Exception as error:
            write_note(Path(self.logging_dir.path), rank, error)
            raise

    def launch_merge_stats(self) -> None:
        """Left to the process that waits."""


def settings_from(items: Sequence[str], gpus: int) -> dict[str, Any]:
    """What `--slurm name=value …` means, with defaults for an engine that drives `gpus` GPUs. Raises UserError."""
    values: dict[str, Any] = {
        "time": "24:00:00",
        "cpus_per_task": 8 if gpus else 2,
        "mem_per_cpu_gb": 4,
        "gpus_per_task": gpus,
        "qos": "",
    }
    sbatch: dict[str, Any] = {}
    known = (*KNOWN, *SBATCH_KNOWN)
    for item in items:
        name, equals, value = item.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in known:
            raise UserError(f"--slurm {item!r} is not one of {', '.join(f'{key}=…' for key in known)}{did_you_mean(name, known)}")
        (sbatch if name in SBATCH_KNOWN else values)[name] = int(value) if value.isdigit() else value
    if not values.get("partition"):
        raise UserError("--executor slurm needs --slurm partition=NAME")
    for name in ("cpus_per_task", "mem_per_cpu_gb", "gpus_per_task", "workers", "max_array_size"):
        if not isinstance(values.get(name, 0), int):
            raise UserError(f"--slurm {name}={values[name]} is not a whole number")
    return values | {"sbatch_args": sbatch}


def submit(pipeline: list[Any], tasks: int, logs: Path, stage: str, settings: dict[str, Any]) -> Job:
    """Submit `pipeline` as an array of `tasks`. Raises EngineError with Slurm's own words when it refuses."""
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        raise UserError("this is a task of a Slurm array already: submit from a login node, or use --executor local")
    settings = dict(settings)
    name = settings.pop("job_name", f"fourhabits-{stage}")
    executor = TaskArray(
        pipeline,
        tasks=tasks,
        logging_dir=str(logs),
        skip_completed=False,
        env_command=settings.pop("env_command", environment()),
        job_name=name,
        # Since Slurm 22.05 a step no longer takes the number of CPUs over from its job.
        srun_args={"cpus-per-task": settings["cpus_per_task"]},
        **settings,
    )
    console = logs.parent / "console.log"
    said_before = console.stat().st_size if console.exists() else 0
    try:
        executor.run()
    except FileNotFoundError:
        raise EngineError("sbatch is not on the PATH: submit from a Slurm login node, or use --executor local") from None
    except subprocess.CalledProcessError as error:
        said = re.findall(rb"^sbatch: error: (.*)$", console.read_bytes()[said_before:] if console.exists() else b"", re.MULTILINE)
        reason = said[-1].decode(errors="replace") if said else f"exit code {error.returncode}"
        raise EngineError(f"sbatch refused the job ({reason}); change it with --slurm; {console} has the whole message") from None
    job = Job(str(executor.job_id), name, logs)
    write_json(logs / JOB_FILE, {"id": job.id, "name": job.name})
    return job


def environment() -> str:
    """Shell lines by which a task finds this Python and, when it runs from a checkout, this code."""
    lines = [f'export PATH="{Path(sys.executable).parent}:$PATH"']
    root = Path(__file__).resolve().parents[1]
    if root.name not in ("site-packages", "dist-packages"):
        lines.append(f'export PYTHONPATH="{root}${{PYTHONPATH:+:$PYTHONPATH}}"')
    return "\n".join(lines)


def running_job(folder: Path) -> Job | None:
    """The job of an earlier call, when it is still queued or at work. `folder` holds one folder of logs a job."""
    for path in sorted(folder.glob(f"slurm-*/{JOB_FILE}"), reverse=True):
        try:
            raw = json.loads(path.read_text())
            job = Job(raw["id"], raw["name"], path.parent)
        except (OSError, ValueError, KeyError):
            continue
        if states(job):
            return job
    return None


def states(job: Job) -> Counter[str] | None:
    """Tasks of a job that has not ended by state, as `pending (Resources)`; empty when it has; None when Slurm does not say."""
    command = ["squeue", "--noheader", "--array", "--jobs", job.id, "--format", "%T|%r|%j"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    except FileNotFoundError:
        raise EngineError("squeue is not on the PATH: run this where Slurm's commands are") from None
    if answer.returncode:
        return Counter() if "Invalid job id" in answer.stderr else None  # else the controller is busy or restarting
    found: Counter[str] = Counter()
    for line in answer.stdout.splitlines():
        state, reason, name = line.split("|", 2)
        if name == job.name:
            found[f"{state.lower()} ({reason})" if state == "PENDING" and reason != "None" else state.lower()] += 1
    return found


def wait(job: Job, show: Callable[[str], None], all_done: Callable[[], bool]) -> None:
    """Return when the job has ended. Shows its states whenever they change; asks Slurm less and less often, and soon at the end."""
    shown, pause = "", FASTEST_POLL_SECONDS
    while True:
        found = states(job)
        if found is not None:
            if not found:
                return
            line = ", ".join(f"{count} {state}" for state, count in sorted(found.items()))
            if line != shown:
                show(f"Slurm job {job.id}: {line}")
                shown, pause = line, FASTEST_POLL_SECONDS
        time.sleep(FASTEST_POLL_SECONDS if all_done() else pause)
        pause = min(pause * 1.3, SLOWEST_POLL_SECONDS)


def write_note(logs: Path, rank: int, error: BaseException) -> None:
    """Say why a task stopped, for the process that waits. On a full disk nothing can be said; that process then names the log."""
    try:
        write_json(logs / "stopped" / f"{rank:05d}.json", {"error": type(error).__name__, "message": str(error)})
    except Exception as problem:
        print(f"no note left: {problem}", file=sys.stderr)


def read_notes(logs: Path) -> list[tuple[str, str]]:
    """(name of the exception, its message) for each task that left a note, by rank."""
    notes = [json.loads(path.read_text()) for path in sorted((logs / "stopped").glob("*.json"))]
    return [(note["error"], note["message"]) for note in notes]
