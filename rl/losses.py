"""The mathematics of PPO for language models as pure functions on tensors: no model, no settings, no state.

Shapes: B trajectories, T response positions. `mask_BT` is 1 on tokens the model generated (EOS included) and 0 on padding. Masks may
have holes. Every mean over tokens can be given its denominator (`num_tokens`), so that micro-batches and processes add up to the
result of the whole batch. Reference for the formulas: verl 0.9.1 `trainer/ppo/core_algos.py`, from which tests hold golden values;
where we differ, the docstring says so.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rl.kinds import AGGREGATIONS, KL_KINDS

LOG_RATIO_BOUND = 20.0
K3_BOUND = 10.0
EPSILON = 1e-8
Reduce = Callable[[Tensor], Tensor]


def masked_sum(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum over the mask; what stands outside it, NaN included, has no part in it."""
    return torch.where(mask_BT.bool(), x_BT, x_BT.new_zeros(())).sum()


def masked_mean(x_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the mask; 0 when the mask is empty."""
    return masked_sum(x_BT, mask_BT) / mask_BT.sum().clamp(min=1)


def whiten(x_BT: Tensor, mask_BT: Tensor, reduce: Reduce | None = None) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) with the masked mean and unbiased variance; 0 outside the mask.

    `reduce` sums a tensor over processes, which makes the statistics global. Unlike verl, one single token gives 0 instead of an
    error, and equal values give 0 exactly.
    """
    total = reduce or (lambda tensor: tensor)
    inside = mask_BT.bool()
    count = total(mask_BT.sum().to(x_BT.dtype))
    mean = total(masked_sum(x_BT, mask_BT)) / count.clamp(min=1)
    centred = torch.where(inside, x_BT - mean, x_BT.new_zeros(()))
    var = total(centred.square().sum()) / (count - 1).clamp(min=1)
    # rounding of the mean leaves 1e-8-sized differences between equal values, which the division would blow up
    spread_is_rounding = var.sqrt() <= 4 * torch.finfo(x_BT.dtype).eps * mean.abs()
    return torch.where(spread_is_rounding, torch.zeros_like(x_BT), centred * torch.rsqrt(var + EPSILON))


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages_BT, returns_BT), both 0 outside the mask.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = sum_l (gamma lam)^l delta_{t+l};  R_t = A_t + V_t, where t+1 is the next position
    *inside the mask* and V is 0 after the last one. `values_BT[:, t]` is the value of the state before token t. Unlike verl, which
    whitens in here, advantages come out as they are: call `whiten` (returns are never whitened).
    """
    advantages_BT = torch.zeros_like(values_BT)
    mask_BT = mask_BT.to(values_BT.dtype)
    next_value = values_BT.new_zeros(values_BT.shape[0])
    running = values_BT.new_zeros(values_BT.shape[0])
    for t in reversed(range(values_BT.shape[1])):
        inside = mask_BT[:, t].bool()
        delta = rewards_BT[:, t] + gamma * next_value - values_BT[:, t]
        running = torch.where(inside, delta + gamma * lam * running, running)
        next_value = torch.where(inside, values_BT[:, t], next_value)
        advantages_BT[:, t] = torch.where(inside, running, 0.0)
    return advantages_BT, torch.where(mask_BT.bool(), advantages_BT + values_BT, 0.0)


def grpo(scores_B: Tensor, groups_B: Tensor, mask_BT: Tensor, scale_by_std: bool = True) -> Tensor:
    """Group-relative advantage (s - mean) / (std + 1e-6) on every token of the response; one response alone keeps its score.

    `groups_B` are prompt numbers. `scale_by_std=False` is Dr. GRPO. Groups of equal scores give exactly 0.
    """
    count, mean = _group_means(scores_B, groups_B)
    centred = torch.where(count > 1, scores_B - mean, scores_B)
    if scale_by_std:
        _, mean_square = _group_means((scores_B - mean).square(), groups_B)
        std = (mean_square * count / (count - 1).clamp(min=1)).sqrt()
        centred = centred / (torch.where(count > 1, std, torch.ones_like(std)) + 1e-6)
    return centred[:, None] * mask_BT


def rloo(scores_B: Tensor, groups_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Score less the mean of the *other* responses of the group (arXiv:2402.14740); one response alone keeps its score."""
    count, mean = _group_means(scores_B, groups_B)
    advantage = torch.where(count > 1, (scores_B - mean) * count / (count - 1).clamp(min=1), scores_B)
    return advantage[:, None] * mask_BT


