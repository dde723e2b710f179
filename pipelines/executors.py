"""Where a pipeline runs: datatrove's executors, watched from here through the ledger alone."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from curate.engines.lifeline import children_end_with_us, end_with_parent
from curate.engines.models import EMBEDDED
from curate.records import errors
from curate.records.errors import EngineError, FourHabitsError, UserError, output_error
from curate.records.progress import progress
from pipelines.ledger import Ledger
from pipelines.steps import clear_heartbeats, heartbeat_rows

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 10.0  # for tasks to end after they were asked to


@dataclass(frozen=True)
class RunOptions:
    """`executor` local or slurm, `tasks` that share the work, `slurm` settings as name=value, `gpus` that one task drives."""

    executor: str = "local"
    tasks: int = 1
    slurm: tuple[str, ...] = ()
    gpus: int = 0

    @classmethod
    def of(cls, settings: Any) -> "RunOptions":
        """The options among a stage's settings. Only the vllm engine drives GPUs, and not with the embedded model."""
        engine = settings.cascade_engine if settings.engine == "cascade" else settings.engine
        on_gpus = engine == "vllm" and settings.model != EMBEDDED
        return cls(settings.executor, settings.tasks, settings.slurm, settings.tensor_parallel_size if on_gpus else 0)


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
        if options.executor == "slurm":
            _run_slurm(list(pipeline), ledger, options)
        elif (tasks := min(options.tasks, len(missing))) == 1:
            _run_here(list(pipeline), ledger)
        else:
            _run_local(list(pipeline), ledger, tasks)
    except OSError as error:
        raise output_error(ledger.folder, error) from error
    left = _left(ledger)
    if left:
        logs = ledger.folder / "logs"
        raise EngineError(
            f"{len(left)} of {len(ledger.chunks)} chunks are not done; the tasks' logs are in {logs}; run the same command again"
        )


def _left(ledger: Ledger) -> list[Any]:
    """Chunks that are neither done nor of a file that failed."""
    failed = ledger.failures()
    return [chunk for chunk in ledger.missing() if f"{chunk.file.root}/{chunk.file.path}" not in failed]


def _new_logs(ledger: Ledger, kind: str) -> Path:
    """A folder in datatrove's layout for this call: in one of an earlier call, with other tasks, jobs_status would count both."""
    return ledger.folder / "logs" / f"{kind}-{time.time_ns() // 10**6}"


def _local_executor(pipeline: list[Any], logs: Path, tasks: int, rank: int | None = None) -> Any:
    from datatrove.executor.local import LocalPipelineExecutor

    one = {} if rank is None else {"local_tasks": 1, "local_rank_offset": rank}
    return LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(logs), skip_completed=False, **one)


def _run_here(pipeline: list[Any], ledger: Ledger) -> None:
    """One task, in this process: engines that are kept loaded between stages are used."""
    log = ledger.folder / "logs" / "console.log"
    with _output_to(log) as terminal, _watching(ledger, terminal), children_end_with_us():
        try:
            _local_executor(pipeline, _new_logs(ledger, "local"), tasks=1).run()
        except EngineError as error:
            raise EngineError(f"{error} (log: {log})") from error
        except (FourHabitsError, OSError):
            raise
        except Exception as error:
            raise RuntimeError(f"a task failed; its log is {log}") from error


def _run_local(pipeline: list[Any], ledger: Ledger, tasks: int) -> None:
    """Several tasks, each a process of its own that runs one rank of datatrove's executor.

    Not datatrove's pool: it waits for ever for a task whose process was killed, and a task that fails ends the others in mid-chunk.
    """
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "datatrove.executor.local", *sorted({type(step).__module__ for step in pipeline})])
    log, logs = ledger.folder / "logs" / "console.log", _new_logs(ledger, "local")
    with _output_to(log) as terminal, _watching(ledger, terminal):
        started: list[tuple[Any, Any]] = []
        try:
            for rank in range(tasks):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (pipeline, logs, tasks, rank, sender, dict(os.environ))
                process = context.Process(target=_run_rank, args=arguments, name=f"task {rank}")
                process.start()
                sender.close()
                started.append((process, receiver))
            problems = [_outcome(process, receiver) for process, receiver in started]
        finally:
            for process, _ in started:
                if process.is_alive():
                    process.terminate()
            for process, _ in started:
                process.join(PATIENCE_SECONDS)
                process.kill()
    _raise_first([problem for problem in problems if problem], tasks, log)
    # Each task has written the description of its own share; jobs_status reads that of all.
    _local_executor(pipeline, logs, tasks).save_executor_as_json()
    _merge_stats(logs)


