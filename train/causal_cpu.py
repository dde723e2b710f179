"""Causal attention document by document on a CPU, without the half of the work that torch's kernel throws away.

torch's flash kernel for the CPU walks over keys in blocks of 512, so up to that length a causal call computes the whole square (and
about 1.3 times what is needed at 1,024). Here the triangle is halved until it is small: two triangles and, between them, a square that is
no triangle, each by the same kernel. Parts over the same queries are joined by their log-sums (Dao et al. 2022, section 3.1); the
backward kernel takes the joined output and log-sum, which is all that it needs to be right for a part.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TRIANGLE = 128  # positions of a triangle that is not divided further
HALVED_FROM = 320  # a shorter document is one triangle: more calls cost as much as they save

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def documents_attention(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float | None) -> Tensor:
    """softmax(query @ key.T * scale, causal) @ value within each document of a row; all of shape (1, heads, T, size).

    `lengths` are the documents' and add up to T. Float32 or float64. Returns (1, heads, T, size).
    """
    return _Documents.apply(query, key, value, lengths, scale)


def parts(lengths: list[int]) -> Iterator[tuple[slice, slice, bool]]:
    """(queries, keys, is a triangle): together every query with every key of its document up to itself, once; its triangle comes first."""
    start = 0
    for length in lengths:
        if length < HALVED_FROM:
            yield slice(start, start + length), slice(start, start + length), True
        else:
            yield from _halves(start, start + length)
        start += length


def _halves(start: int, end: int) -> Iterator[tuple[slice, slice, bool]]:
    if end - start <= TRIANGLE:
        yield slice(start, end), slice(start, end), True
        return
    # in whole triangles, so that no sliver remains
    middle = start + TRIANGLE * -(-(end - start) // (2 * TRIANGLE))
    yield from _halves(start, middle)
    yield from _halves(middle, end)
    yield slice(middle, end), slice(start, middle), False


class _Documents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float | None) -> Tensor:
        batch, heads, length, _ = query.shape
        # as the kernel lays them out: (1, T, heads, size), seen as (1, heads, T, size)
        out = query.new_empty(batch, length, heads, value.shape[3]).transpose(1, 2)
        sums = query.new_empty(batch, length, heads).transpose(1, 2)
        for rows, columns, triangle in parts(lengths):
            part, part_sums = _forward(query[:, :, rows], key[:, :, columns], value[:, :, columns], 0.0, triangle, scale=scale)
            if triangle:
                out[:, :, rows], sums[:, :, rows] = part, part_sums
            else:
                # out = (1 - w) out + w part, with w = e^part_sums / (e^sums + e^part_sums)
                out[:, :, rows].lerp_(part, torch.sigmoid(part_sums - sums[:, :, rows]).unsqueeze(3))
                sums[:, :, rows] = torch.logaddexp(sums[:, :, rows], part_sums)
        ctx.save_for_backward(query, key, value, out, sums)
        ctx.lengths, ctx.scale = lengths, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        query, key, value, out, sums = ctx.saved_tensors
        grads = tuple(torch.empty_like(x) for x in (query, key, value))
        for rows, columns, triangle in parts(ctx.lengths):
            inputs = (grad[:, :, rows], query[:, :, rows], key[:, :, columns], value[:, :, columns], out[:, :, rows], sums[:, :, rows])
            made = _backward(*inputs, 0.0, triangle, scale=ctx.scale)
            for total, part, where in zip(grads, made, (rows, columns, columns)):
                if triangle:
                    total[:, :, where] = part
                else:
                    total[:, :, where] += part
        return *grads, None, None
