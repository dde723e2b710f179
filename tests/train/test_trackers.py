"""TensorBoard and W&B show what metrics.jsonl says; without the package, one line says what to install."""

import sys
import types

import pytest

from curate.records.errors import UserError
from tests.train.runs import metrics, write_data
from train.loop import train
from train.settings import CptSettings


def settings(tmp_path, **changes):
    common = {"context_tokens": 64, "tokens_per_step": 256, "max_steps": 2, "heldout_fraction": 0.2, "heldout_every_steps": 1}
    return CptSettings(data=tmp_path / "data", out=tmp_path / "out", **{**common, **changes})


class FakeWandb(types.ModuleType):
    """`init` and the run it gives, as wandb documents them."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.lines, self.finished = [], [], 0

    def init(self, **arguments):
        self.inits.append(arguments)
        return self

    def log(self, line, step):
        self.lines.append((step, line))

    def finish(self):
        self.finished += 1


def test_tensorboard_has_every_number(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed (pip install tensorboard)"
    )
    write_data(tmp_path / "data", count=30)
    train("cpt", settings(tmp_path, tensorboard=True))
    events = event_accumulator.EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    lines = metrics(tmp_path / "out")
    assert [line["step"] for line in lines] == [0, 1, 2]
    for key in ("loss", "heldout_loss", "learning_rate", "grad_norm"):
        expected = [(line["step"], line[key]) for line in lines if key in line]
        assert [(event.step, pytest.approx(event.value)) for event in events.Scalars(key)] == expected and expected


def test_wandb_gets_every_line_and_a_resumed_run_continues_it(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_data(tmp_path / "data", count=30)
    train("cpt", settings(tmp_path, wandb="mine", save_every_steps=1))
    lines = metrics(tmp_path / "out")
    assert fake.lines == [(line["step"], {key: value for key, value in line.items() if value is not None}) for line in lines]
    # as if it had been killed after the first update
    (tmp_path / "out" / "manifest.json").unlink()
    newest = tmp_path / "out" / "checkpoints" / "step-00000002"
    newest.rename(newest.with_suffix(".tmp"))
    train("cpt", settings(tmp_path, wandb="mine", save_every_steps=1))
    first, second = fake.inits
    assert first["id"] == second["id"] and first["project"] == "mine" and first["resume"] == "allow" and fake.finished == 2
    assert first["config"]["context_tokens"] == 64
    assert fake.lines[-1][0] == 2 and fake.lines[-1][1]["loss"] == lines[-1]["loss"]


@pytest.mark.parametrize(
    ("option", "hidden", "package"), [("tensorboard", "torch.utils.tensorboard", "tensorboard"), ("wandb", "wandb", "wandb")]
)
def test_absent_package_is_named(tmp_path, monkeypatch, option, hidden, package):
    monkeypatch.setitem(sys.modules, hidden, None)
    write_data(tmp_path / "data", count=10)
    with pytest.raises(UserError, match=f"--{option} needs the package {package}: pip install {package}"):
        train("cpt", settings(tmp_path, **{option: "mine" if option == "wandb" else True}))
