"""How much arithmetic a step must do, and what share of the machine's peak that is.

MFU = FLOPs that the model *must* do / seconds / peak of the device in the compute dtype (dense). Counted: 2 FLOPs a multiply-add; forward
once and backward twice; every weight matrix once per token, the head only on positions that have a target; attention as causal and within
documents (QK^T and PV: 2 x 2 x length^2 / 2 x heads x head size, forward). Not counted: recomputation, embeddings look-up, norms, rotary.
nanochat and torchtitan count 6N + 12 L H T, that is full attention over the row and the head everywhere, which gives a higher figure.
"""

from typing import Any

import torch

# Dense peak in TFLOP/s for bfloat16, vendors' data sheets; longest name first.
PEAKS_BF16 = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak FLOP/s of a known GPU in bfloat16; None for other dtypes, unknown GPUs and CPUs."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for key, peak in PEAKS_BF16.items() if key.split()[0] in name and key.split()[-1] in name), None)


def matrix_parameters(config: Any) -> tuple[int, int]:
    """(weights of the decoder layers' matrices, weights of the head) of a Llama-like configuration."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    attention = config.hidden_size * head_dim * (2 * config.num_attention_heads + 2 * kv_heads)
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp), config.vocab_size * config.hidden_size


def training_flops(config: Any, num_tokens: int, num_loss_tokens: int, sum_squared_lengths: int) -> float:
    """FLOPs of forward and backward over `num_tokens` in documents whose squared lengths add up to `sum_squared_lengths`."""
    layers, head = matrix_parameters(config)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6.0 * config.num_hidden_layers * config.num_attention_heads * head_dim * sum_squared_lengths
    return 6.0 * layers * num_tokens + 6.0 * head * num_loss_tokens + attention
