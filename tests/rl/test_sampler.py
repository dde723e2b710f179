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
    return TorchSampler(model, len(tokenizer), stop, 0, **changes)


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


def test_other_architectures_are_refused(loaded):
    class Odd:
        class config:
            model_type = "gpt2"

    from rl.samplers.decode import CachedModel

    with pytest.raises(UserError, match="use --sampler vllm"):
        CachedModel(Odd(), 1, 1)  # type: ignore[arg-type]
