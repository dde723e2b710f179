"""`--compile` makes the same updates as plain execution, and a plain model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.train.runs import metrics, write_data
from train.loop import train
from train.settings import SftSettings

COMPILERS = ("g++", "clang++", "c++")


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)), reason="torch.compile needs a C++ compiler on a CPU (Debian: apt-get install g++)"
)
def test_compiled_updates_are_the_plain_ones(tmp_path):
    write_data(tmp_path / "data", count=40)
    options = {"context_tokens": 64, "tokens_per_step": 256, "learning_rate": 1e-2, "max_steps": 3, "micro_batch_tokens": 64}
    torch._dynamo.reset()
    for name in ("plain", "compiled"):
        train("sft", SftSettings(data=tmp_path / "data", out=tmp_path / name, compile=name == "compiled", **options))
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert (graphs > 0) == (name == "compiled")
    plain, compiled = (metrics(tmp_path / name) for name in ("plain", "compiled"))
    for a, b in zip(plain, compiled, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert a["loss_tokens"] == b["loss_tokens"] and a["tokens"] == b["tokens"]
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "compiled"))
    assert first.keys() == second.keys()
    # Adam's first steps have the gradient's sign, so a gradient near zero may go the other way: close on the whole, not one by one
    assert sum((first[key] - second[key]).abs().sum() for key in first) < 1e-3 * sum(value.abs().sum() for value in first.values())
