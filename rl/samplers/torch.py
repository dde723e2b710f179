"""Sampling with plain torch: the actor's own modules, one KV cache, finished rows dropped from the batch as they finish."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl.samplers.base import Sample, Sampling, Token
from rl.samplers.decode import CachedModel

COMPACT_BELOW = 0.8  # shrink the batch when fewer than this share of its rows are alive: a copy of the cache against idle rows
CHECK_EVERY_TOKENS = 4  # how often a GPU is asked which rows are alive; asking makes it wait


class TorchSampler:
    """Shares `model` with the trainer, so weights are always the actor's. `vocab_size` is the tokenizer's: ids beyond it are masked."""

    def __init__(self, model: nn.Module, vocab_size: int, stop: Sequence[Token], pad: Token, max_rows: int = 1024) -> None:
        self.model, self.vocab_size, self.stop, self.pad, self.max_rows = model, vocab_size, tuple(stop), pad, max_rows
        self.version = 0

    def load_weights(self, version: int) -> None:
        """Nothing is copied: the weights are shared. Remembers the number."""
        self.version = version

    def sleep(self) -> None:
        """The cache lives only inside `generate`."""

    def wake(self) -> None:
        """Always ready."""

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[Token]], noise_BT: Tensor, sampling: Sampling) -> list[Sample]:
        """See `Sampler.generate`. A row's result depends on its prompt and noise alone, not on the rows beside it (up to rounding)."""
        was_training = self.model.training
        self.model.eval()
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
        longest = max(len(prompt) for prompt in prompts)
        cached = CachedModel(self.model, len(prompts), longest + sampling.max_new_tokens)
        device = cached.device
        tokens_BP = torch.full((len(prompts), longest), self.pad)
        for row, prompt in enumerate(prompts):
            tokens_BP[row, : len(prompt)] = torch.tensor(prompt)
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        tokens_BT = torch.full((len(prompts), sampling.max_new_tokens), self.pad, device=device)
        logprobs_BT = torch.zeros(tokens_BT.shape, device=device)
        counts_B = torch.zeros(len(prompts), dtype=torch.long, device=device)
        ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        stop = torch.tensor(self.stop, device=device)
        noise_BT = noise_BT.to(device)

        alive = torch.arange(len(prompts), device=device)  # the batch's rows, as places in tokens_BT
        logits = cached.prefill(tokens_BP.to(device), lengths_B)
        for place in range(sampling.max_new_tokens):
            chosen, logprobs = self._choose(logits, noise_BT[alive, place], sampling.temperature)
            running = ~ended_B[alive]
            tokens_BT[alive, place] = torch.where(running, chosen, self.pad)
            logprobs_BT[alive, place] = torch.where(running, logprobs, 0.0)
            counts_B[alive] += running
            ended_B[alive] |= torch.isin(chosen, stop)
            if place + 1 == sampling.max_new_tokens:
                break
            if device.type == "cpu" or (place + 1) % CHECK_EVERY_TOKENS == 0:
                left = (~ended_B[alive]).nonzero().squeeze(1)
                if not len(left):
                    break
                if len(left) < COMPACT_BELOW * len(alive):
                    cached.keep(left)
                    alive, chosen = alive[left], chosen[left]
            logits = cached.step(chosen, longest + place + 1)
        tokens, logprobs_list, counts, ended = tokens_BT.tolist(), logprobs_BT.tolist(), counts_B.tolist(), ended_B.tolist()
        return [Sample(tokens[row][:n], logprobs_list[row][:n], not ended[row], self.version) for row, n in enumerate(counts)]

    def _choose(self, logits_BV: Tensor, noise_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Inverse-CDF sampling with one uniform number a row; greedy at temperature 0 (log-probabilities then at temperature 1)."""
        logits_BV = logits_BV[:, : self.vocab_size]
        logprobs_BV = (logits_BV / temperature if temperature > 0 else logits_BV).log_softmax(-1)
        if temperature > 0:
            cumulative_BV = logprobs_BV.double().exp().cumsum(-1)
            reached = noise_B[:, None] * cumulative_BV[:, -1:]
            chosen = torch.searchsorted(cumulative_BV, reached, right=True).squeeze(1).clamp(max=logprobs_BV.shape[1] - 1)
        else:
            chosen = logits_BV.argmax(-1)
        return chosen, logprobs_BV.gather(1, chosen[:, None]).squeeze(1)
