"""An exported model with tied embeddings is the same model in vLLM: the whole distribution at every step, not only the likeliest token."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.train.runs import ROOT, write_data
from train.loop import train
from train.settings import SftSettings

SCRIPT = """
import sys, torch, vllm
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
engine = vllm.LLM(
    model=folder, dtype="float32", max_model_len=64, max_logprobs=-1, enforce_eager=True, generation_config="vllm", gpu_memory_utilization=0.3
)
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
assert model.lm_head.weight is model.model.embed_tokens.weight
texts = ["12+3=", "99+99=1", "7"]
wanted = vllm.SamplingParams(temperature=0.0, max_tokens=6, logprobs=-1, ignore_eos=True)
for text, output in zip(texts, engine.generate(texts, wanted, use_tqdm=False), strict=True):
    prompt = tokenizer(text)["input_ids"]
    assert list(output.prompt_token_ids) == prompt, (output.prompt_token_ids, prompt)
    made = list(output.outputs[0].token_ids)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + made])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)
    assert made == expected.argmax(-1).tolist()
    for row, found in zip(expected, output.outputs[0].logprobs, strict=True):
        theirs = torch.tensor([found[token].logprob for token in range(len(row))])
        assert (row - theirs).abs().max() < 1e-3, (row - theirs).abs().max()
print("the same model")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make install; its CPU build will do)")
def test_vllm_gives_the_log_probabilities_of_transformers(tmp_path):
    write_data(tmp_path / "data", count=60)
    # heads of 32, which vLLM's CPU attention wants; trained far enough for its distributions not to be flat
    options = {"context_tokens": 64, "tokens_per_step": 512, "learning_rate": 3e-3, "max_steps": 6}
    train("sft", SftSettings(data=tmp_path / "data", out=tmp_path / "out", model="tiny:3M", **options))
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out" / "model")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert "the same model" in done.stdout, done.stderr[-3000:]
