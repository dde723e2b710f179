"""Rates, updates and memory are what a person would work out by hand."""

import itertools
import subprocess
import sys
import time

import pytest

from curate.records.errors import UserError
from tests.train.runs import ENVIRONMENT, ROOT, write_data
from train.flops import training_flops
from train.plan import PlanSettings, memory, read_config, report
from train.schedule import learning_rate
from train.settings import CptSettings, resolve


def test_schedules_start_and_end_where_they_should():
    rates = [learning_rate(step, 100, 1.0, "cosine", 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0 and rates[99] < 1e-3 and rates[55] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    wsd = [learning_rate(step, 100, 1.0, "wsd", 0.1) for step in range(100)]
    assert set(wsd[10:80]) == {1.0} and wsd[99] == pytest.approx(0.05)
    assert learning_rate(99, 100, 1.0, "linear", 0.0) == pytest.approx(0.01)
    assert learning_rate(99, 100, 1.0, "cosine", 0.0, 0.1) == pytest.approx(0.1, abs=1e-3)


def test_recipes_are_the_published_values():
    paper = resolve(CptSettings(recipe="four-habits"))
    assert (paper.learning_rate, paper.schedule, paper.warmup_fraction, paper.adam_beta1, paper.adam_beta2) == (
        1e-5,
        "cosine",
        0.1,
        0.9,
        0.95,
    )
    assert (paper.weight_decay, paper.clip_grad_norm, paper.examples_per_step, paper.pack, paper.loss) == (
        0.01,
        1.0,
        64,
        False,
        "completion",
    )
    packed = resolve(CptSettings())
    assert packed.pack and packed.tokens_per_step == 32_768 and packed.examples_per_step is None and packed.over_long == "split"
    assert resolve(CptSettings(learning_rate=3e-5)).learning_rate == 3e-5


def test_sixteen_bytes_a_parameter():
    config = read_config("meta-llama/Llama-3.2-3B")
    need = memory(config, resolve(CptSettings()))
    assert need.master_weights + need.gradients + need.moments == pytest.approx(51.4, abs=0.3)
    sharded = memory(config, resolve(CptSettings()), shards=4)
    assert sharded.moments == pytest.approx(need.moments / 4)


def test_memory_and_flops_of_the_3b_model_by_hand():
    """3.21B parameters: float32 weights 12.8 GB, gradients 12.8, moments 25.7; 8-bit moments save 19, offload all 25.7. FLOPs: 6 N T."""
    config = read_config("meta-llama/Llama-3.2-3B")
    need = memory(config, resolve(CptSettings()))
    assert (need.master_weights, need.gradients, need.moments) == pytest.approx((12.8, 12.8, 25.7), abs=0.1)
    assert memory(config, resolve(CptSettings(optimizer="adamw-8bit"))).moments == pytest.approx(25.7 * 2.1 / 8, abs=0.1)
    assert memory(config, resolve(CptSettings(optimizer="adamw-offload"))).moments == 0
    lora = memory(config, resolve(CptSettings(lora_rank=64)))
    assert lora.master_weights + lora.gradients + lora.moments < 9 and lora.master_weights > 6.4  # frozen in bfloat16
    # never the 8.4 GB of whole logits at 16,384 tokens
    assert need.loss < 3
    without_attention = training_flops(config, 8_300_000, 8_300_000, 0)
    assert without_attention == pytest.approx(6 * 3.21e9 * 8.3e6, rel=5e-3) == pytest.approx(1.6e17, rel=1e-2)
    with_attention = training_flops(config, 8_300_000, 8_300_000, 8_300_000 * 4096)
    assert with_attention - without_attention == pytest.approx(6 * 28 * 24 * 128 * 8.3e6 * 4096)


def test_plan_names_a_way_to_fit(tmp_path):
    lines = report(PlanSettings(model="meta-llama/Llama-3.2-3B", tokens=8_300_000, gpu_memory_gb=40.0))
    assert any("does not fit in 40 GB: use --" in line for line in lines)
    assert any(
        "fits in 141 GB" in line for line in report(PlanSettings(model="meta-llama/Llama-3.2-3B", tokens=8_300_000, gpu_memory_gb=141.0))
    )
    assert any("254 updates an epoch" in line for line in lines)
    with pytest.raises(UserError, match="--data or --tokens"):
        report(PlanSettings())
    tiny = " ".join(report(PlanSettings(data=write_data(tmp_path / "data"))))
    assert "updates an epoch" in tiny and "M parameters" in tiny and "trains on a CPU too" in tiny
    assert lines[0] == "meta-llama/Llama-3.2-3B: 3.21B parameters"
    with pytest.raises(UserError, match="cannot read the configuration"):
        report(PlanSettings(model=str(tmp_path / "absent"), tokens=5))


def test_help_is_quick():
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "train.main", "cpt", "--help"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "--recipe" in done.stdout and time.perf_counter() - began < 20
    for heavy in ("torch", "transformers", "datasets", "datatrove", "polars", "vllm", "accelerate"):
        assert f"| {heavy}\n" not in done.stderr, f"{heavy} is imported for --help"
