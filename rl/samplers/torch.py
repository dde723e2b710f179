"""Sampling with plain torch: the actor's own weights, one KV cache, finished rows dropped from the batch as they finish."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from curate.records.errors import UserError
from rl.samplers.anymodel import AnyDecoder
from rl.samplers.base import Sample, Sampling, Token
from rl.samplers.decode import LlamaDecoder, LlamaWeights, why_not

COMPACT_BELOW = 0.9  # shrink the batch when fewer than this share of its rows are alive: a copy of the cache against idle rows
CHECK_EVERY_TOKENS = 4  # how often a GPU is asked which rows are alive; asking makes it wait


class TorchSampler:
    """Samples from `model`, the trainer's own. `vocab_size` is the tokenizer's: ids beyond it are never sampled.

    `dtype` is what is computed in, the weights' own when left out. A model outside the Llama family goes through transformers' forward
    pass, which is printed; that is not possible when it is sharded (UserError).
    """

    def __init__(
        self, model: Any, vocab_size: int, stop: Sequence[Token], pad: Token, max_rows: int = 1024, dtype: torch.dtype | None = None
    ) -> None:
        self.model, self.vocab_size, self.stop, self.pad, self.max_rows = model, vocab_size, tuple(stop), pad, max_rows
        weight = model.get_input_embeddings().weight
        self.dtype: torch.dtype = dtype or weight.dtype
        self.version = 0
        self.weights: LlamaWeights | None = None
        self.slow = why_not(model)
        if self.slow and hasattr(weight, "full_tensor"):
            raise UserError(f"a sharded model is sampled only in the Llama family, and {self.slow}; use one process, or --sampler vllm")
        if self.slow:
            print(f"torch sampler: transformers' own forward pass decodes this model, slowly ({self.slow})", file=sys.stderr, flush=True)

    def load_weights(self, version: int) -> None:
        """Take the actor's weights in the form that decoding wants. A collective when they are sharded."""
        self.version = version
        if not self.slow:
            self.weights = LlamaWeights(self.model, self.vocab_size, self.dtype)

    def sleep(self) -> None:
        """Let go of the weights; the cache lives only inside `generate`."""
        self.weights = None

    def wake(self) -> None:
        """Ready as soon as the weights are loaded."""

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[Token]], noise_BT: Tensor, sampling: Sampling) -> list[Sample]:
        """See `Sampler.generate`. A row's result depends on its prompt and noise alone, not on the rows beside it (up to rounding)."""
        was_training = self.model.training
        self.model.eval()
        assert self.slow or self.weights is not None, "load_weights comes before generate"
        done: list[Sample | None] = [None] * len(prompts)
        # rows of like length share a batch: less padding in the prefill, and a fixed order
        order = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
        for start in range(0, len(order), self.max_rows):
            rows = order[start : start + self.max_rows]
            for place, sample in zip(rows, self._batch([prompts[row] for row in rows], noise_BT[rows], sampling)):
                done[place] = sample
        self.model.train(was_training)
        return [sample for sample in done if sample is not None]

    def _batch(self, prompts: Sequence[Sequence[Token]], noise_BT: Tensor, sampling: Sampling) -> list[Sample]:
        num_rows, num_tokens = len(prompts), sampling.max_new_tokens
        different = list(dict.fromkeys(map(tuple, prompts)))  # the samples of one task share its prefill
        place_of = {prompt: place for place, prompt in enumerate(different)}
        longest = max(map(len, different))
        tokens_UP = torch.full((len(different), longest), self.pad)
        for row, prompt in enumerate(different):
            tokens_UP[row, : len(prompt)] = torch.tensor(prompt)
        decoder: LlamaDecoder | AnyDecoder
        if self.weights is None:
            decoder = AnyDecoder(self.model, self.vocab_size)
            device = decoder.device
        else:
            decoder = LlamaDecoder(self.weights, longest + num_tokens)
            device = self.weights.device
        lengths_U = torch.tensor([len(prompt) for prompt in different], device=device)
        prompt_B = torch.tensor([place_of[tuple(prompt)] for prompt in prompts], device=device)
        noise_TB = noise_BT[:, :num_tokens].T.contiguous().to(device)
        stop = torch.tensor(self.stop, device=device)

        # columns are the rows still in the batch, `alive` says which rows those are; a column is read off when its row leaves
        alive = torch.arange(num_rows, device=device)
        tokens_TB = torch.full((num_tokens, num_rows), self.pad, device=device)
        logprobs_TB = torch.zeros(num_tokens, num_rows, device=device)
        counts_B = torch.full((num_rows,), num_tokens, device=device)
        samples: list[Sample | None] = [None] * num_rows

        def read_off(columns: Tensor) -> None:
            rows, counts = alive[columns].tolist(), counts_B[columns].tolist()
            columns_tokens, columns_logprobs = tokens_TB[:, columns].T.tolist(), logprobs_TB[:, columns].T.tolist()
            for row, count, tokens, logprobs in zip(rows, counts, columns_tokens, columns_logprobs):
                ended = tokens[count - 1] in self.stop
                samples[row] = Sample(tokens[:count], logprobs[:count], not ended, self.version)

        logits = decoder.prefill(tokens_UP.to(device), lengths_U, prompt_B)
        for place in range(num_tokens):
            tokens_TB[place], logprobs_TB[place] = chosen, _ = choose(logits, noise_TB[place], sampling.temperature)
            ends = torch.isin(chosen, stop) if len(self.stop) > 1 else chosen == stop
            counts_B = torch.where(ends, counts_B.clamp(max=place + 1), counts_B)
            if place + 1 == num_tokens:
                break
            if device.type == "cpu" or (place + 1) % CHECK_EVERY_TOKENS == 0:
                running = counts_B > place + 1
                num_running = int(running.sum())
                if not num_running:
                    break
                if num_running < COMPACT_BELOW * len(alive):
                    read_off((~running).nonzero().squeeze(1))
                    left = running.nonzero().squeeze(1)
                    decoder.keep(left)
                    alive, chosen, counts_B = alive[left], chosen[left], counts_B[left]
                    tokens_TB, logprobs_TB, noise_TB = tokens_TB[:, left], logprobs_TB[:, left], noise_TB[:, left]
            logits = decoder.step(chosen)
        read_off(torch.arange(len(alive), device=device))
        return [sample for sample in samples if sample is not None]


def choose(logits_BV: Tensor, noise_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities: inverse-CDF sampling with one uniform number a row, sums in float64.

    Greedy at temperature 0 (log-probabilities then at temperature 1).
    """
    scaled_BV = logits_BV / temperature if temperature not in (0.0, 1.0) else logits_BV
    scaled_BV = scaled_BV - scaled_BV.amax(-1, keepdim=True)
    cumulative_BV = scaled_BV.exp().cumsum(-1, dtype=torch.float64)
    total_B1 = cumulative_BV[:, -1:]
    if temperature > 0:
        reached = noise_B[:, None] * total_B1
        chosen_B1 = torch.searchsorted(cumulative_BV, reached, right=True).clamp(max=logits_BV.shape[1] - 1)
    else:
        chosen_B1 = logits_BV.argmax(-1, keepdim=True)
    logprobs_B1 = scaled_BV.gather(1, chosen_B1) - total_B1.log().to(scaled_BV.dtype)
    return chosen_B1.squeeze(1), logprobs_B1.squeeze(1)
