"""The small-memory ways give the same updates (offload) or a plain merged model (LoRA), and resume like any other."""

import sys
import types

import pyarrow.parquet as pq
import pytest
import torch

from curate.records.errors import UserError
from tests.train.runs import write_data
from train.checkpoint import load_latest
from train.data import parquet_files
from train.loop import train
from train.optimizers import OffloadedAdamW
from train.settings import SftSettings


def test_offloaded_adamw_is_adamw():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=generator)
    gradients = torch.randn(4, 5, 3, generator=generator)
    arguments = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    ends = []
    for kind in (lambda p: torch.optim.AdamW(p, fused=True, **arguments), lambda p: OffloadedAdamW(p, **arguments)):
        weight = start.clone().requires_grad_()
        optimizer = kind([weight])
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach())
    assert torch.equal(*ends)


def options(tmp_path, name="out", **changes):
    common = {"context_tokens": 64, "tokens_per_step": 256, "learning_rate": 1e-2, "max_steps": 2, "save_every_steps": 1}
    return SftSettings(data=tmp_path / "data", out=tmp_path / name, **{**common, **changes})


def resume_after_first(out):
    """As if the run had been killed in its second update."""
    newest = out / "checkpoints" / "step-00000002"
    newest.rename(newest.with_suffix(".tmp"))
    (out / "manifest.json").unlink()


def test_lora_exports_a_plain_model(tmp_path):
    pytest.importorskip("peft", reason="peft is not installed (pip install peft)")
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    from train.lora import add_lora
    from train.tiny import make_tiny_model

    write_data(tmp_path / "data", count=30)
    train("sft", options(tmp_path, lora_rank=4))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    start = make_tiny_model("0.4M", 349, 0)
    changed = {name for (name, a), b in zip(model.named_parameters(), start.parameters()) if not torch.equal(a, b)}
    assert changed and all("_proj" in name for name in changed)
    # the same as peft's own merge of what the checkpoint holds
    adapted = make_tiny_model("0.4M", 349, 0)
    add_lora(adapted, 4)
    state = load_latest(tmp_path / "out" / "checkpoints").state["model"]
    adapted.load_state_dict({name.removeprefix("lm."): value for name, value in state.items()}, strict=False)
    for part in adapted.modules():
        if isinstance(part, LoraLayer):
            part.merge()
    ids = torch.arange(20)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
    # and a resumed run ends with the same bytes
    whole = (tmp_path / "out" / "model" / "model.safetensors").read_bytes()
    resume_after_first(tmp_path / "out")
    train("sft", options(tmp_path, lora_rank=4))
    assert (tmp_path / "out" / "model" / "model.safetensors").read_bytes() == whole


def test_offload_trains_the_same_model_and_resumes(tmp_path):
    write_data(tmp_path / "data", count=30)
    train("sft", options(tmp_path, "plain"))
    train("sft", options(tmp_path, "offloaded", optimizer="adamw-offload"))
    resume_after_first(tmp_path / "offloaded")
    train("sft", options(tmp_path, "offloaded", optimizer="adamw-offload"))
    plain, offloaded = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("plain", "offloaded"))
    assert plain == offloaded


def test_eight_bit_moments_come_from_bitsandbytes(tmp_path, monkeypatch):
    """With a stand-in of its class; the package itself needs a GPU for this optimizer."""
    made = []

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, parameters, **arguments):
            made.append(arguments)
            super().__init__(parameters, **arguments)

    package, optim = types.ModuleType("bitsandbytes"), types.ModuleType("bitsandbytes.optim")
    optim.AdamW8bit, package.optim = AdamW8bit, optim
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    write_data(tmp_path / "data", count=30)
    train("sft", options(tmp_path, optimizer="adamw-8bit", max_steps=1))
    assert made == [{"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}]
    assert load_latest(tmp_path / "out" / "checkpoints").step == 1


@pytest.mark.parametrize(
    ("hidden", "changes", "message"),
    [
        ("bitsandbytes.optim", {"optimizer": "adamw-8bit"}, "needs the package bitsandbytes: pip install bitsandbytes"),
        ("peft", {"lora_rank": 2}, "needs the package peft: pip install peft"),
    ],
)
def test_absent_package_is_named(tmp_path, monkeypatch, hidden, changes, message):
    monkeypatch.setitem(sys.modules, hidden, None)
    write_data(tmp_path / "data", count=10)
    with pytest.raises(UserError, match=message):
        train("sft", options(tmp_path, **changes))


def test_a_folder_of_several_sets_is_not_mixed(tmp_path):
    for arm in ("enriched", "control"):
        write_data(tmp_path / "sets" / arm, count=2)
    with pytest.raises(UserError, match=r"several sets .control, enriched.; name one"):
        parquet_files(tmp_path / "sets")
    assert len(parquet_files(tmp_path / "sets" / "control")) == 1
    write_data(tmp_path / "one" / "parts", count=2)
    assert pq.read_table(parquet_files(tmp_path / "one")[0]).num_rows == 2
