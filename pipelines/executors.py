"""Where a pipeline runs: datatrove's executors, watched from here through the ledger alone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from curate.records.errors import EngineError, FourHabitsError, UserError, output_error
from curate.records.progress import progress
from curate.records.settings import did_you_mean
from pipelines.ledger import Ledger
from pipelines.steps import clear_heartbeats, heartbeat_rows

POLL_SECONDS = 1.0
SLURM_POLL_SECONDS = 5.0
SLURM_DEFAULTS: dict[str, Any] = {
    "time": "24:00:00",
    "partition": None,
    "cpus_per_task": 8,
    "mem_per_cpu_gb": 4,
    "gpus_per_task": 1,
    "qos": "",
}
SLURM_KNOWN = (*SLURM_DEFAULTS, "job_name", "workers", "env_command", "max_array_size")


@dataclass(frozen=True)
class RunOptions:
    """`executor` local or slurm, `tasks` that share the work, `slurm` settings as name=value."""

    executor: str = "local"
    tasks: int = 1
    slurm: tuple[str, ...] = ()


def execute(pipeline: Sequence[Any], ledger: Ledger, options: RunOptions) -> None:
    """Run `pipeline` until every chunk of `ledger` has its part or its file has failed.

    Shows rows done, rate and time left. What tasks print goes to `logs/console.log` below the stage's folder. Raises the user's
    error that stopped a task, or EngineError with the log to read.
    """
    missing = ledger.missing()
    if not missing:
        return
    if options.tasks < 1:
        raise UserError("--tasks must be at least 1")
    try:
        (ledger.folder / "logs").mkdir(parents=True, exist_ok=True)
        clear_heartbeats(ledger.folder)
    except OSError as error:
        raise output_error(ledger.folder, error) from None
    runner = _run_slurm if options.executor == "slurm" else _run_local
    runner(list(pipeline), ledger, options)
    failed = ledger.failures()
    left = [chunk for chunk in ledger.missing() if f"{chunk.file.root}/{chunk.file.path}" not in failed]
    if left:
        logs = ledger.folder / "logs"
        raise EngineError(
            f"{len(left)} of {len(ledger.chunks)} chunks are not done; the tasks' logs are in {logs}; run the same command again"
        )


def _run_local(pipeline: list[Any], ledger: Ledger, options: RunOptions) -> None:
    from datatrove.executor.local import LocalPipelineExecutor

    tasks = min(options.tasks, len(ledger.missing()))
    executor = LocalPipelineExecutor(
        pipeline, tasks=tasks, workers=tasks, logging_dir=str(ledger.folder / "logs" / "local"), skip_completed=False
    )
    log = ledger.folder / "logs" / "console.log"
    with _output_to(log) as terminal, _watching(ledger, terminal):
        try:
            executor.run()
        except EngineError as error:
            raise EngineError(f"{error} (log: {log})") from error
        except FourHabitsError:
            raise
        except OSError as error:
            raise output_error(ledger.folder, error) from error
        except Exception as error:
            raise RuntimeError(f"a task failed; its log is {log}") from error


def _run_slurm(pipeline: list[Any], ledger: Ledger, options: RunOptions) -> None:
    from datatrove.executor.slurm import SlurmPipelineExecutor

    settings = _slurm_settings(options.slurm)
    logs = (ledger.folder / "logs" / f"slurm-{int(time.time())}").resolve()
    executor = SlurmPipelineExecutor(
        pipeline,
        tasks=min(options.tasks, len(ledger.missing())),
        logging_dir=str(logs),
        skip_completed=False,
        env_command=settings.pop("env_command", f'export PATH="{Path(sys.executable).parent}:$PATH"'),
        job_name=settings.pop("job_name", f"fourhabits-{ledger.stage}"),
        **settings,
    )
    log = ledger.folder / "logs" / "console.log"
    with _output_to(log) as terminal:
        try:
            executor.run()
        except FileNotFoundError:
            raise EngineError("sbatch is not on the PATH: submit from a Slurm login node, or use --executor local") from None
        except subprocess.CalledProcessError as error:
            raise EngineError(f"sbatch refused the job (exit code {error.returncode}); {log} has its message") from None
        print(f"Slurm job {executor.job_id}: logs in {logs}", file=terminal, flush=True)
        with _watching(ledger, terminal):
            while ledger.missing() and _slurm_lives(str(executor.job_id)):
                time.sleep(SLURM_POLL_SECONDS)


def _slurm_lives(job: str) -> bool:
    answer = subprocess.run(["squeue", "--noheader", "--jobs", job, "--format", "%T"], capture_output=True, text=True)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return True  # the controller is busy or restarting: ask again
    return bool(answer.stdout.strip())


def _slurm_settings(items: Sequence[str]) -> dict[str, Any]:
    settings = dict(SLURM_DEFAULTS)
    for item in items:
        name, equals, value = item.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in SLURM_KNOWN:
            raise UserError(
                f"--slurm {item!r} is not one of {', '.join(f'{known}=…' for known in SLURM_KNOWN)}{did_you_mean(name, SLURM_KNOWN)}"
            )
        settings[name] = int(value) if value.isdigit() else value
    if not settings["partition"]:
        raise UserError("--executor slurm needs --slurm partition=NAME")
    return settings


@contextmanager
def _watching(ledger: Ledger, terminal: TextIO) -> Iterator[None]:
    """Show progress from the files alone, so that it is the same for every executor and after a restart."""
    total = sum(chunk.num_rows for chunk in ledger.chunks)
    waiting = ledger.missing()
    done = total - sum(chunk.num_rows for chunk in waiting)
    stop = threading.Event()

    def watch() -> None:
        nonlocal waiting
        shown = done
        with progress(ledger.stage, total, unit="rows", done=done, stream=terminal) as advance:
            while True:
                last = stop.wait(POLL_SECONDS)
                waiting = [chunk for chunk in waiting if not ledger.is_done(chunk)]
                open_rows = 0 if last else heartbeat_rows(ledger.folder)
                now = min(total - sum(chunk.num_rows for chunk in waiting) + open_rows, total)
                if now > shown:
                    advance(now - shown)
                    shown = now
                if last:
                    return

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _output_to(path: Path) -> Iterator[TextIO]:
    """Send everything that this process and its children print to `path`; yields the terminal.

    Engines and datatrove log to the file descriptors themselves, from several processes: only the descriptors catch them all.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    terminal = os.fdopen(os.dup(2), "w")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for open_descriptor in (*saved, descriptor):
            os.close(open_descriptor)
        terminal.close()
