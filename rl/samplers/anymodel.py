"""Decoding any causal language model of transformers through its own forward pass and cache: slower than `decode`, but knows them all."""

from typing import Any

import torch
from torch import Tensor


class AnyDecoder:
    """The same calls as `decode.LlamaDecoder`. Rows are padded on the left, as transformers wants them."""

    def __init__(self, model: Any, vocab_size: int) -> None:
        self.model, self.vocab_size = model, vocab_size
        self.device = model.get_input_embeddings().weight.device

    def prefill(self, tokens_UP: Tensor, lengths_U: Tensor, prompt_B: Tensor) -> Tensor:
        """Read right-padded prompts; returns logits (B, V) in float32."""
        width = tokens_UP.shape[1]
        start_U = width - lengths_U
        slots = torch.arange(width, device=self.device)[None]
        tokens_UP = tokens_UP.gather(1, (slots - start_U[:, None]).clamp(min=0))
        self.mask_BS = (slots >= start_U[:, None])[prompt_B].long()
        self.positions_B = lengths_U[prompt_B]
        positions_BP = (slots - start_U[:, None]).clamp(min=0)[prompt_B]
        out = self.model(input_ids=tokens_UP[prompt_B], attention_mask=self.mask_BS, position_ids=positions_BP, use_cache=True)
        self.cache = out.past_key_values
        return self._logits(out)

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to every row; returns logits (B, V) in float32."""
        self.mask_BS = torch.cat((self.mask_BS, self.mask_BS.new_ones(len(tokens_B), 1)), 1)
        out = self.model(
            input_ids=tokens_B[:, None],
            attention_mask=self.mask_BS,
            position_ids=self.positions_B[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions_B = self.positions_B + 1
        return self._logits(out)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.mask_BS, self.positions_B = self.mask_BS[rows], self.positions_B[rows]

    def _logits(self, out: Any) -> Tensor:
        logits_BV = out.logits[:, -1, : self.vocab_size]
        return logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