def _run_rank(pipeline: list[Any], logs: Path, tasks: int, rank: int, sender: Any, environment: dict[str, str]) -> None:
    """One task of several, in its own process. Sends (name of the exception, message) when it stops early."""
    end_with_parent()
    # Tasks share the cores: without this each engine on the CPU would start a thread for every one of them.
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // tasks, 1))
    os.environ.update(environment)  # the process that forks tasks was started once and keeps the environment of that time
    descriptor = os.open(logs.parent / "console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        with children_end_with_us():
            _local_executor(pipeline, logs, tasks, rank).run()
    except BaseException as error:
        if isinstance(error, OSError):
            error = output_error(logs.parents[1], error)
        with suppress(OSError):
            sender.send((type(error).__name__, str(error)))
        raise SystemExit(1) from None  # the log has the traceback


def _outcome(process: Any, receiver: Any) -> tuple[str, str] | None:
    """How a task ended: None when well, else (name of the exception, message)."""
    try:
        problem = receiver.recv()
    except EOFError:
        problem = None
    process.join()
    if problem is None and process.exitcode:
        code = process.exitcode
        how = f"was killed ({signal.Signals(-code).name}; out of memory?)" if code < 0 else f"ended with exit code {code}"
        problem = ("EngineError", f"{process.name} {how}; finished chunks are kept, run the same command again")
    return problem


def _raise_first(problems: Sequence[tuple[str, str]], tasks: int, logs: Path) -> None:
    """Raise what stopped the first of the tasks that stopped: an error that was told in one line stays one."""
    if not problems:
        return
    name, message = problems[0]
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, FourHabitsError)):
        raise RuntimeError(f"a task failed with {name}: {message}; its log is {logs}")
    raise kind(f"{message} ({len(problems)} of {tasks} tasks stopped; log: {logs})")


def _merge_stats(logs: Path) -> None:
    """Add up the tasks' statistics in `stats.json`, as datatrove's own executors do at their end."""
    from datatrove.utils.stats import PipelineStats

    found = [PipelineStats.from_json(json.loads(path.read_text())) for path in sorted((logs / "stats").glob("*.json"))]
    if found:
        with open(logs / "stats.json", "w") as file:
            sum(found, start=PipelineStats()).save_to_disk(file)


def _run_slurm(pipeline: list[Any], ledger: Ledger, options: RunOptions) -> None:
    from pipelines import slurm

    settings = slurm.settings_from(options.slurm, options.gpus)
    logs = (ledger.folder / "logs").resolve()
    tasks = min(options.tasks, len(ledger.missing()))
    with _output_to(logs / "console.log") as terminal:
        job = slurm.running_job(logs)
        if job is not None:
            print(f"Slurm job {job.id} of an earlier call is still there; waiting for it", file=terminal, flush=True)
        else:
            job = slurm.submit(pipeline, tasks, _new_logs(ledger, "slurm").resolve(), ledger.stage, settings)
            print(f"Slurm job {job.id}: logs in {job.logs}", file=terminal, flush=True)
        try:
            with _watching(ledger, terminal):
                slurm.wait(job, lambda line: print(line, file=terminal, flush=True), lambda: not ledger.missing())
        except KeyboardInterrupt:
            print(f"Slurm job {job.id} goes on; the same command waits for it again, `scancel {job.id}` ends it", file=terminal)
            raise
    if _left(ledger):
        _raise_first(slurm.read_notes(job.logs), tasks, job.logs)
    else:
        _merge_stats(job.logs)


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
                waiting = ledger.missing()
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
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # on a full disk the last lines are lost, never the error that is being raised
                stream.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for open_descriptor in (*saved, descriptor):
            os.close(open_descriptor)
        terminal.close()
