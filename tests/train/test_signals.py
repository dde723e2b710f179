"""SIGTERM and SIGUSR2: finish the step, save, exit 75; the same command goes on to the same end."""

import pytest

from tests.train.runs import losses, train, write_data
from train.checkpoint import load_latest

STOP_IN_THIRD_UPDATE = """
import os, signal, train.loop as loop
update = loop.Run.update
def interrupted(self, index):
    if index == 2:
        os.kill(os.getpid(), signal.{name})
    return update(self, index)
loop.Run.update = interrupted
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_stop_saves_and_requeues(tmp_path, name):
    data = write_data(tmp_path / "data")
    common = ["cpt", "--data", data, "--context-tokens", 64, "--tokens-per-step", 256, "--max-steps", 4, "--learning-rate", 1e-3]
    stopped = train(*common, "--out", tmp_path / "out", patch=STOP_IN_THIRD_UPDATE.format(name=name))
    assert stopped.returncode == 75 and f"stopped by {name} after step 3" in stopped.stderr, stopped.stderr
    assert load_latest(tmp_path / "out" / "checkpoints").step == 3
    assert not (tmp_path / "out" / "manifest.json").exists()
    resumed = train(*common, "--out", tmp_path / "out")
    assert resumed.returncode == 0, resumed.stderr
    if name == "SIGTERM":
        assert train(*common, "--out", tmp_path / "straight").returncode == 0
        assert losses(tmp_path / "out") == losses(tmp_path / "straight")
