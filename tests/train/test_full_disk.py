"""A disk that fills up while training: one line, exit code 4, the last good checkpoint stays, and the same command goes on."""

import pytest

from tests.helpers import small_disk
from tests.train.runs import losses, train, write_data
from train.checkpoint import load_latest

MEGA = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """A file system of its own of 24 MB: a checkpoint of the tiny model takes 5 MB, the final model 2."""
    with small_disk(tmp_path / "disk", "24m") as folder:
        yield folder


def errors(output):
    return [line for line in output.splitlines() if "rror" in line]  # a traceback has lines of it too


@pytest.mark.slow
def test_a_disk_that_fills_up(tmp_path, disk):
    data = write_data(tmp_path / "data")
    common = ["cpt", "--data", data, "--context-tokens", 64, "--tokens-per-step", 256, "--max-steps", 3, "--learning-rate", 1e-3,
              "--save-every-steps", 1, "--keep-last", 9]  # fmt: skip
    filler = disk / "filler"
    filler.write_bytes(bytes(24 * MEGA - 12 * MEGA))  # room for two checkpoints
    full = train(*common, "--out", disk / "out")
    assert full.returncode == 4, full.stderr
    assert len(errors(full.stderr)) == 1 and "step-00000003: the disk is full; free some space" in full.stderr, full.stderr
    assert load_latest(disk / "out" / "checkpoints").step == 2 and not list((disk / "out").rglob("*.tmp"))
    size = sum(path.stat().st_size for path in (disk / "out" / "checkpoints" / "step-00000002").iterdir())
    filler.write_bytes(bytes(24 * MEGA - 3 * size - 3 * MEGA // 4))  # the third checkpoint fits, the model of 1.7 MB does not
    full = train(*common, "--out", disk / "out")
    assert full.returncode == 4 and len(errors(full.stderr)) == 1 and "resuming after step 2" in full.stderr, full.stderr
    assert load_latest(disk / "out" / "checkpoints").step == 3 and not (disk / "out" / "model").exists()
    assert not (disk / "out" / "manifest.json").exists() and not list((disk / "out").rglob("*.tmp"))
    filler.unlink()
    done = train(*common, "--out", disk / "out")
    assert done.returncode == 0, done.stderr
    assert train(*common, "--out", tmp_path / "straight").returncode == 0
    assert losses(disk / "out") == losses(tmp_path / "straight")
    models = [(out / "model" / "model.safetensors").read_bytes() for out in (disk / "out", tmp_path / "straight")]
    assert models[0] == models[1]
