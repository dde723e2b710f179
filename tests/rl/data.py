"""The test data's Countdown files, or a skip that says why."""

import json
import os
import re
from pathlib import Path

import pytest


def countdown_folder() -> Path:
    """The folder, when the environment names it."""
    root = os.environ.get("FOURHABITS_TEST_DATA")
    if not root or not (Path(root) / "countdown").is_dir():
        pytest.skip("FOURHABITS_TEST_DATA is not set or has no countdown/: those tasks and outputs are not part of the repository")
    return Path(root) / "countdown"


def judged_outputs() -> list[dict]:
    """The 1,000 model outputs with that project's verdicts; numbers and target are read from the prompt."""
    import pyarrow.parquet as pq

    rows = []
    for name in ("base_8b", "sft_lora"):
        for row in pq.read_table(countdown_folder() / f"outputs_{name}.parquet").to_pylist():
            row["numbers"] = json.loads(re.search(r"\[.*?\]", row["prompt"])[0])
            row["target"] = int(re.search(r"equals (\d+)", row["prompt"])[1])
            rows.append(row)
    return rows
