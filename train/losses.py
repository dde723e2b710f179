"""Cross-entropy and log-probabilities straight from hidden states, a chunk of tokens at a time: logits are never held whole.

At 16k tokens and a vocabulary of 128k the logits alone take 8.4 GB in float32; here at most `chunk_tokens` rows of them exist. Both
functions work in the autocast dtype where autocast is on (matrix products only; softmax and sums stay in float32, or in float64 for
float64 inputs).
"""

from typing import Any

import torch
from torch import Tensor

from train.onednn import product

IGNORED = -100
CHUNK_TOKENS = 256
CHUNK_VOCAB = 16_384  # the weight's gradient is added up in blocks of this many rows, which bounds the temporary


def chunked_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunk_tokens: int = CHUNK_TOKENS) -> Tensor:
    """Sum over tokens of -log softmax(hidden @ weight.T)[label]; labels of -100 take no part (and cost nothing).

    `labels_N[i]` is the target *of position i*: shift before calling. Gradients are computed in the forward pass (three matrix
    products, none repeated), so the result can be backpropagated once. Returns a scalar in float32 (float64 for float64 inputs).
    """
    _check(hidden_ND, weight_VD, labels_N)
    return _CrossEntropy.apply(hidden_ND, weight_VD, labels_N, chunk_tokens, _compute_dtype(hidden_ND))


def chunked_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, chunk_tokens: int = CHUNK_TOKENS, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and entropy of each distribution at `temperature`, both differentiable: (logprobs_N, entropy_N).

    Positions labelled -100 give 0 and 0. Logits are computed again in the backward pass. Float32 (float64 for float64 inputs).
    """
    _check(hidden_ND, weight_VD, labels_N)
    return _LogProbs.apply(hidden_ND, weight_VD, labels_N, chunk_tokens, temperature, _compute_dtype(hidden_ND))


def _check(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> None:
    if hidden_ND.ndim != 2 or labels_N.shape != hidden_ND.shape[:1] or weight_VD.shape[1:] != hidden_ND.shape[1:]:
        shapes = f"{tuple(hidden_ND.shape)}, {tuple(weight_VD.shape)}, {tuple(labels_N.shape)}"
        raise ValueError(f"expected hidden (N, D), weight (V, D), labels (N,); got {shapes}")


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _add_weight_gradient(total_VD: Tensor, dlogits_CV: Tensor, hidden_CD: Tensor) -> None:
    if total_VD.dtype == dlogits_CV.dtype:
        total_VD.addmm_(dlogits_CV.T, hidden_CD)
        return
    for start in range(0, total_VD.shape[0], CHUNK_VOCAB):  # the product is rounded to the compute dtype, the sum is not
        rows = slice(start, start + CHUNK_VOCAB)
        total_VD[rows] += dlogits_CV[:, rows].T @ hidden_CD


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int, dtype: torch.dtype) -> Tensor:
        wide = _wide(hidden.dtype)
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        kept = (labels != IGNORED).nonzero().squeeze(1)
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_weight else None
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            weight_c = weight.to(dtype)
            for rows in kept.split(chunk_tokens):
                hidden_c, target = hidden[rows].to(dtype), labels[rows].unsqueeze(1)
                logits = product(hidden_c, weight_c).to(wide)
                largest = logits.amax(1, keepdim=True)
                loss += (largest - logits.gather(1, target)).sum()
                # in place, one exponential: the chunk's logits become its probabilities, then its gradient
                exps = logits.sub_(largest).exp_()
                sums = exps.sum(1, keepdim=True)
                loss += sums.log().sum()
                if grad_hidden is None and grad_weight is None:
                    continue
                dlogits = exps.div_(sums).scatter_add_(1, target, torch.full_like(sums, -1.0)).to(dtype)
                del logits, exps
                if grad_hidden is not None:
                    grad_hidden[rows] = product(dlogits, weight_c.T).to(hidden.dtype)
                if grad_weight is not None:
                    _add_weight_gradient(grad_weight, dlogits, hidden_c)
        ctx.gradients, ctx.weight_dtype = (grad_hidden, grad_weight), weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        if ctx.gradients is None:
            raise RuntimeError("chunked_cross_entropy can be backpropagated only once")
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        (scale,) = grad_outputs
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(scale.to(grad_hidden.dtype))
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(scale).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int, temperature: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        wide = _wide(hidden.dtype)
        logprobs = torch.zeros(labels.shape, dtype=wide, device=hidden.device)
        entropy, lses = torch.zeros_like(logprobs), torch.zeros_like(logprobs)
        kept = (labels != IGNORED).nonzero().squeeze(1)
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            weight_c = weight.to(dtype)
            for rows in kept.split(chunk_tokens):
                logits = product(hidden[rows].to(dtype), weight_c).to(wide).div_(temperature)
                lse = logits.logsumexp(1)
                logprobs[rows] = logits.gather(1, labels[rows].unsqueeze(1)).squeeze(1) - lse
                # H = lse - sum(p * logit)
                probs = (logits - lse.unsqueeze(1)).exp_()
                entropy[rows] = lse - probs.mul_(logits).sum(1)
                lses[rows] = lse
        ctx.save_for_backward(hidden, weight, labels, kept, lses, entropy)
        ctx.chunk_tokens, ctx.temperature, ctx.dtype = chunk_tokens, temperature, dtype
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        grad_logprobs, grad_entropy = grad_outputs
        hidden, weight, labels, kept, lses, entropy = ctx.saved_tensors
        wide, dtype = _wide(hidden.dtype), ctx.dtype
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if wants_weight else None
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            weight_c = weight.to(dtype)
            for rows in kept.split(ctx.chunk_tokens):
                hidden_c = hidden[rows].to(dtype)
                logp = product(hidden_c, weight_c).to(wide).div_(ctx.temperature).sub_(lses[rows].unsqueeze(1))
                probs = logp.exp()
                g_logp, g_entropy = grad_logprobs[rows].unsqueeze(1), grad_entropy[rows].unsqueeze(1)
                # d logprob / d logit = onehot - p ;  d entropy / d logit = -p (log p + H)
                dlogits = logp.add_(entropy[rows].unsqueeze(1)).mul_(-g_entropy).sub_(g_logp).mul_(probs)
                dlogits.scatter_add_(1, labels[rows].unsqueeze(1), g_logp).div_(ctx.temperature)
                dlogits = dlogits.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = product(dlogits, weight_c.T).to(hidden.dtype)
                if grad_weight is not None:
                    _add_weight_gradient(grad_weight, dlogits, hidden_c)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None
