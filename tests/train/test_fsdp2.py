"""Sharded by FSDP2 over two processes: the same updates, the same checkpoint file, and it resumes in another number of processes."""

import subprocess
import sys

import pytest

from tests.train.runs import ENVIRONMENT, ROOT, metrics, train, write_data
from train.checkpoint import load_latest


@pytest.mark.slow
def test_two_shards_equal_one_process(tmp_path):
    data = write_data(tmp_path / "data")
    common = ["sft", "--data", data, "--no-pack", "--examples-per-step", 8, "--context-tokens", 64, "--max-steps", 4, "--learning-rate", 1e-3,
              "--micro-batch-tokens", 100, "--heldout-fraction", 0.1, "--save-every-steps", 2]  # fmt: skip
    alone = train(*common, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr[-2000:]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tests.train.fsdp_worker"]
    command = [*launch, *map(str, common), "--out", str(tmp_path / "sharded")]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    a, b = (load_latest(tmp_path / name / "checkpoints") for name in ("alone", "sharded"))
    assert a.state["model"].keys() == b.state["model"].keys()
    for key, value in a.state["model"].items():
        assert value.shape == b.state["model"][key].shape
        assert (value - b.state["model"][key]).abs().max() < 2e-5, key  # float32
    for key, moments in a.state["optimizer"].items():
        assert (moments["exp_avg"] - b.state["optimizer"][key]["exp_avg"]).abs().max() < 2e-5, key
    for x, y in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "sharded")):
        assert abs(x.get("loss", 0) - y.get("loss", 0)) < 1e-4 and abs((x.get("grad_norm") or 0) - (y.get("grad_norm") or 0)) < 1e-3
    # the last two updates again, in one process, from the sharded run's checkpoint
    import shutil

    shutil.rmtree(tmp_path / "sharded" / "checkpoints" / "step-00000004")
    (tmp_path / "sharded" / "manifest.json").unlink()
    resumed = train(*common, "--out", tmp_path / "sharded")
    assert resumed.returncode == 0 and "resuming after step 2" in resumed.stderr, resumed.stderr[-2000:]
    again = load_latest(tmp_path / "sharded" / "checkpoints").state["model"]
    assert all((value - again[key]).abs().max() < 2e-5 for key, value in a.state["model"].items())
