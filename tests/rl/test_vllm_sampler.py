"""A real weight push into vLLM's CPU build: greedy tokens and log-probabilities are torch's, before and after an update."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from curate.records.errors import EngineError
from rl.samplers import vllm as adapter
from rl.samplers.vllm import VLLMSampler, check_version
from tests.rl.tiny import small_model
from train.tiny import TinyConfig

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, torch
from pathlib import Path
from rl.samplers.base import Sampling, uniform_noise
from rl.samplers.torch import TorchSampler
from rl.samplers.vllm import VLLMSampler
from train.model import load_model, load_tokenizer

folder = Path(sys.argv[1])
tokenizer = load_tokenizer(str(folder))
actor = load_model(str(folder), tokenizer=tokenizer)
prompts = [[1, 20, 30, 40], [1, 5], [1, 90, 91, 92, 93, 94, 95], [7]]
noise = uniform_noise(4, 16, torch.Generator().manual_seed(0))
stop = tuple(range(2, 200, 9))
ours = TorchSampler(actor, len(tokenizer), stop, 0)
theirs = VLLMSampler(actor, folder, len(tokenizer), stop, 64)

def compare(version):
    theirs.wake()
    theirs.load_weights(version)
    ours.wake()
    ours.load_weights(version)
    a = ours.generate(prompts, noise, Sampling(16, 0.0))
    b = theirs.generate(prompts, noise, Sampling(16, 0.0))
    for x, y in zip(a, b):
        assert y.weight_version == version
        assert x.tokens == y.tokens and x.truncated == y.truncated, (x.tokens, y.tokens)
    for temperature in (1.0, 0.7):
        drawn = theirs.generate(prompts, noise, Sampling(16, temperature))
        assert drawn == theirs.generate(prompts, noise, Sampling(16, temperature))
        for prompt, sample in zip(prompts, drawn):
            with torch.no_grad():
                logits = actor(torch.tensor([prompt + sample.tokens])).logits[0, len(prompt) - 1 : -1, : len(tokenizer)]
            expected = (logits / temperature).log_softmax(-1).gather(1, torch.tensor(sample.tokens)[:, None]).squeeze(1)
            assert (expected - torch.tensor(sample.logprobs)).abs().max() < 2e-3
            assert max(sample.tokens) < len(tokenizer)
    theirs.sleep()
    return [x.tokens for x in a]

before = compare(0)
with torch.no_grad():
    for parameter in actor.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
after = compare(1)
assert before != after
print("weights pushed")
"""


@pytest.mark.slow
def test_weights_pushed_into_vllm_give_torchs_tokens(tmp_path):
    pytest.importorskip("vllm", reason="needs vLLM (its CPU build will do)")
    shape = TinyConfig(hidden=128, layers=2, heads=4, kv_heads=2, intermediate=128)  # vLLM's CPU attention wants heads of 32
    folder = small_model(tmp_path / "model", extra_rows=6, scale=1.5, shape=shape)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert "weights pushed" in done.stdout, done.stderr[-3000:]


def test_unknown_versions_are_refused():
    check_version("0.32.0")
    check_version("0.32.0+cpu")
    for version in ("0.8.1", "1.2.0"):
        with pytest.raises(EngineError, match="not known to work"):
            check_version(version)


class FakeEngine:
    """Notes the order of calls; drops prefixes only when told to."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append(name)
            if name == "collective_rpc":
                assert args == ("reload_weights",) and len(list(kwargs["kwargs"]["weights_iterator"])) > 5
            return True

        return call


def test_order_of_calls_is_wake_push_reset_sleep(tmp_path):
    from train.model import load_model

    actor = load_model(str(small_model(tmp_path / "model")))
    sampler = VLLMSampler.__new__(VLLMSampler)
    sampler.engine, sampler.actor, sampler.version, sampler.asleep, sampler.on_gpu = FakeEngine(), actor, -1, False, True
    for version in (0, 0, 1):
        sampler.wake()
        sampler.load_weights(version)
        sampler.sleep()
    # the second push happens although the version is the same: sleeping dropped the weights
    push = ["collective_rpc", "reset_prefix_cache", "sleep"]
    assert sampler.engine.calls == [*push, "wake_up", *push, "wake_up", *push]
    with pytest.raises(AssertionError, match="wake first"):
        sampler.load_weights(2)


def test_what_vllm_starts_is_tied_to_this_process_and_its_death_is_one_line(tmp_path, monkeypatch):
    from curate.engines import lifeline
    from rl.samplers.base import Sampling

    owners = []

    class Engine:
        def __init__(self, **_):
            owners.append(lifeline._owner)

        def generate(self, *_, **__):
            raise Exception("EngineCore encountered an issue\nand a long trace")

    fake = types.SimpleNamespace(__version__="0.32.0", LLM=Engine, SamplingParams=lambda **_: None)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    sampler = VLLMSampler(types.SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(9, 2)), tmp_path, 9, (2,), 8)
    assert owners == [os.getpid()] and lifeline._owner == 0
    with pytest.raises(EngineError, match="the vllm sampler died: EngineCore encountered an issue$"):
        sampler.generate([[1]], torch.zeros(1, 4), Sampling(4))


def test_a_tied_head_is_not_pushed_twice(tmp_path):
    from train.model import load_model

    actor = load_model(str(small_model(tmp_path / "model")))
    names = [name for name, _ in adapter._weights(actor)]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    assert len(names) == len(actor.state_dict()) - 1 and isinstance(dict(adapter._weights(actor))["model.norm.weight"], torch.Tensor)
