"""Two processes do what one does: same rollouts, same losses, same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rl.settings import PPOSettings
from tests.rl.tiny import small_settings

ROOT = Path(__file__).parents[2]
KEYS = ("policy_loss", "value_loss", "entropy", "actor_grad_norm", "critic_grad_norm", "kl_k3", "value_mean", "explained_variance")


def arguments(given: PPOSettings, out: Path) -> list[str]:
    """`ppo …` in float64, so that orders of addition do not show."""
    found = ["ppo", "--model", given.model, "--data", given.data, "--out", out, "--preset", "tiny", "--device", "cpu", "--reward", "random"]
    found += ["--prompts-per-step", 8, "--samples-per-prompt", 2, "--max-response-tokens", 12, "--total-steps", 2, "--dtype", "float64"]
    found += [
        "--eval-tasks",
        7,
        "--critic-updates-per-step",
        2,
        "--critic-warmup-steps",
        0,
        "--entropy-coefficient",
        0.01,
        "--micro-batch-tokens",
        60,
    ]
    return list(map(str, found))


def same_lines(one: Path, two: Path) -> None:
    """Two runs logged the same numbers."""
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    assert len(lines[0]) == len(lines[1]) == 2
    for a, b in zip(*lines):
        for key in KEYS:
            assert a[key] == pytest.approx(b[key], abs=1e-9), key
        assert a["accuracy"] == b["accuracy"] and a["response_tokens_mean"] == b["response_tokens_mean"]


def same_model(one: Path, two: Path) -> None:
    """Two runs ended with the same weights (stored in float32)."""
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][key] - weights[1][key]).abs().max().item() for key in weights[0]) < 1e-6


def _run(folder: Path, out: Path, processes: int) -> None:
    given = small_settings(folder)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "29617", "-m", "rl.main"]
    command = [sys.executable, *(launch if processes > 1 else ["-m", "rl.main"]), *arguments(given, out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_gloo_processes_equal_one(tmp_path):
    for processes in (1, 2):
        _run(tmp_path, tmp_path / f"run{processes}", processes)
    same_lines(tmp_path / "run1", tmp_path / "run2")
    same_model(tmp_path / "run1", tmp_path / "run2")
