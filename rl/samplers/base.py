"""What every sampler takes and gives back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from curate.records.errors import UserError

Token = int


@dataclass(frozen=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; `top_p` and `top_k` do not exist, because log-probabilities would then be another's."""

    max_new_tokens: int
    temperature: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One response. `tokens` hold the EOS when it came (`truncated` is False then); `logprobs` are the sampler's, at its temperature."""

    tokens: list[Token]
    logprobs: list[float]
    truncated: bool
    weight_version: int


class Sampler(Protocol):
    """Call order: `load_weights` after every change of the actor, `wake` before `generate`, `sleep` after it."""

    def generate(self, prompts: Sequence[Sequence[Token]], noise_BT: Tensor, sampling: Sampling) -> list[Sample]:
        """One response a prompt, in order. `noise_BT` (B, at least max_new_tokens) are uniform numbers in [0, 1): the only randomness."""
        ...

    def load_weights(self, version: int) -> None:
        """Take over the actor's present weights under the number `version`."""
        ...

    def sleep(self) -> None:
        """Give memory back to the trainer."""
        ...

    def wake(self) -> None:
        """Be ready to generate."""
        ...


def check_prompts(prompts: Sequence[Sequence[Token]], max_prompt_tokens: int) -> list[int]:
    """Places of prompts that are too long; they are refused, never cut. An empty prompt is an error of the caller."""
    assert all(prompts), "a prompt without tokens"
    return [place for place, prompt in enumerate(prompts) if len(prompt) > max_prompt_tokens]


def uniform_noise(num_rows: int, num_tokens: int, generator: torch.Generator) -> Tensor:
    """(num_rows, num_tokens) numbers in [0, 1) from the generator passed in, on the CPU, so that devices and ranks agree."""
    return torch.rand(num_rows, num_tokens, generator=generator, dtype=torch.float64)


def stop_ids(eos: int | Iterable[int] | None) -> tuple[int, ...]:
    """The tokens that end a response. Raises UserError when there is none."""
    ids = () if eos is None else (eos,) if isinstance(eos, int) else tuple(sorted(eos))
    if not ids:
        raise UserError("the tokenizer has no EOS token, so no response could end; set eos_token in its tokenizer_config.json")
    return ids
