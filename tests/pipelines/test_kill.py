"""kill -9 at any moment, resume with another number of tasks: the same rows, once each."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.classification import ClassifySettings
from curate.records.manifest import Manifest, read_manifest
from curate.rewriting import RewriteSettings
from curate.selection import SelectSettings
from pipelines.classify import classify
from pipelines.rewrite import rewrite
from pipelines.select import select
from tests.endpoint import Endpoint
from tests.pipelines.runs import MODEL, kill_group, parts_of, rows_of, run, start, write_corpus

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
ROWS = 80
CHUNK_ROWS = 2
QUESTIONS = 6  # four behaviors, a problem, a solution; every document is one window
IN_FLIGHT = 8


class Trap:
    """Kills a process group when the endpoint has seen so many more requests, a moment later."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.delay_seconds = 0.0
        self.leader: int | None = None
        self._lock = threading.Lock()

    def __call__(self, number: int, body: dict) -> None:
        with self._lock:  # of several requests at once, one springs it
            if self.at is None or number < self.at or self.leader is None:
                return
            self.at, leader = None, self.leader
        time.sleep(self.delay_seconds)
        os.killpg(leader, signal.SIGKILL)


@dataclass(frozen=True)
class Finished:
    """A corpus and what an uninterrupted run makes of it."""

    endpoint: Endpoint
    trap: Trap
    corpus: Path
    labels: Path
    manifest: Manifest


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    trap = Trap()
    corpus = write_corpus(folder / "corpus", ROWS)
    with Endpoint(trap, latency_seconds=0.02) as endpoint:
        settings = ClassifySettings(
            engine="openai", model="fake", base_url=endpoint.url, dataset=(str(corpus),), out=folder / "labels", chunk_rows=CHUNK_ROWS
        )
        yield Finished(endpoint, trap, corpus, folder / "labels", classify(settings))


def killed_after(finished: Finished, requests: int, delay_seconds: float, *command: object) -> None:
    """Run until the endpoint has seen `requests` more, and kill."""
    process = start(*command)
    finished.trap.leader, finished.trap.delay_seconds = process.pid, delay_seconds
    finished.trap.at = len(finished.endpoint.bodies) + requests
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, f"it ended before the kill: {output}"


def killed_at_start(seconds: float, *command: object) -> None:
    """Kill after so many seconds, whatever it is doing."""
    process = start(*command)
    time.sleep(seconds)
    kill_group(process)
    process.communicate()


def killed_at_rename(moment: str, number: int, *command: object) -> None:
    """Let it kill itself before, in or after the rename of its part `number`."""
    process = start(*command, moment=moment, number=number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, f"it ended before the rename: {output}"


def assert_whole(out: Path, kept: dict[str, bytes]) -> dict[str, bytes]:
    """Parts are complete, and those that were there before a kill are the same bytes after it."""
    parts = parts_of(out)
    assert {name: parts.get(name) for name in kept} == kept, "a finished chunk was written again"
    for name in parts.keys() - kept.keys():
        assert pq.read_metadata(out / "parts" / name).num_rows > 0
    assert not (out / "manifest.json").exists()
    return parts


def assert_same(out: Path, whole: Path) -> None:
    """The rows, and what the manifest says of them, are those of the run that nobody interrupted."""
    rows = rows_of(out)
    identities = [(row["file_sha256"], row["source_row"], row.get("cell")) for row in rows]
    assert len(identities) == len(set(identities))
    assert rows == rows_of(whole)
    found, expected = read_manifest(out), read_manifest(whole)
    for name in ("rows_in", "rows_made", "rows_out", "dropped", "errors", "tokens", "notes", "failed_files", "inputs"):
        assert getattr(found, name) == getattr(expected, name), name
    found.check()
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_ten_kills_of_classify_leave_every_row_once(finished: Finished, tmp_path: Path) -> None:
    generator = random.Random(2026)
    out = tmp_path / "labels"
    moments: list[tuple[str, int]] = [
        *(("request", generator.randrange(1, 60)) for _ in range(6)),
        *((moment, generator.randrange(1, 3)) for moment in ("before", "torn", "after")),
        ("start", 0),
    ]
    generator.shuffle(moments)
    kept: dict[str, bytes] = {}
    leftovers = 0
    for turn, (moment, number) in enumerate(moments):
        command = ("classify", "--dataset", finished.corpus, *MODEL, "--base-url", finished.endpoint.url, "--chunk-rows", CHUNK_ROWS)
        command += ("--out", out, "--max-in-flight", IN_FLIGHT, "--tasks", 1 + turn % 3)
        if moment == "request":
            killed_after(finished, number, generator.random() * 0.05, *command)
        elif moment == "start":
            killed_at_start(generator.uniform(0.2, 2.0), *command)
        else:
            killed_at_rename(moment, number, *command)
        kept = assert_whole(out, kept)
        leftovers = len(list((out / "parts").glob("*.tmp")))
        assert moment not in ("before", "torn") or leftovers
    assert 0 < len(kept) < ROWS // CHUNK_ROWS, "the kills fell outside the run"
    assert leftovers
    (out / "parts" / f"{next(iter(kept))}.00000000.tmp").write_bytes(b"PAR1 torn")
    (out / "manifest.json.00000000.tmp").write_text("{")
    asked = len(finished.endpoint.bodies)
    code, output = run(*command[:-1], 2)
    assert code == 0, output
    assert_same(out, finished.labels)
    assert_whole_but_finished(out, kept)
    left = (ROWS // CHUNK_ROWS - len(kept)) * CHUNK_ROWS
    assert len(finished.endpoint.bodies) - asked <= left * QUESTIONS, "finished chunks were asked again"


def assert_whole_but_finished(out: Path, kept: dict[str, bytes]) -> None:
    parts = parts_of(out)
    assert {name: parts[name] for name in kept} == kept
    assert len(parts) == ROWS // CHUNK_ROWS


@pytest.mark.slow
def test_kills_of_rewrite_leave_every_row_once(finished: Finished, tmp_path: Path) -> None:
    candidates = tmp_path / "candidates"
    select(SelectSettings(labels=finished.labels, out=candidates))
    url = finished.endpoint.url
    whole = RewriteSettings(engine="openai", model="fake", base_url=url, candidates=candidates, out=tmp_path / "whole", chunk_rows=5)
    rewrite(whole)
    out = tmp_path / "qa"
    command = ("rewrite", "--candidates", candidates, *MODEL, "--base-url", url, "--chunk-rows", 5)
    command += ("--out", out, "--max-in-flight", IN_FLIGHT, "--tasks")
    killed_after(finished, 40, 0.01, *command, 2)
    kept = assert_whole(out, {})
    killed_at_rename("torn", 2, *command, 1)
    kept = assert_whole(out, kept)
    assert list((out / "parts").glob("*.tmp"))
    code, output = run(*command, 3)
    assert code == 0, output
    assert_same(out, tmp_path / "whole")


@pytest.mark.slow
def test_parts_of_other_settings_are_refused_after_a_kill(finished: Finished, tmp_path: Path) -> None:
    """The record of what is done survives a kill together with what it was done with."""
    out = tmp_path / "labels"
    command = ("classify", "--dataset", finished.corpus, *MODEL, "--base-url", finished.endpoint.url, "--out", out)
    killed_at_rename("after", 1, *command, "--chunk-rows", CHUNK_ROWS)
    code, output = run(*command, "--chunk-rows", CHUNK_ROWS, "--window-chars", 1200)
    assert (code, "window_chars: 7200 -> 1200" in output) == (2, True), output
    assert json.loads((out / "plan.json").read_text())["settings"]["window_chars"] == 7200
