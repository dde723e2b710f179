"""What the tests of whole runs share: a small corpus, the command as a process group of its own, and its rows."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(__file__).with_name("command.py")
MODEL = ("--engine", "openai", "--model", "fake")


def write_corpus(folder: Path, rows: int, seed: int = 0) -> Path:
    """Half of the documents as Parquet, half as JSONL: repeated ids, one row without text, cues that the scripted endpoint knows."""
    generator = random.Random(seed)
    openings = ["Check: does it hold?", "EDIT: I was wrong. What is x?", "First find y. Then?", "It suffices to show z. Why?", "What is x?"]
    documents: list[dict[str, Any]] = []
    for number in range(rows):
        terms = " + ".join(str(generator.randrange(100)) for _ in range(30))
        text = f"{openings[number % len(openings)]}\n\nDocument {number}: the sum is {terms} = {generator.randrange(10**6)}."
        documents.append({"id": f"page-{number % 5}", "text": None if number == 3 else text, "url": f"https://example.org/{number}"})
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(documents[: rows // 2]), folder / "a.parquet")
    (folder / "b.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents[rows // 2 :]))
    return folder


def environment() -> dict[str, str]:
    """This process's environment, with our checkout first among Python's paths and no terminal colours."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}


def start(
    *arguments: object, moment: str = "never", number: int = 0, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.Popen:
    """`curate *arguments` as the leader of a process group of its own; `env` is added to the environment."""
    command = [sys.executable, COMMAND, moment, number, *arguments]
    return subprocess.Popen(
        [str(item) for item in command],
        cwd=cwd,
        env=environment() | (env or {}),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: object, timeout: float = 120, cwd: Path | None = None, env: dict[str, str] | None = None) -> tuple[int, str]:
    """(exit code, what it printed) of `curate *arguments`; its whole group is gone afterwards."""
    process = start(*arguments, cwd=cwd, env=env)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        kill_group(process)
    return process.returncode, output


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL to the process and all that it started; returns when they are gone."""
    deadline = time.monotonic() + 10
    while group_members(process.pid) and time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.02)


def group_members(leader: int) -> dict[int, str]:
    """Living processes of the group, zombies left out: process id and command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except (OSError, ValueError):
            continue
    return found


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows of a stage, in the order of their identity; each part is read whole, whatever else lies beside them."""
    rows = [row for path in sorted((out / "parts").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["file_sha256"], row["source_row"], row.get("cell") or ""))


def parts_of(out: Path) -> dict[str, bytes]:
    """The finished parts, byte for byte."""
    return {path.name: path.read_bytes() for path in (out / "parts").glob("*.parquet")}
