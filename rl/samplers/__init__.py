"""Samplers behind one protocol: `torch` (KV cache, shares the actor's weights) and `vllm` (colocated, weights pushed)."""