def reinforce(rewards_BT: Tensor, mask_BT: Tensor, gamma: float) -> Tensor:
    """Discounted reward to go (REINFORCE++, arXiv:2501.03262), not yet whitened; 0 outside the mask."""
    zeros = torch.zeros_like(rewards_BT)
    # with values of zero and lam 1, GAE is the discounted sum of what is to come
    return gae(rewards_BT, zeros, mask_BT, gamma, 1.0)[0]


def policy_loss(
    logprobs_BT: Tensor,
    old_logprobs_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    *,
    weights_BT: Tensor | None = None,
    aggregation: str = "token-mean",
    denominator: float | Tensor | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """Clipped surrogate, a scalar: rho = exp(clamp(logp - logp_old, -20, 20)), max(-A rho, -A clip(rho, 1-low, 1+high)).

    `dual_clip` c > 1 bounds the loss of negative advantages by -A c (arXiv:1912.09729); None leaves it out (verl always has one).
    `weights_BT` are importance weights, not differentiated. For the rest see `aggregate`.
    """
    losses_BT, _ = _surrogate(logprobs_BT, old_logprobs_BT, advantages_BT, clip_low, clip_high, dual_clip)
    if weights_BT is not None:
        losses_BT = losses_BT * weights_BT.detach()
    return aggregate(losses_BT, mask_BT, aggregation, denominator, max_tokens)


@torch.no_grad()
def policy_statistics(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip_low: float, clip_high: float
) -> dict[str, Tensor]:
    """Sums over the mask, to be divided by the number of tokens: clipped below and above, approximate KL; and the largest ratio.

    `approx_kl` is k1 of old to new, mean(logp_old - logp).
    """
    _, ratio = _surrogate(logprobs_BT, old_logprobs_BT, advantages_BT, clip_low, clip_high, None)
    zero = ratio.new_zeros(())
    return {
        "clipfrac_low": masked_sum(((ratio < 1 - clip_low) & (advantages_BT < 0)).to(ratio.dtype), mask_BT),
        "clipfrac_high": masked_sum(((ratio > 1 + clip_high) & (advantages_BT > 0)).to(ratio.dtype), mask_BT),
        "approx_kl": masked_sum(old_logprobs_BT - logprobs_BT, mask_BT),
        "ratio_max": torch.where(mask_BT.bool(), ratio, zero).max() if ratio.numel() else zero,
    }


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    clip: float,
    *,
    aggregation: str = "token-mean",
    denominator: float | Tensor | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """0.5 mean(max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)), a scalar."""
    clipped_BT = torch.maximum(torch.minimum(values_BT, old_values_BT + clip), old_values_BT - clip)
    losses_BT = torch.maximum((values_BT - returns_BT).square(), (clipped_BT - returns_BT).square())
    return 0.5 * aggregate(losses_BT, mask_BT, aggregation, denominator, max_tokens)


def value_clip_count(values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float) -> Tensor:
    """Tokens on which the clipped value loss is the larger one."""
    clipped_BT = torch.maximum(torch.minimum(values_BT, old_values_BT + clip), old_values_BT - clip)
    larger_BT = (clipped_BT - returns_BT).square() > (values_BT - returns_BT).square()
    return masked_sum(larger_BT.to(values_BT.dtype), mask_BT)


def kl_estimate(logprobs_BT: Tensor, ref_logprobs_BT: Tensor, kind: str) -> Tensor:
    """Per-token estimate of KL(pi || ref) from samples of pi, d = logp_ref - logp: k1 = -d, k2 = d^2/2, k3 = exp(d) - 1 - d, abs.

    "k3+" has the value of k3 and the gradient of k2, whose expectation is the gradient of the KL (k1's is zero, k3's is biased).
    As in verl, d is clamped at 20 and k3 at 10 either way. Raises ValueError for another kind.
    """
    d_BT = ref_logprobs_BT - logprobs_BT
    if kind == "k1":
        return -d_BT
    if kind == "abs":
        return d_BT.abs()
    if kind == "k2":
        return 0.5 * d_BT.square()
    if kind == "k3":
        d_BT = d_BT.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        return (d_BT.exp() - 1 - d_BT).clamp(-K3_BOUND, K3_BOUND)
    if kind == "k3+":
        k2_BT = 0.5 * d_BT.square()
        return k2_BT - k2_BT.detach() + kl_estimate(logprobs_BT, ref_logprobs_BT, "k3").detach()
    raise ValueError(f"unknown KL estimate {kind!r}; one of {', '.join(KL_KINDS)}")


def importance_weights(old_logprobs_BT: Tensor, sampler_logprobs_BT: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(exp(logp_old - logp_sampler), cap) of the trainer's policy over the sampler's, detached."""
    log_ratio_BT = (old_logprobs_BT - sampler_logprobs_BT).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return log_ratio_BT.exp().clamp(max=cap).detach()


def aggregate(
    losses_BT: Tensor, mask_BT: Tensor, how: str = "token-mean", denominator: float | Tensor | None = None, max_tokens: int | None = None
) -> Tensor:
    """One number from per-token losses.

    "token-mean": sum / tokens. "seq-mean-token-mean": mean over responses of their token means. "seq-mean-token-sum-norm": mean over
    responses of their sums / `max_tokens` (Dr. GRPO; default T). `denominator` is the number of tokens (first mode) or of non-empty
    responses (the others) of the *whole* mini-batch, when this is a part of it.
    """
    mask_BT = mask_BT.to(losses_BT.dtype)
    losses_BT = torch.where(mask_BT.bool(), losses_BT, losses_BT.new_zeros(()))
    if how == "token-mean":
        total, whole = losses_BT.sum(), mask_BT.sum()
    elif how == "seq-mean-token-mean":
        total, whole = (losses_BT.sum(1) / mask_BT.sum(1).clamp(min=1)).sum(), mask_BT.bool().any(1).sum()
    elif how == "seq-mean-token-sum-norm":
        total, whole = losses_BT.sum() / (max_tokens or losses_BT.shape[1]), mask_BT.bool().any(1).sum()
    else:
        raise ValueError(f"unknown aggregation {how!r}; one of {', '.join(AGGREGATIONS)}")
    if denominator is None:
        denominator = whole.clamp(min=1)
    return total / denominator


def adapt_kl_coefficient(coefficient: float, observed_kl: float, target_kl: float, num_trajectories: int, horizon: float) -> float:
    """Proportional controller of arXiv:1909.08593: coefficient * (1 + clip(kl/target - 1, ±0.2) * trajectories / horizon)."""
    error = min(max(observed_kl / target_kl - 1, -0.2), 0.2)
    return coefficient * (1 + error * num_trajectories / horizon)


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - var(R - V) / var(R) over the mask; 0 when the returns do not vary."""
    inside = mask_BT.bool()
    values, returns = values_BT[inside].double(), returns_BT[inside].double()
    variance = returns.var(unbiased=False).item() if returns.numel() else 0.0
    return 1 - (returns - values).var(unbiased=False).item() / variance if variance > 0 else 0.0


def _surrogate(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, Tensor]:
    ratio_BT = (logprobs_BT - old_logprobs_BT).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    losses_BT = torch.maximum(-advantages_BT * ratio_BT, -advantages_BT * ratio_BT.clamp(1 - clip_low, 1 + clip_high))
    if dual_clip is not None:
        if dual_clip <= 1:
            raise ValueError(f"dual_clip is {dual_clip}, but must be greater than 1")
        losses_BT = torch.where(advantages_BT < 0, torch.minimum(losses_BT, -advantages_BT * dual_clip), losses_BT)
    return losses_BT, ratio_BT


def _group_means(scores_B: Tensor, groups_B: Tensor) -> tuple[Tensor, Tensor]:
    """Size and mean of each row's group, (B,) and (B,)."""
    _, place_B = torch.unique(groups_B, return_inverse=True)
    count = torch.zeros(int(place_B.max()) + 1 if place_B.numel() else 0, dtype=scores_B.dtype, device=scores_B.device)
    total = torch.zeros_like(count)
    count.index_add_(0, place_B, torch.ones_like(scores_B))
    total.index_add_(0, place_B, scores_B)
    return count[place_B], (total / count)[place_B]
