"""The torch sampler: log-probabilities are the trainer's, rows do not disturb each other, EOS ends, padding ids never come."""

import pytest
import torch

from curate.records.errors import UserError
from rl.samplers.base import Sampling, check_prompts, stop_ids, uniform_noise
from rl.samplers.torch import TorchSampler
from tests.rl.tiny import small_model
from train.model import load_model, load_tokenizer

PROMPTS = [[1, 20, 30, 40], [1, 5], [1, 90, 91, 92, 93, 94, 95], [7], [1, 20, 30], [1, 5]] * 3


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = small_model(tmp_path_factory.mktemp("model"), extra_rows=11)
    tokenizer = load_tokenizer(str(folder))
    return load_model(str(folder), tokenizer=tokenizer), tokenizer


def _sampler(loaded, stop=(2,), **changes):
    model, tokenizer = loaded
    sampler = TorchSampler(model, len(tokenizer), stop, 0, **changes)
    sampler.load_weights(0)
    return sampler


def _noise(rows=len(PROMPTS), tokens=24, seed=0):
    return uniform_noise(rows, tokens, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_logprobs_are_those_of_a_plain_forward_pass(loaded, temperature):
    model, tokenizer = loaded
    samples = _sampler(loaded, stop=range(2, 200, 7)).generate(PROMPTS, _noise(), Sampling(24, temperature))
    assert len({len(sample.tokens) for sample in samples}) > (3 if temperature else 1)  # rows left the batch at different times
    for prompt, sample in zip(PROMPTS, samples):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + sample.tokens])).logits[0, len(prompt) - 1 : -1, : len(tokenizer)]
        expected = (logits / (temperature or 1.0)).log_softmax(-1)
        got = expected.gather(1, torch.tensor(sample.tokens)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(sample.logprobs), got, atol=1e-5, rtol=0)
        if temperature == 0.0:
            assert sample.tokens == logits.argmax(-1).tolist()


def test_a_row_does_not_depend_on_the_rows_beside_it(loaded):
    together = _sampler(loaded, stop=range(2, 200, 7)).generate(PROMPTS, _noise(), Sampling(24))
    noise = _noise()
    for row, prompt in enumerate(PROMPTS):
        (alone,) = _sampler(loaded, stop=range(2, 200, 7)).generate([prompt], noise[row : row + 1], Sampling(24))
        assert alone.tokens == together[row].tokens
    few = _sampler(loaded, stop=range(2, 200, 7), max_rows=4).generate(PROMPTS, _noise(), Sampling(24))
    assert [sample.tokens for sample in few] == [sample.tokens for sample in together]


def test_noise_decides_and_repeats(loaded):
    first, again, other = (_sampler(loaded).generate(PROMPTS, _noise(seed=seed), Sampling(24)) for seed in (0, 0, 1))
    assert first == again
    assert [sample.tokens for sample in first] != [sample.tokens for sample in other]


def test_responses_end_with_the_first_stop_token_or_are_truncated(loaded):
    stop = set(range(2, 200, 7))
    for sample in _sampler(loaded, stop=tuple(stop)).generate(PROMPTS, _noise(), Sampling(24)):
        assert not stop & set(sample.tokens[:-1])
        assert sample.truncated == (sample.tokens[-1] not in stop)
        assert len(sample.tokens) == len(sample.logprobs) <= 24
        assert not sample.truncated or len(sample.tokens) == 24


def test_ids_beyond_the_tokenizer_are_never_sampled(loaded):
    model, tokenizer = loaded
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows > len(tokenizer)
    with torch.no_grad():
        kept = model.lm_head.weight[len(tokenizer) :].clone()
        model.lm_head.weight[len(tokenizer) :] = 50 * model.lm_head.weight[5]  # the padded rows would win
    for temperature in (1.0, 0.0):
        for sample in _sampler(loaded).generate(PROMPTS, _noise(), Sampling(24, temperature)):
            assert max(sample.tokens) < len(tokenizer)
    with torch.no_grad():
        model.lm_head.weight[len(tokenizer) :] = kept


def test_sampled_frequencies_follow_the_distribution(loaded):
    model, tokenizer = loaded
    rows = 4000
    samples = _sampler(loaded, max_rows=rows).generate([[1, 20]] * rows, _noise(rows, 1), Sampling(1))
    with torch.no_grad():
        probs = model(torch.tensor([[1, 20]])).logits[0, -1, : len(tokenizer)].softmax(-1)
    counts = torch.bincount(torch.tensor([sample.tokens[0] for sample in samples]), minlength=len(tokenizer))
    # chi-square over the tokens that are expected often enough
    common = probs * rows > 5
    statistic = ((counts - probs * rows) ** 2 / (probs * rows))[common].sum().item()
    freedom = int(common.sum()) - 1
    assert freedom > 5 and statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_prompts_over_the_limit_are_named_and_eos_is_needed():
    assert check_prompts([[1, 2], [1, 2, 3], [1]], 2) == [1]
    with pytest.raises(UserError, match="no EOS"):
        stop_ids(None)


SHAPE = {
    "vocab_size": 200, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "initializer_range": 0.4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
GPT2 = {
    "vocab_size": 200,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.3,
    "resid_pdrop": 0,
    "embd_pdrop": 0,
    "attn_pdrop": 0,
}


@pytest.mark.parametrize(
    ("family", "changes", "slow"),
    [
        ("llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 10_000.0, **LLAMA3}}, ""),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "head_dim": 16}, ""),
        ("qwen2", {}, ""),
        ("qwen3", {"head_dim": 16}, ""),
        ("mistral", {"sliding_window": None}, ""),
        ("mistral", {"sliding_window": 8}, "sliding window"),
        ("llama", {"rope_parameters": {"rope_theta": 10_000.0, "rope_type": "dynamic", "factor": 2.0}}, "rotary embedding is dynamic"),
        ("llama", {"hidden_act": "gelu"}, "activation is gelu"),
        ("gpt2", GPT2, "architecture is gpt2"),
    ],
)
def test_every_architecture_samples_what_its_own_forward_pass_says(family, changes, slow, capsys):
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **(changes if family == "gpt2" else SHAPE | changes))
        model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # their initial zeros and ones would hide a forgotten one
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    sampler = TorchSampler(model, 190, tuple(range(2, 190, 9)), 0)
    sampler.load_weights(3)
    warning = capsys.readouterr().err
    assert slow in warning and bool(slow) == bool(warning)
    samples = sampler.generate(PROMPTS, _noise(), Sampling(24))
    assert len({len(sample.tokens) for sample in samples}) > 3
    for prompt, sample in zip(PROMPTS, samples):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + sample.tokens])).logits[0, len(prompt) - 1 : -1, :190]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(sample.tokens)[:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=2e-5, rtol=0)
        assert sample.weight_version == 3


def test_samples_are_of_the_weights_that_were_loaded(loaded):
    sampler = _sampler(loaded)
    sampler.sleep()
    with pytest.raises(AssertionError, match="load_weights"):
        sampler.generate(PROMPTS, _noise(), Sampling(4))


def test_bfloat16_is_computed_in_and_differs_a_little(loaded):
    narrow = _sampler(loaded, dtype=torch.bfloat16).generate(PROMPTS, _noise(), Sampling(1))
    wide = _sampler(loaded).generate(PROMPTS, _noise(), Sampling(1))
    same = [(a.logprobs[0], b.logprobs[0]) for a, b in zip(narrow, wide) if a.tokens == b.tokens]
    assert len(same) > 9 and 1e-5 < max(abs(a - b) for a, b in same) < 0.3
