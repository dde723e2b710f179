"""A full disk, a read-only folder, a file where a folder should be: one line, exit code 4, nothing half-written, resume works."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.endpoint import Endpoint
from tests.helpers import small_disk
from tests.pipelines.runs import MODEL, parts_of, rows_of, run, write_corpus

ROWS, CHUNK_ROWS = 24, 2


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        yield server


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 1 MB."""
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


def command(tmp_path: Path, endpoint: Endpoint, out: Path, tasks: int = 1) -> tuple[object, ...]:
    corpus = tmp_path / "corpus"
    if not corpus.exists():
        write_corpus(corpus, ROWS)
    options = ("--chunk-rows", CHUNK_ROWS, "--tasks", tasks, "--out", out)
    return ("classify", "--dataset", corpus, *MODEL, "--base-url", endpoint.url, *options)


def assert_one_line(output: str) -> None:
    """What it printed is one line that begins with `error:` (beside the plan, and at most the last line of the progress)."""
    lines = [line for line in output.splitlines() if not line.startswith(("classify: ", "plan of classify: ", "  "))]
    assert len(lines) == 1 and lines[0].startswith("error: cannot write "), output


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_full_disk_keeps_what_is_done_and_the_rest_follows(tmp_path: Path, disk: Path, endpoint: Endpoint, tasks: int) -> None:
    """The space that is left ends within the parts: each takes 12 kB."""
    filler = disk / "filler"
    filler.write_bytes(bytes((1 << 20) - 130_000))
    out = disk / "labels"
    arguments = command(tmp_path, endpoint, out, tasks)
    code, output = run(*arguments)
    assert code == 4, output
    assert_one_line(output)
    assert "the disk is full; free some space and run the same command again" in output
    parts = parts_of(out)
    assert 0 < len(parts) < ROWS // CHUNK_ROWS
    assert not (out / "manifest.json").exists() and not list(out.rglob("*.tmp"))
    assert all(pq.read_table(out / "parts" / name).num_rows == CHUNK_ROWS for name in parts)
    filler.unlink()
    code, output = run(*arguments)
    assert code == 0, output
    assert len(rows_of(out)) == ROWS
    assert {name: content for name, content in parts_of(out).items() if name in parts} == parts


def test_a_disk_without_any_space_is_refused_at_once(tmp_path: Path, disk: Path, endpoint: Endpoint) -> None:
    filler = disk / "filler"
    with pytest.raises(OSError), open(filler, "wb") as file:
        file.write(bytes(2 << 20))
    asked = len(endpoint.bodies)
    code, output = run(*command(tmp_path, endpoint, disk / "labels"))
    assert code == 4 and len(endpoint.bodies) == asked
    assert_one_line(output)
    assert not list(disk.rglob("*.parquet")) and not list(disk.rglob("plan.json"))


def test_a_read_only_folder_is_refused_before_anything_is_asked(tmp_path: Path, disk: Path, endpoint: Endpoint) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    asked = len(endpoint.bodies)
    code, output = run(*command(tmp_path, endpoint, disk / "labels"))
    assert code == 4 and len(endpoint.bodies) == asked
    assert_one_line(output)
    assert "read-only; choose another --out" in output


@pytest.mark.slow
def test_a_folder_that_turns_read_only_half_way_goes_on_later(tmp_path: Path, disk: Path) -> None:
    """As a network disk does when its server fails over; a read-only disk is put over the parts."""
    out = disk / "labels"

    def turn(number: int, body: dict) -> None:
        if number == 50:
            (out / "parts").mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", out / "parts"], check=True)

    with Endpoint(turn) as endpoint:
        arguments = command(tmp_path, endpoint, out)
        code, output = run(*arguments, "--max-in-flight", 4)
        subprocess.run(["umount", out / "parts"], check=True)
        assert code == 4, output
        assert_one_line(output)
        assert "the file system is read-only" in output
        assert 0 < len(parts_of(out)) < ROWS // CHUNK_ROWS
        code, output = run(*arguments)
        assert code == 0, output
    assert len(rows_of(out)) == ROWS


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path, endpoint: Endpoint) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, output = run(*command(tmp_path, endpoint, out))
        assert code == 4, output
        assert_one_line(output)
        assert "choose another --out" in output
    assert (tmp_path / "file").read_text() == "mine"
