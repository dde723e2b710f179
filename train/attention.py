"""Attention that cannot cross documents, and the start-up check that proves it on the loaded model.

A packed batch is one row (1, T) of documents end to end. The boundaries are passed along with it, and attention runs document by document:
through torch's variable-length flash kernel on a GPU, one after another elsewhere (`train.causal_cpu`). No mask of T x T is ever made, and
the work is the sum of squared lengths. transformers' own way (reset `position_ids`, no `attention_mask`, cache off) isolates as well, but
fails silently when any of the three is forgotten, and makes the mask.

Without boundaries (generation, padded batches) the same implementation is transformers' `sdpa`, masks included.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from curate.records.errors import UserError
from train.causal_cpu import documents_attention
from train.packing import Row, join_rows, pack_rows

NAME = "fourhabits_packed"
CHECK_LENGTHS = (7, 12, 5)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class DocumentSpans:
    """Where the documents of a packed row lie, for the device (`boundaries`: 0, …, T) and for Python (`lengths`).

    `longest` is rounded up to a power of two: it only sizes a kernel launch, and few values mean few recompilations.
    """

    boundaries: Tensor
    lengths: list[int]
    longest: int


def use_packed_attention(model: Any) -> None:
    """Switch a transformers model to this implementation; padded batches and generation go on as with `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def packed_inputs(row: Row, device: torch.device | str) -> dict[str, Any]:
    """Arguments of a transformers backbone for one packed row: hidden states of shape (1, T, D) come out, documents isolated.

    The mask is a stand-in of one element, which keeps transformers from making its own; nothing reads it.
    """
    lengths = (row.boundaries[1:] - row.boundaries[:-1]).tolist()
    return {
        "input_ids": torch.from_numpy(row.input_ids_T).to(device)[None],
        "position_ids": torch.from_numpy(row.position_ids_T).to(device)[None],
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "use_cache": False,
        "documents": DocumentSpans(torch.from_numpy(row.boundaries).to(device), lengths, 1 << (max(lengths) - 1).bit_length()),
    }


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any) -> Any:
    if (spans := kwargs.pop("documents", None)) is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if kwargs.get("sliding_window") or kwargs.get("softcap"):
        raise UserError("this model's attention (sliding window or soft cap) is not supported in packed training")
    scale = kwargs.get("scaling")
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        query_THd, key_THd, value_THd = (x[0].transpose(0, 1) for x in (query, key, value))
        ends, grouped = spans.boundaries, query.shape[1] != key.shape[1]
        out: Any = varlen_attn(
            query_THd, key_THd, value_THd, ends, ends, spans.longest, spans.longest, scale=scale, window_size=(-1, 0), enable_gqa=grouped
        )
        return out[None], None
    return _document_by_document(query, key, value, spans.lengths, scale), None


@torch.compiler.disable
def _document_by_document(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float | None) -> Tensor:
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    # under autocast they differ, and torch's own call brings them together
    same = query.dtype == key.dtype == value.dtype and query.shape[3] == value.shape[3]
    if same and query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64):
        return documents_attention(query, key, value, lengths, scale).transpose(1, 2)
    # split and cat, not slices: the gradient of a slice is a zero-filled tensor of the whole row
    parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)))
    outs = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale) for q, k, v in parts]
    return torch.cat(outs, dim=2).transpose(1, 2)


@torch.no_grad()
def check_isolation(model: Any, device: torch.device | str, dtype: torch.dtype) -> float:
    """Largest difference between packed logits and the logits of each document alone (through the model's own `sdpa` and head).

    Raises UserError when they differ by more than rounding in `dtype`, or are not finite: training would be wrong without a word.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    size = model.get_input_embeddings().weight.shape[0]
    documents = [generator.integers(0, size, length + 1) for length in CHECK_LENGTHS]
    rows = pack_rows(documents, sum(CHECK_LENGTHS))
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype == torch.bfloat16):
            hidden = model.base_model(**packed_inputs(join_rows(rows), device)).last_hidden_state
            packed = model.get_output_embeddings()(hidden)[0].double()
            model.set_attn_implementation("sdpa")
            alone = [torch.from_numpy(document[:-1]).to(device)[None] for document in documents]
            separate = torch.cat([model(input_ids=ids, use_cache=False).logits[0] for ids in alone]).double()
    finally:
        model.set_attn_implementation(NAME)
        model.train(was_training)
    difference = (packed - separate).abs().max().item()
    scale = max(1.0, separate.abs().max().item())
    if not np.isfinite(difference):
        raise UserError("the model's logits are not finite: its weights are damaged (NaN or infinity); load another checkpoint")
    if difference > TOLERANCE[dtype] * scale:
        raise UserError(
            f"packed logits differ from separate ones by {difference:.2g}: documents would leak into each other with this model "
            f"({type(model).__name__}); its attention or head is not supported"
        )
    return difference
