"""A checkpoint is whole or absent; a damaged one falls back to the one before; nothing is unpickled."""

import errno

import pytest
import torch

from curate.records.errors import OutputError, UserError
from train.checkpoint import check_settings, checkpoints, generator_states, load_latest, restore_generators, save_checkpoint


def state(value):
    weight = torch.full((3, 2), float(value))
    return {
        "model": {"embed": weight, "head": weight, "bf16": torch.ones(2, dtype=torch.bfloat16), "scalar": torch.tensor(1.5)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.95), "params": [0, 1]}]},
        "cursor": {"epoch": 1, "row": value, "rate": 0.1 + 0.2, "none": None, "empty": torch.zeros(0)},
    }


def test_round_trip_is_exact(tmp_path):
    save_checkpoint(tmp_path, 7, state(4), settings={"lr": 1e-5})
    found = load_latest(tmp_path)
    assert found.step == 7 and found.settings == {"lr": 1e-5} and found.skipped == []
    assert found.state["optimizer"]["state"][0]["step"] == 3.0 and found.state["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.95)
    assert found.state["cursor"]["rate"] == 0.1 + 0.2 and found.state["model"]["bf16"].dtype == torch.bfloat16
    assert torch.equal(found.state["model"]["embed"], state(4)["model"]["embed"])
    assert found.state["model"]["embed"].data_ptr() == found.state["model"]["head"].data_ptr(), "tied weights are stored once"


def test_empty_folder_gives_none(tmp_path):
    assert load_latest(tmp_path) is None and load_latest(tmp_path / "absent") is None


@pytest.mark.parametrize("damage", ["truncated tensors", "flipped byte", "truncated json", "missing tensors"])
def test_damaged_newest_falls_back(tmp_path, damage, capsys):
    save_checkpoint(tmp_path, 1, state(1))
    newest = save_checkpoint(tmp_path, 2, state(2))
    tensors, record = newest / "tensors.safetensors", newest / "state.json"
    if damage == "truncated tensors":
        tensors.write_bytes(tensors.read_bytes()[:-3])
    elif damage == "flipped byte":
        raw = bytearray(tensors.read_bytes())
        raw[-1] ^= 1
        tensors.write_bytes(raw)
    elif damage == "truncated json":
        record.write_text(record.read_text()[:-20])
    else:
        tensors.unlink()
    found = load_latest(tmp_path)
    assert found.step == 1 and len(found.skipped) == 1
    assert "is damaged" in capsys.readouterr().err


def test_all_damaged_is_an_error(tmp_path):
    (save_checkpoint(tmp_path, 1, state(1)) / "state.json").write_text("")
    with pytest.raises(UserError, match="every checkpoint"):
        load_latest(tmp_path, verbose=False)


def test_every_file_is_durable_before_it_gets_its_name(tmp_path, monkeypatch):
    """A power cut must not leave a complete-looking checkpoint with empty files: fsync of each file and of the folder, then rename."""
    import os

    happened = []
    fsync, rename, replace = os.fsync, os.rename, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (happened.append(("fsync", os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (happened.append(("rename", str(a))), rename(a, b))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (happened.append(("replace", str(b))), replace(a, b))[1])
    save_checkpoint(tmp_path, 3, state(1))
    temporary = str(tmp_path / "step-00000003.tmp")
    renamed = happened.index(("rename", temporary))
    for durable in (f"{temporary}/tensors.safetensors", f"{temporary}/state.json", temporary):
        assert happened.index(("fsync", durable)) < renamed
    named = happened.index(("fsync", str(tmp_path)))
    assert renamed < named < happened.index(("replace", str(tmp_path / "latest")))
    assert (tmp_path / "latest").read_text() == "step-00000003"


def test_leftover_of_a_killed_writer_is_ignored(tmp_path):
    save_checkpoint(tmp_path, 1, state(1))
    (tmp_path / "step-00000002.tmp").mkdir()
    assert load_latest(tmp_path).step == 1
    save_checkpoint(tmp_path, 2, state(2))
    assert load_latest(tmp_path).step == 2


def test_keep_last_and_keep_every(tmp_path):
    for step in range(1, 11):
        save_checkpoint(tmp_path, step, {"x": step}, keep_last=2, keep_every=4)
    assert [int(path.name[-8:]) for path in checkpoints(tmp_path)] == [4, 8, 9, 10]
    assert (tmp_path / "latest").read_text() == "step-00000010"


def test_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("train.checkpoint.write_tensors", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save_checkpoint(tmp_path, 2, state(2), keep_last=1)
    assert load_latest(tmp_path).step == 1 and not list(tmp_path.glob("*.tmp"))


def test_other_settings_are_refused_with_the_difference(tmp_path):
    save_checkpoint(tmp_path, 1, state(1), settings={"lr": 1e-5, "seed": 0})
    with pytest.raises(UserError, match=r"lr: 1e-05 -> 2e-05"):
        check_settings(load_latest(tmp_path), {"lr": 2e-5, "seed": 0})


def test_objects_are_refused(tmp_path):
    with pytest.raises(TypeError, match="model/thing"):
        save_checkpoint(tmp_path, 1, {"model": {"thing": object()}})


def test_generators_come_back_exactly(tmp_path):
    import random

    import numpy as np

    own = torch.Generator().manual_seed(5)
    save_checkpoint(tmp_path, 1, {"generators": generator_states(own=own)})
    draws = [torch.rand(3), torch.rand(3, generator=own), np.random.rand(), random.random()]
    restore_generators(load_latest(tmp_path).state["generators"], own=own)
    again = [torch.rand(3), torch.rand(3, generator=own), np.random.rand(), random.random()]
    assert torch.equal(draws[0], again[0]) and torch.equal(draws[1], again[1]) and draws[2:] == again[2:]
