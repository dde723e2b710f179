"""Trajectories of unequal length through a model: planned by tokens, run without padding (or with little), read at response positions.

Position p of a sequence predicts token p+1, so the log-probability of response token t, and the value of the state before it, are read
at position (prompt length - 1 + t).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train.attention import packed_inputs
from train.losses import chunked_logprobs
from train.packing import Row


@dataclass(frozen=True)
class Trajectories:
    """Token ids of prompts and responses, ragged. The index of a trajectory is its row in every (B, T) tensor."""

    prompts: list[list[int]]
    responses: list[list[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def num_tokens(self) -> int:
        """Prompts and responses together."""
        return sum(self.length(row) for row in range(len(self)))

    @property
    def longest_response(self) -> int:
        """T of the (B, T) tensors."""
        return max(map(len, self.responses))

    def length(self, row: int) -> int:
        """Tokens of one trajectory."""
        return len(self.prompts[row]) + len(self.responses[row])

    def mask_BT(self, device: torch.device | str = "cpu") -> Tensor:
        """1 on the tokens of each response, float32."""
        lengths = torch.tensor([len(response) for response in self.responses], device=device)
        return (torch.arange(self.longest_response, device=device)[None, :] < lengths[:, None]).float()


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass. `rows` are trajectories, `inputs` the backbone's arguments; the rest says where responses are.

    `positions_N` index the flattened hidden states, `labels_N` are the response tokens, (`row_N`, `time_N`) their place in (b, T).
    """

    rows: list[int]
    inputs: dict[str, Any]
    positions_N: Tensor
    labels_N: Tensor
    row_N: Tensor
    time_N: Tensor
    width: int

    def scatter(self, flat_N: Tensor) -> Tensor:
        """(N,) values of response tokens to (b, T), zeros elsewhere; differentiable."""
        empty = flat_N.new_zeros(len(self.rows), self.width)
        return empty.index_put((self.row_N, self.time_N), flat_N)


def micro_batches(
    trajectories: Trajectories, rows: Sequence[int], budget_tokens: int, layout: str, device: torch.device, width: int | None = None
) -> Iterator[MicroBatch]:
    """Forward passes over `rows`, each of about `budget_tokens` (a longer trajectory goes alone). Same plan for the same arguments."""
    width = width or trajectories.longest_response
    for group in plan(trajectories, rows, budget_tokens, layout):
        yield _micro_batch(trajectories, group, layout, device, width)


def plan(trajectories: Trajectories, rows: Sequence[int], budget_tokens: int, layout: str) -> list[list[int]]:
    """Rows of each forward pass. Padded: in order of length, so that little is padded. Packed: in the order given, as many as fit."""
    groups: list[list[int]] = []
    used = budget_tokens + 1
    for row in sorted(rows, key=lambda row: (-trajectories.length(row), row)) if layout == "padded" else rows:
        # a group's first row is its longest, and every row of it is padded to that
        cost = trajectories.length(groups[-1][0]) if layout == "padded" and groups else trajectories.length(row)
        if used + cost > budget_tokens:
            groups.append([])
            used, cost = 0, trajectories.length(row)
        groups[-1].append(row)
        used += cost
    return groups


def _micro_batch(trajectories: Trajectories, rows: list[int], layout: str, device: torch.device, width: int) -> MicroBatch:
    lengths = np.array([trajectories.length(row) for row in rows])
    prompt_lengths = np.array([len(trajectories.prompts[row]) for row in rows])
    response_lengths = np.array([len(trajectories.responses[row]) for row in rows])
    sequences = [np.array(trajectories.prompts[row] + trajectories.responses[row]) for row in rows]
    if layout == "packed":
        starts = np.cumsum([0, *lengths])
        ids = np.concatenate(sequences)
        positions = np.concatenate([np.arange(length) for length in lengths])
        inputs = packed_inputs(Row(ids, ids, positions, starts.astype(np.int32)), device)
        offsets = starts[:-1]
    else:
        longest = int(lengths.max())
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        for place, sequence in enumerate(sequences):
            ids[place, : len(sequence)] = sequence
        # padding stands on the right, where causal attention never looks back from a real token
        inputs = {"input_ids": torch.from_numpy(ids).to(device), "use_cache": False}
        offsets = np.arange(len(rows)) * longest
    times = np.concatenate([np.arange(length) for length in response_lengths])
    row_N = np.repeat(np.arange(len(rows)), response_lengths)
    positions_N = np.repeat(offsets + prompt_lengths - 1, response_lengths) + times
    labels_N = np.concatenate([trajectories.responses[row] for row in rows]).astype(np.int64)
    at, labels, places, columns = (torch.from_numpy(x).to(device) for x in (positions_N, labels_N, row_N, times))
    return MicroBatch(rows, inputs, at, labels, places, columns, width)


def policy_outputs(model: Any, micro: MicroBatch, temperature: float, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the response tokens at `temperature`, both (b, T), zeros outside.

    Logits exist a chunk of tokens at a time. Embedding rows beyond `vocab_size` (padding of the vocabulary) have no probability,
    as in the sampler.
    """
    hidden_ND = _hidden(model.base_model, micro)
    logprobs_N, entropy_N = chunked_logprobs(
        hidden_ND, model.get_output_embeddings().weight[:vocab_size], micro.labels_N, temperature=temperature
    )
    return micro.scatter(logprobs_N), micro.scatter(entropy_N)


class Policy(nn.Module):
    """A causal language model whose forward pass is `policy_outputs`, so that FSDP2's hooks see one pass, head included."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, micro: MicroBatch, temperature: float, vocab_size: int) -> tuple[Tensor, Tensor]:
        """See `policy_outputs`."""
        return policy_outputs(self.lm, micro, temperature, vocab_size)


class Critic(nn.Module):
    """A value for every state: a backbone and a linear head that starts at zero, so the first values are 0 and not noise of the head."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        weight = backbone.get_input_embeddings().weight
        self.head = nn.Linear(weight.shape[1], 1, dtype=weight.dtype, device=weight.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, micro: MicroBatch) -> Tensor:
        """Values (b, T) of the states before each response token, zeros outside."""
        hidden_ND = _hidden(self.backbone, micro)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            wide = self.head.weight.dtype
            return micro.scatter(self.head(hidden_ND.to(wide)).squeeze(1))


def _hidden(backbone: Any, micro: MicroBatch) -> Tensor:
    hidden = backbone(**micro.inputs).last_hidden_state
    return hidden.reshape(-1, hidden.shape[-1])[micro.positions_N]
