"""Helpers: small data, and training runs in processes of their own."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def write_data(folder: Path, count: int = 60, seed: int = 0, longest: int = 40) -> Path:
    """Sums with completions of very different lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    pairs = [(draw.randint(1, 99), draw.randint(1, 99), draw.randint(0, longest)) for _ in range(count)]
    table = pa.table({"prompt": [f"{a}+{b}=" for a, b, _ in pairs], "completion": [f"{a + b}" + " ok" * n for a, b, n in pairs]})
    pq.write_table(table, folder / "part-0.parquet")
    return folder


def train(*arguments: object, patch: str = "", processes: int = 1) -> subprocess.CompletedProcess:
    """Run `train …` in a fresh process; `patch` is Python run before it."""
    code = f"{patch}\nfrom train.main import app\napp()"
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "train.main"] if processes > 1 else ["-c", code]
    command = [sys.executable, *launch, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)


def metrics(out: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[tuple]:
    """What must be equal between runs: step, loss, held-out loss, gradient norm, rate, tokens."""
    keys = ("step", "loss", "heldout_loss", "grad_norm", "learning_rate", "tokens", "skipped")
    return [tuple(line.get(key) for key in keys) for line in metrics(out)]
