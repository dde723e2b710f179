"""One decoding step of a Llama-family model over a preallocated KV cache, with a length of its own for every row.

Reads the weights of the Hugging Face modules in place, so there is nothing to synchronise. `transformers`' own cache is concatenated
at every token (all keys and values are copied once a step); here a step writes one position per row.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from curate.records.errors import UserError

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
_CACHE_BLOCK = 16


class CachedModel:
    """A causal language model with its cache. Rows may be dropped (`keep`); `lengths_B` is the number of cached tokens of each."""

    def __init__(self, model: Any, num_rows: int, capacity: int) -> None:
        config = model.config
        if config.model_type not in FAMILIES or getattr(config, "sliding_window", None):
            raise UserError(
                f"the torch sampler decodes {', '.join(FAMILIES)} without a sliding window, not {config.model_type!r}; use --sampler vllm"
            )
        self.model = model
        self.layers = model.model.layers
        weight = model.get_input_embeddings().weight
        self.device, self.dtype = weight.device, weight.dtype
        self.num_heads, self.num_kv = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (len(self.layers), 2, num_rows, self.num_kv, capacity, self.head_dim)
        self.cache = torch.zeros(shape, device=self.device, dtype=self.dtype)
        self.lengths_B = torch.zeros(num_rows, dtype=torch.long, device=self.device)

    def prefill(self, tokens_BP: Tensor, lengths_B: Tensor) -> Tensor:
        """Read right-padded prompts; returns the logits after each prompt's last token, (B, V) in float32.

        What is cached beyond a row's length is never attended to, and is overwritten by the row's own tokens.
        """
        rows, width = tokens_BP.shape
        positions = torch.arange(width, device=self.device).expand(rows, width)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.cache[layer, 0, :, :, :width], self.cache[layer, 1, :, :, :width] = k, v
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.num_kv != self.num_heads)

        hidden_BPD = self._forward(tokens_BP, positions, attend)
        self.lengths_B.copy_(lengths_B)
        return self._logits(hidden_BPD[torch.arange(rows, device=self.device), lengths_B - 1])

    def step(self, tokens_B: Tensor, longest: int) -> Tensor:
        """Append one token to every row; returns logits (B, V) in float32. `longest` is the largest length after it (known to the host)."""
        rows = torch.arange(len(tokens_B), device=self.device)
        positions_B = self.lengths_B
        seen = min(-(-longest // _CACHE_BLOCK) * _CACHE_BLOCK, self.cache.shape[4])
        mask = (torch.arange(seen, device=self.device)[None, :] <= positions_B[:, None])[:, None, None, :]
        groups = self.num_heads // self.num_kv

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.cache[layer, 0], self.cache[layer, 1]
            keys[rows, :, positions_B] = k[:, :, 0]
            values[rows, :, positions_B] = v[:, :, 0]
            # the heads that share a key are the "queries" of one attention problem, so nothing is repeated for grouped heads
            q = q.view(len(tokens_B), self.num_kv, groups, self.head_dim)
            out = F.scaled_dot_product_attention(q, keys[:, :, :seen], values[:, :, :seen], attn_mask=mask)
            return out.reshape(len(tokens_B), self.num_heads, 1, self.head_dim)

        hidden_B1D = self._forward(tokens_B[:, None], positions_B[:, None], attend)
        self.lengths_B += 1
        return self._logits(hidden_B1D[:, 0])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache = self.cache[:, :, rows]
        self.lengths_B = self.lengths_B[rows]

    def _forward(self, tokens_BT: Tensor, positions_BT: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        base = self.model.model
        hidden = base.embed_tokens(tokens_BT)
        cos, sin = base.rotary_emb(hidden, positions_BT)
        cos, sin = cos[:, None], sin[:, None]
        batch, width = tokens_BT.shape
        for number, layer in enumerate(self.layers):
            attention = layer.self_attn
            x = layer.input_layernorm(hidden)
            q = attention.q_proj(x).view(batch, width, -1, self.head_dim)
            k = attention.k_proj(x).view(batch, width, -1, self.head_dim)
            v = attention.v_proj(x).view(batch, width, -1, self.head_dim).transpose(1, 2)
            if hasattr(attention, "q_norm"):
                q, k = attention.q_norm(q), attention.k_norm(k)
            q, k = _rotate(q.transpose(1, 2), cos, sin), _rotate(k.transpose(1, 2), cos, sin)
            mixed = attend(number, q, k, v).transpose(1, 2).reshape(batch, width, -1)
            hidden = hidden + attention.o_proj(mixed)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return base.norm(hidden)

    def _logits(self, hidden_BD: Tensor) -> Tensor:
        return self.model.lm_head(hidden_BD).float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
