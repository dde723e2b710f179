"""Micro-batches and processes change speed and memory, never the updates. In float64, because Adam amplifies rounding."""

import pytest
import torch

from tests.train.runs import metrics, train, write_data
from train.checkpoint import load_latest


def run(tmp_path, name, micro_batch_tokens, processes=1, *extra):
    data = write_data(tmp_path / "data")
    done = train(
        "sft", "--data", data, "--out", tmp_path / name, "--dtype", "float64", "--no-pack", "--examples-per-step", 8, "--context-tokens", 64,
        "--max-steps", 3, "--learning-rate", 1e-3, "--micro-batch-tokens", micro_batch_tokens, "--heldout-fraction", 0.1, *extra,
        processes=processes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return load_latest(tmp_path / name / "checkpoints"), metrics(tmp_path / name)


@pytest.mark.slow
def test_eight_by_one_equals_one_by_eight_equals_two_processes(tmp_path):
    whole, whole_lines = run(tmp_path, "whole", 10_000)
    for name, other, lines in [
        ("1 x 8", *run(tmp_path, "ones", 1)),
        ("2 processes", *run(tmp_path, "ddp", 100, 2)),
        ("checkpointed", *run(tmp_path, "recompute", 10_000, 1, "--gradient-checkpointing")),
    ]:
        assert len(lines) == len(whole_lines) == 4, name
        for a, b in zip(whole_lines, lines):
            for key in ("loss", "heldout_loss", "grad_norm"):
                if a.get(key) is not None:
                    assert abs(a[key] - b[key]) < 1e-9, (name, key)
        for key, value in whole.state["model"].items():
            assert value.dtype == torch.float64
            assert (value - other.state["model"][key]).abs().max() < 1e-9, (name, key)
