"""Actor, critic and reference sharded by FSDP2 over two processes do what one process does, and write the same checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from curate.records.errors import UserError
from rl.ranks import Ranks
from tests.rl.test_processes import arguments, same_lines, same_model
from tests.rl.tiny import small_settings
from train.checkpoint import load_latest

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29618"]
# what `accelerate launch --use_fsdp --fsdp_version 2` sets; its `--cpu` switch would not let us set both
SHARDED = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
# a rank with nothing of a mini-batch must still take part in every pass
UNEVEN = ["--prompts-per-step", 4, "--actor-updates-per-step", 4, "--critic-updates-per-step", 4, "--micro-batch-tokens", 25]


def _run(folder: Path, out: Path, sharded: bool, *changes: object) -> str:
    given = small_settings(folder)
    command = [sys.executable, *(LAUNCH if sharded else []), "-m", "rl.main", *arguments(given, out), *map(str, changes)]
    environment = {**os.environ, **(SHARDED if sharded else {"OMP_NUM_THREADS": "1"})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_shards_equal_one_process_and_resume_in_one(tmp_path):
    for name in ("whole", "sharded"):
        _run(tmp_path, tmp_path / name, name == "sharded", *UNEVEN, "--save-every-steps", 1)
    same_lines(tmp_path / "whole", tmp_path / "sharded")
    same_model(tmp_path / "whole", tmp_path / "sharded")
    whole, sharded = (load_latest(tmp_path / name / "checkpoints") for name in ("whole", "sharded"))
    assert whole is not None and sharded is not None
    for part in ("actor", "critic"):
        assert whole.state[part].keys() == sharded.state[part].keys()
        for key, value in whole.state[part].items():
            assert (value - sharded.state[part][key]).abs().max() < 1e-6, key
        for key, moments in whole.state[f"{part}_optimizer"].items():
            assert (moments["exp_avg"] - sharded.state[f"{part}_optimizer"][key]["exp_avg"]).abs().max() < 1e-7, key
    # the second step again, in one process, from the sharded run's first checkpoint
    import shutil

    shutil.rmtree(tmp_path / "sharded" / "checkpoints" / "step-00000002")
    (tmp_path / "sharded" / "manifest.json").unlink()
    assert "going on after step 1" in _run(tmp_path, tmp_path / "sharded", False, *UNEVEN, "--save-every-steps", 1)
    same_model(tmp_path / "whole", tmp_path / "sharded")


def test_fsdp_of_the_first_version_is_refused(monkeypatch):
    class Two:
        process_index, num_processes, device = 0, 2, "cpu"

    monkeypatch.setattr("accelerate.PartialState", lambda **_: Two)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    with pytest.raises(UserError, match="--fsdp_version 2"):
        Ranks("cpu")
