"""The small-memory ways give the same updates (offload) or a plain merged model (LoRA)."""

import pyarrow.parquet as pq
import pytest
import torch

from curate.records.errors import UserError
from tests.train.runs import write_data
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


def test_lora_exports_a_plain_model(tmp_path):
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    write_data(tmp_path / "data", count=30)
    common = {"data": tmp_path / "data", "context_tokens": 64, "tokens_per_step": 256, "learning_rate": 1e-2, "max_steps": 2}
    train("sft", SftSettings(out=tmp_path / "out", lora_rank=4, **common))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    from train.tiny import make_tiny_model

    start = make_tiny_model("0.4M", 349, 0)
    changed = {name for (name, a), b in zip(model.named_parameters(), start.parameters()) if not torch.equal(a, b)}
    assert changed and all("_proj" in name for name in changed)


def test_a_folder_of_several_sets_is_not_mixed(tmp_path):
    for arm in ("enriched", "control"):
        write_data(tmp_path / "sets" / arm, count=2)
    with pytest.raises(UserError, match=r"several sets .control, enriched.; name one"):
        parquet_files(tmp_path / "sets")
    assert len(parquet_files(tmp_path / "sets" / "control")) == 1
    write_data(tmp_path / "one" / "parts", count=2)
    assert pq.read_table(parquet_files(tmp_path / "one")[0]).num_rows == 2
