"""The decoding step of a Llama-family model over a preallocated KV cache.

`transformers` copies all cached keys and values at every token, and attention for one query a row takes the general kernel, most of whose
time on a CPU is bookkeeping for 1,000 tiny problems. Here a step writes one slot of the cache, attention is two batched products, query,
key and value (gate and up) are one product each, and a prompt that is sampled several times is read once.

Rows are aligned at the right end of their prompts, so that all write the same slot; slots before a row's start are masked.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from train.state import full_tensor

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
# kinds of rotary embedding whose angles depend on the position alone, not on the length of the text
STATIC_ROTARY = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Layer:
    """Weights of one layer; q, k and v are one matrix, gate and up another. A bias or norm that the family does not have is None."""

    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    input_norm: Tensor
    mlp_norm: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


def why_not(model: Any) -> str:
    """Why this model cannot be decoded here, in words; empty when it can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"its architecture is {config.model_type}"
    if getattr(config, "sliding_window", None):
        return "it has a sliding window"
    if config.hidden_act not in ("silu", "swish"):
        return f"its activation is {config.hidden_act}"
    if (kind := getattr(model.model.rotary_emb, "rope_type", "default")) not in STATIC_ROTARY:
        return f"its rotary embedding is {kind}"
    return ""


class LlamaWeights:
    """A model's weights as the decoding step wants them, in `dtype`: taken anew after each update. `vocab_size` cuts padded rows off.

    A collective when the model is sharded: every rank must make one, and holds the whole model then.
    """

    def __init__(self, model: Any, vocab_size: int, dtype: torch.dtype) -> None:
        config, base = model.config, model.model
        embedding = model.get_input_embeddings().weight
        self.device, self.dtype = embedding.device, dtype
        self.num_heads, self.num_kv = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.epsilon = config.rms_norm_eps
        self.rotary = base.rotary_emb

        def take(*parts: Tensor | None) -> Any:
            if parts[0] is None:
                return None
            whole = [full_tensor(part, self.device).to(dtype) for part in parts if part is not None]
            return whole[0] if len(whole) == 1 else torch.cat(whole)

        self.embedding = take(embedding)
        head = model.get_output_embeddings().weight
        self.head = (self.embedding if head is embedding else take(head))[:vocab_size]
        self.final_norm = take(base.norm.weight)
        self.layers = []
        for layer in base.layers:
            a, mlp = layer.self_attn, layer.mlp
            self.layers.append(
                Layer(
                    take(a.q_proj.weight, a.k_proj.weight, a.v_proj.weight),
                    take(a.q_proj.bias, a.k_proj.bias, a.v_proj.bias),
                    take(a.o_proj.weight),
                    take(a.o_proj.bias),
                    take(mlp.gate_proj.weight, mlp.up_proj.weight),
                    take(mlp.gate_proj.bias, mlp.up_proj.bias),
                    take(mlp.down_proj.weight),
                    take(mlp.down_proj.bias),
                    take(layer.input_layernorm.weight),
                    take(layer.post_attention_layernorm.weight),
                    take(a.q_norm.weight) if hasattr(a, "q_norm") else None,
                    take(a.k_norm.weight) if hasattr(a, "k_norm") else None,
                )
            )

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Root mean square norm over the last dimension."""
        return F.rms_norm(x, (x.shape[-1],), weight, self.epsilon)


class LlamaDecoder:
    """A batch being decoded. Rows may be dropped (`keep`); `filled` slots of the cache are in use, the same number for every row."""

    def __init__(self, weights: LlamaWeights, capacity: int) -> None:
        self.weights, self.capacity, self.filled = weights, capacity, 0
        self.cache: list[tuple[Tensor, Tensor]] = []
        positions = torch.arange(capacity, device=weights.device)[None]
        cos, sin = weights.rotary(weights.embedding[:1], positions)
        half = sin.shape[-1] // 2
        # rotate(x) = x cos + swap(x) sin, where swap exchanges the halves and the sign of the first is in the table
        self.cos, self.sin = cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)

    def prefill(self, tokens_UP: Tensor, lengths_U: Tensor, prompt_B: Tensor) -> Tensor:
        """Read right-padded prompts once each; row b of the batch goes on from prompt `prompt_B[b]`. Returns logits (B, V) in float32."""
        w = self.weights
        num_prompts, width = tokens_UP.shape
        hidden = w.embedding[tokens_UP]
        cos, sin = self.cos[None, :width, None], self.sin[None, :width, None]
        # slot s of a prompt of length n holds its token s - (width - n)
        source_UW = (torch.arange(width, device=w.device)[None] - (width - lengths_U[:, None])).clamp(min=0)
        for layer in w.layers:
            q, k, v = self._project(layer, hidden, cos, sin)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=w.num_kv != w.num_heads)
            self.cache.append((self._fresh(k, source_UW, prompt_B), self._fresh(v, source_UW, prompt_B)))
            hidden = self._finish(layer, hidden, mixed.transpose(1, 2).reshape(num_prompts, width, -1))
        self.filled = width
        self.start_B = (width - lengths_U)[prompt_B]
        self._mask()
        last_UD = hidden[torch.arange(num_prompts, device=w.device), lengths_U - 1]
        return self._logits(last_UD)[prompt_B]

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token to every row; returns logits (B, V) in float32."""
        w, slot, rows = self.weights, self.filled, len(tokens_B)
        positions_B = slot - self.start_B
        cos, sin = self.cos[positions_B][:, None], self.sin[positions_B][:, None]
        hidden = w.embedding[tokens_B]
        groups, scale = w.num_heads // w.num_kv, w.head_dim**-0.5
        for layer, (keys, values) in zip(w.layers, self.cache):
            q, k, v = self._project(layer, hidden, cos, sin)
            keys[:, :, slot], values[:, :, slot] = k, v
            # the heads that share a key are the rows of one product, so nothing is repeated for grouped heads
            seen_keys, seen_values = (x.view(rows * w.num_kv, self.capacity, w.head_dim)[:, : slot + 1] for x in (keys, values))
            scores = torch.bmm((q * scale).reshape(rows * w.num_kv, groups, w.head_dim), seen_keys.transpose(1, 2))
            if self.padded:
                scores.view(rows, w.num_heads, slot + 1)[:, :, : self.padded].masked_fill_(self.mask, -torch.inf)
            mixed = torch.bmm(scores.softmax(-1), seen_values)
            hidden = self._finish(layer, hidden, mixed.view(rows, -1))
        self.filled += 1
        return self._logits(hidden)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache = [(self._select(keys, rows), self._select(values, rows)) for keys, values in self.cache]
        self.start_B = self.start_B[rows]
        self._mask()

    def _mask(self) -> None:
        """Which of the first slots are padding, (B, 1, padded); rows that need none make it narrower when they leave."""
        self.padded = int(self.start_B.max())
        self.mask = (torch.arange(self.padded, device=self.start_B.device)[None] < self.start_B[:, None])[:, None]

    def _fresh(self, x_UKPD: Tensor, source_UW: Tensor, prompt_B: Tensor) -> Tensor:
        """A cache (B, kv heads, capacity, head dim) that begins with the prompts' keys or values, aligned at their right end."""
        _, num_kv, width, head_dim = x_UKPD.shape
        cache = x_UKPD.new_empty(len(prompt_B), num_kv, self.capacity, head_dim)
        aligned = x_UKPD.gather(2, source_UW[:, None, :, None].expand(-1, num_kv, width, head_dim))
        cache[:, :, :width] = aligned[prompt_B]
        return cache

    def _select(self, cache: Tensor, rows: Tensor) -> Tensor:
        smaller = cache.new_empty(len(rows), *cache.shape[1:])
        smaller[:, :, : self.filled] = cache[:, :, : self.filled][rows]
        return smaller

    def _project(self, layer: Layer, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each (…, heads, head dim)."""
        w = self.weights
        qkv = F.linear(w.norm(hidden, layer.input_norm), layer.qkv, layer.qkv_bias).unflatten(-1, (-1, w.head_dim))
        qk, v = qkv.split((w.num_heads + w.num_kv, w.num_kv), -2)
        if layer.query_norm is not None and layer.key_norm is not None:
            q, k = qk.split((w.num_heads, w.num_kv), -2)
            qk = torch.cat((w.norm(q, layer.query_norm), w.norm(k, layer.key_norm)), -2)
        half = w.head_dim // 2
        swapped = torch.cat((qk[..., half:], qk[..., :half]), -1)
        qk = torch.addcmul(qk * cos, swapped, sin)
        q, k = qk.split((w.num_heads, w.num_kv), -2)
        return q, k, v

    def _finish(self, layer: Layer, hidden: Tensor, mixed: Tensor) -> Tensor:
        w = self.weights
        hidden = hidden + F.linear(mixed, layer.out, layer.out_bias)
        gate, up = F.linear(w.norm(hidden, layer.mlp_norm), layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        return hidden + F.linear(F.silu(gate) * up, layer.down, layer.down_bias)

    def _logits(self, hidden_BD: Tensor) -> Tensor:
        return F.linear(self.weights.norm(hidden_BD, self.weights.final_norm), self.weights.head).to(
            torch.float64 if self.weights.dtype == torch.float64 else torch.float32
        )
