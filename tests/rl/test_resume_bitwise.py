"""A run that was killed goes on bit by bit as if it had not been; a stop on request saves and asks to be requeued."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curate.records.errors import UserError
from rl import ppo
from tests.rl.tiny import small_settings
from train.checkpoint import load_latest

ROOT = Path(__file__).parents[2]
STEPS = 6
WITHOUT_CLOCK = ("seconds", "tokens_per_second", "mfu", "memory_gb")


def _command(folder: Path, out: Path) -> list[str]:
    given = small_settings(folder)
    arguments = ["--model", given.model, "--data", given.data, "--out", out, "--preset", "tiny", "--device", "cpu", "--reward", "random"]
    for name in ("prompts_per_step", "samples_per_prompt", "max_response_tokens", "actor_updates_per_step", "critic_updates_per_step"):
        arguments += [f"--{name.replace('_', '-')}", getattr(given, name)]
    arguments += [
        "--total-steps",
        STEPS,
        "--eval-tasks",
        8,
        "--eval-every-steps",
        2,
        "--save-every-steps",
        3,
        "--shuffle",
        "--critic-warmup-steps",
        1,
        "--kl-target",
        0.1,
    ]
    return [sys.executable, "-m", "rl.main", "ppo", *map(str, arguments)]


def _start(folder: Path, out: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(_command(folder, out), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.02)


def _lines(out: Path, name: str) -> list[dict]:
    lines = [json.loads(line) for line in (out / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(WITHOUT_CLOCK)} for line in lines]


@pytest.mark.slow
def test_kill_9_and_go_on_is_bitwise_the_same(tmp_path):
    straight = _start(tmp_path, tmp_path / "straight")
    output, _ = straight.communicate(timeout=240)
    assert straight.returncode == 0, output

    killed = _start(tmp_path, tmp_path / "killed")
    _wait_for(tmp_path / "killed" / "rollouts" / "step-00000005.parquet", killed)  # two steps past the checkpoint
    killed.kill()
    killed.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    resumed = _start(tmp_path, tmp_path / "killed")
    output, _ = resumed.communicate(timeout=240)
    assert resumed.returncode == 0 and "going on after step 3" in output

    for name in ("model/model.safetensors", "checkpoints/step-00000006/tensors.safetensors"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert _lines(tmp_path / "straight", name) == _lines(tmp_path / "killed", name)
    assert len(_lines(tmp_path / "killed", "metrics.jsonl")) == STEPS
    for step in range(1, STEPS + 1):
        name = f"rollouts/step-{step:08d}.parquet"
        assert pq.read_table(tmp_path / "straight" / name).equals(pq.read_table(tmp_path / "killed" / name))


@pytest.mark.slow
def test_sigterm_saves_and_exits_for_requeue(tmp_path):
    process = _start(tmp_path, tmp_path / "run")
    _wait_for(tmp_path / "run" / "rollouts" / "step-00000001.parquet", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert load_latest(tmp_path / "run" / "checkpoints").step < STEPS


def test_other_settings_or_data_are_refused_with_the_difference(tmp_path):
    ppo.run(small_settings(tmp_path, total_steps=1))
    (tmp_path / "run" / "manifest.json").unlink()  # as if it had been stopped
    with pytest.raises(UserError, match=r"actor_learning_rate: 0.0001 -> 0.001"):
        ppo.run(small_settings(tmp_path, total_steps=1, actor_learning_rate=1e-3))
    # what cannot change the result may change
    ppo.run(small_settings(tmp_path, total_steps=1, micro_batch_tokens=64, save_every_steps=5))


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    ppo.run(small_settings(tmp_path, total_steps=3, keep_last=3))
    whole = _lines(tmp_path / "run", "metrics.jsonl")
    (tmp_path / "run" / "manifest.json").unlink()
    tensors = tmp_path / "run" / "checkpoints" / "step-00000003" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    ppo.run(small_settings(tmp_path, total_steps=3, keep_last=3))
    assert "damaged" in capsys.readouterr().err
    assert _lines(tmp_path / "run", "metrics.jsonl") == whole
