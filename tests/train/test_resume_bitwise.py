"""Six updates straight are, bit for bit, some updates + kill -9 + the rest: weights, optimizer, losses, order."""

import signal

import pytest
import torch

from tests.train.runs import losses, train, write_data
from train.checkpoint import load_latest

KILL_AFTER_FIVE_UPDATES = """
import os, signal, train.loop as loop
update = loop.Run.update
def deadly(self, index):
    line = update(self, index)
    if index == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return line
loop.Run.update = deadly
"""
ALSO_LOSE_THE_METRICS_LINE = KILL_AFTER_FIVE_UPDATES.replace("index == 4", "index == 5")  # line of update 5 written, checkpoint not


def equal(a, b, path=""):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b)):
            equal(x, y, f"{path}/{index}")
    else:
        assert a == b, path


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["packed", "one-row-each"])
def test_kill_minus_nine(tmp_path, mode):
    data = write_data(tmp_path / "data")
    recipe = ["--recipe", "packed", "--tokens-per-step", 256] if mode == "packed" else ["--no-pack", "--examples-per-step", 8]
    common = ["sft", "--data", data, "--context-tokens", 64, "--micro-batch-tokens", 64, "--max-steps", 6, "--save-every-steps", 3,
              "--learning-rate", 1e-3, "--heldout-fraction", 0.1, "--heldout-every-steps", 2, *recipe]  # fmt: skip
    straight = train(*common, "--out", tmp_path / "straight")
    assert straight.returncode == 0, straight.stderr
    patch = KILL_AFTER_FIVE_UPDATES if mode == "packed" else ALSO_LOSE_THE_METRICS_LINE
    killed = train(*common, "--out", tmp_path / "killed", patch=patch)
    assert killed.returncode == -signal.SIGKILL
    assert load_latest(tmp_path / "killed" / "checkpoints").step == 3
    resumed = train(*common, "--out", tmp_path / "killed")
    assert resumed.returncode == 0 and "resuming after step 3" in resumed.stderr, resumed.stderr
    assert losses(tmp_path / "straight") == losses(tmp_path / "killed")
    a, b = (load_latest(tmp_path / name / "checkpoints") for name in ("straight", "killed"))
    a.state["progress"].pop("metrics_offset"), b.state["progress"].pop("metrics_offset")  # lines hold wall-clock times
    assert a.step == b.step == 6
    equal(a.state, b.state)
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("straight", "killed")]
    assert models[0] == models[1]
    again = train(*common, "--out", tmp_path / "killed")
    assert again.returncode == 0 and "nothing to do" in again.stderr


def test_generators_go_on_where_they_were(tmp_path, monkeypatch):
    """Nothing in the loop draws from them today; a model or library that does must be resumable too."""
    import random

    import numpy as np

    import train.loop as loop
    from train.settings import CptSettings

    write_data(tmp_path / "data", count=30)
    settings = CptSettings(
        data=tmp_path / "data", out=tmp_path / "out", context_tokens=64, tokens_per_step=256, max_steps=2, save_every_steps=1
    )
    draws, update = [], loop.Run.update

    def drawing(self, index):
        draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
        return update(self, index)

    monkeypatch.setattr(loop.Run, "update", drawing)
    loop.train("cpt", settings)
    newest = tmp_path / "out" / "checkpoints" / "step-00000002"
    newest.rename(newest.with_suffix(".tmp"))
    loop.train("cpt", settings)
    assert draws[2] == draws[1] != draws[0]
