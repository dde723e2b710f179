"""Corpora on the hub: read by ranges, identified by commit and LFS hash without being downloaded; a hub that fails is one line.

Each case is a process of its own, because the hub's address is read when its library is imported.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records.manifest import read_manifest
from tests.endpoint import Endpoint
from tests.helpers import ROOT, conserved, documents, rows_of
from tests.hub import Hub

REPOSITORY = "open-web-math/open-web-math"


def parquet(count: int, start: int = 0, filler: int = 0) -> bytes:
    rows = [{**row, "url": f"https://example.org/{row['id']}", "filler": os.urandom(filler).hex()} for row in documents(count, start)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=4)
    return file.getvalue()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    names = [f"data/train-{number:05d}-of-00002.parquet" for number in range(2)]
    return {names[0]: parquet(5), names[1]: parquet(4, 5), "README.md": b"# corpus", "extra/other.parquet": parquet(3, 50)}


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


def run(hub_url: str, endpoint_url: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.main import main; main()", "classify", "--engine", "openai", "--model", "fake"]
    command += ["--base-url", endpoint_url, "--out", str(tmp_path / "out"), *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub_url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=150)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in done.stderr, done.stderr
    return line


def test_openwebmath_is_labelled_from_the_hub_and_named_by_commit_and_lfs_hash(
    files: dict[str, bytes], server: Endpoint, tmp_path: Path
) -> None:
    with Hub(REPOSITORY, files) as hub:
        done = run(hub.url, server.url, tmp_path, "--dataset", "openwebmath", "--chunk-rows", "3")
        assert done.returncode == 0, done.stderr
        manifest = conserved(tmp_path / "out")
        names = [name for name in files if name.startswith("data/")]
        assert [(file.path, file.sha256, file.rows) for file in manifest.inputs] == [
            (name, hub.sha256(name), rows) for name, rows in zip(names, (5, 4))
        ]
        assert {file.root for file in manifest.inputs} == {f"hf://datasets/{REPOSITORY}@{hub.commit}"}
        assert not any("README" in request or "other" in request for request in hub.requests if "resolve" in request)
    rows = rows_of(tmp_path / "out")
    assert sorted(row["id"] for row in rows) == [f"d{number}" for number in range(9)]
    assert all(row["error"] is None and row["url"] == f"https://example.org/{row['id']}" for row in rows)
    assert {row["file_sha256"] for row in rows} == {file.sha256 for file in manifest.inputs}


def test_a_limit_reads_the_footers_and_a_part_of_one_file(server: Endpoint, tmp_path: Path) -> None:
    big = {f"data/{number}.parquet": parquet(40, number * 40, filler=260_000) for number in range(2)}
    with Hub(REPOSITORY, big) as hub:
        done = run(hub.url, server.url, tmp_path, "--dataset", "openwebmath", "--limit", "2")
        assert done.returncode == 0, done.stderr
        total = sum(map(len, big.values()))
        assert total > 40_000_000
        assert hub.bytes_sent < total / 2
    assert len(rows_of(tmp_path / "out")) == 2


def test_files_outside_lfs_are_told_apart_by_their_blob(files: dict[str, bytes], server: Endpoint, tmp_path: Path) -> None:
    with Hub(REPOSITORY, files, plain="data/") as hub:
        done = run(hub.url, server.url, tmp_path, "--dataset", "openwebmath")
        assert done.returncode == 0, done.stderr
        found = [file.sha256 for file in read_manifest(tmp_path / "out").inputs]
        assert found == [f"{hub.blob(name)}:{hub.commit}" for name in files if name.startswith("data/")]
    assert conserved(tmp_path / "out").rows_out == 9


def test_a_hub_out_of_reach_is_one_line(server: Endpoint, tmp_path: Path) -> None:
    done = run("http://127.0.0.1:9", server.url, tmp_path, "--dataset", "openwebmath")
    assert done.returncode == 2
    assert "cannot list open-web-math/open-web-math on the hub: " in last_line(done) and "local files go in as paths" in last_line(done)


def test_an_unknown_revision_and_a_missing_repository_are_one_line(files: dict[str, bytes], server: Endpoint, tmp_path: Path) -> None:
    with Hub(REPOSITORY, files) as hub:
        done = run(hub.url, server.url, tmp_path, "--dataset", "openwebmath", "--dataset-revision", "nope")
        assert done.returncode == 2 and "cannot list open-web-math/open-web-math" in last_line(done)
        done = run(hub.url, server.url, tmp_path, "--dataset", "finemath-4plus")
        assert done.returncode == 2 and "cannot list HuggingFaceTB/finemath" in last_line(done)


def test_a_file_that_the_hub_does_not_deliver_fails_alone(files: dict[str, bytes], server: Endpoint, tmp_path: Path) -> None:
    broken = "train-00000"
    with Hub(REPOSITORY, files, fault=lambda method, path: 403 if broken in path and "resolve" in path else None) as hub:
        done = run(hub.url, server.url, tmp_path, "--dataset", "openwebmath")
        assert done.returncode == 3
        assert broken in last_line(done) and "the hub did not deliver it: " in last_line(done)
        assert conserved(tmp_path / "out").rows_out == 4
        hub.fault = None
        done = run(hub.url, server.url, tmp_path, "--dataset", "openwebmath")
        assert done.returncode == 0, done.stderr
    assert conserved(tmp_path / "out").rows_out == 9
