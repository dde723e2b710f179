"""losses.py equals verl 0.9.1 (golden values) and brute force, to 1e-6 and better. Each adaptation is named where it is made."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.testing import assert_close

from rl import losses

GOLDEN = json.loads((Path(__file__).parent / "golden" / "verl_0_9_1.json").read_text())["cases"]


def _inputs(case):
    return {name: torch.tensor(value, dtype=torch.int64 if name == "groups" else torch.float64) for name, value in case["inputs"].items()}


def _close_inside(ours, golden, mask):
    assert_close(ours * mask, torch.tensor(golden, dtype=torch.float64) * mask, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN)
def test_estimators_equal_verl(case):
    x = _inputs(case)
    advantages, returns = losses.gae(x["rewards"], x["values"], x["mask"], case["gamma"], case["lam"])
    # verl whitens inside its GAE and leaves values outside the mask; ours whitens apart and has zeros there
    _close_inside(losses.whiten(advantages, x["mask"]), case["gae_whitened_advantages"], x["mask"])
    _close_inside(returns, case["gae_returns"], x["mask"])
    _close_inside(losses.whiten(x["values"], x["mask"]), case["whitened"], x["mask"])
    # verl's scores are sums over all tokens; rewards are zero outside the mask here, so the sums agree
    scores = x["rewards"].sum(1)
    _close_inside(losses.grpo(scores, x["groups"], x["mask"]), case["grpo"], x["mask"])
    _close_inside(losses.grpo(scores, x["groups"], x["mask"], scale_by_std=False), case["dr_grpo"], x["mask"])
    _close_inside(losses.rloo(scores, x["groups"], x["mask"]), case["rloo"], x["mask"])
    rewards_to_go = losses.reinforce(x["rewards"], x["mask"], case["gamma"])
    _close_inside(rewards_to_go, case["reinforce_returns"], x["mask"])
    _close_inside(losses.whiten(rewards_to_go, x["mask"]), case["reinforce_advantages"], x["mask"])


@pytest.mark.parametrize("case", GOLDEN)
def test_losses_equal_verl(case):
    x = _inputs(case)
    for key, golden in case["policy"].items():
        low, high, dual, how = key.split("|")
        # verl has no way to turn the dual clip off; a bound of 1e9 is the same
        for bound in (float(dual), None) if float(dual) == 1e9 else (float(dual),):
            ours = losses.policy_loss(x["new"], x["old"], x["advantages"], x["mask"], float(low), float(high), bound, aggregation=how)
            assert ours.item() == pytest.approx(golden, abs=1e-6)
    assert losses.value_loss(x["values"], x["old_values"], x["returns"], x["mask"], 0.5).item() == pytest.approx(case["value"], abs=1e-6)
    clipped = losses.value_clip_count(x["values"], x["old_values"], x["returns"], x["mask"], 0.5) / x["mask"].sum()
    assert clipped.item() == pytest.approx(case["value_clipfrac"], abs=1e-6)
    for kind, golden in case["kl"].items():
        _close_inside(losses.kl_estimate(x["new"], x["ref"], kind), golden, torch.ones_like(x["new"]))
    assert losses.adapt_kl_coefficient(0.001, 0.13, 0.1, 1024, 10_000) == pytest.approx(case["adaptive_kl"], abs=1e-12)


def test_k3_is_clamped_as_in_verl():
    far = torch.tensor([[30.0, -30.0]])
    assert losses.kl_estimate(torch.zeros(1, 2), far, "k3").tolist() == [[10.0, 10.0]]
    with pytest.raises(ValueError, match="greater than 1"):
        losses.policy_loss(far, far, far, far, 0.2, 0.2, dual_clip=1.0)


@given(data=st.data(), b=st.integers(1, 4), t=st.integers(1, 7), gamma=st.floats(0.5, 1), lam=st.floats(0, 1))
@hypothesis_settings(max_examples=60, deadline=None)
def test_gae_is_its_definition(data, b, t, gamma, lam):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    rewards, values = (torch.randn(b, t, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = (torch.rand(b, t, generator=generator) < data.draw(st.floats(0, 1))).double()
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    for row in range(b):
        places = [place for place in range(t) if mask[row, place]]
        for i, place in enumerate(places):
            expected = 0.0
            for j in range(i, len(places)):  # A_t = sum over later tokens of (gamma lam)^l delta, written out
                after = values[row, places[j + 1]].item() if j + 1 < len(places) else 0.0
                delta = rewards[row, places[j]].item() + gamma * after - values[row, places[j]].item()
                expected += (gamma * lam) ** (j - i) * delta
            assert advantages[row, place].item() == pytest.approx(expected, abs=1e-9)
            assert returns[row, place].item() == pytest.approx(expected + values[row, place].item(), abs=1e-9)
    assert (advantages * (1 - mask)).abs().sum() == 0 and (returns * (1 - mask)).abs().sum() == 0


def test_without_discount_the_advantage_is_score_minus_value():
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    values = torch.tensor([[0.3, -0.2, 0.5, 9.0], [0.1, 9, 9, 9]])
    rewards = torch.tensor([[0.0, 0, 1, 0], [0.1, 0, 0, 0]])
    advantages, returns = losses.gae(rewards, values, mask, 1.0, 1.0)
    assert_close(returns, torch.tensor([[1.0, 1, 1, 0], [0.1, 0, 0, 0]]))
    assert_close(advantages, (returns - values) * mask)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -7.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_whiten_to_zero_and_not_to_noise(value, dtype):
    mask = torch.ones(5, 7, dtype=dtype)
    assert (losses.whiten(torch.full((5, 7), value, dtype=dtype), mask) == 0).all()
    assert (losses.whiten(torch.full((1, 1), value, dtype=dtype), mask[:1, :1]) == 0).all()
    assert torch.isfinite(losses.whiten(torch.full((5, 7), torch.nan, dtype=dtype), mask * 0)).all()
    scores, groups = torch.full((6,), value, dtype=dtype), torch.tensor([0, 0, 0, 1, 1, 1])
    assert losses.grpo(scores, groups, torch.ones(6, 3)).abs().max() < 1e-1 * abs(value) + 1e-9
    assert losses.explained_variance(mask, mask, mask) == 0


def test_what_stands_outside_the_mask_does_not_matter():
    generator = torch.Generator().manual_seed(3)
    x = [torch.randn(3, 5, generator=generator) for _ in range(4)]
    mask = (torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]).float()
    spoiled = [torch.where(mask.bool(), tensor, torch.nan) for tensor in x]
    for function in (
        lambda a, b, c, d: losses.gae(a, b, mask, 0.9, 0.8)[0],
        lambda a, b, c, d: losses.whiten(a, mask),
        lambda a, b, c, d: losses.policy_loss(a, b, c, mask, 0.2, 0.2, 3.0),
        lambda a, b, c, d: losses.value_loss(a, b, c, mask, 0.5),
    ):
        assert_close(function(*x), function(*spoiled))


def test_parts_add_up_to_the_whole():
    generator = torch.Generator().manual_seed(4)
    new, old, advantages = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = (torch.arange(5)[None] < torch.tensor([5, 3, 1, 4, 2, 2])[:, None]).double()
    for how in losses.AGGREGATIONS:
        denominator = mask.sum() if how == "token-mean" else torch.tensor(6.0)
        whole = losses.policy_loss(new, old, advantages, mask, 0.2, 0.2, aggregation=how)
        parts = sum(
            losses.policy_loss(new[r], old[r], advantages[r], mask[r], 0.2, 0.2, aggregation=how, denominator=denominator)
            for r in (slice(0, 1), slice(1, 4), slice(4, 6))
        )
        assert_close(whole, parts, atol=1e-12, rtol=0)
