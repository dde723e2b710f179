"""Chunked losses must equal the plain ones, gradients too."""

import pytest
import torch
import torch.nn.functional as F

from train.losses import chunked_cross_entropy, chunked_logprobs


def inputs(n=23, d=7, v=31, dtype=torch.float64, ignored=True):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(n, d, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(v, d, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, v, (n,), generator=generator)
    if ignored:
        labels[::3] = -100
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_tokens", [1, 4, 64])
def test_cross_entropy_equals_torch(chunk_tokens):
    hidden, weight, labels = inputs()
    ours = chunked_cross_entropy(hidden, weight, labels, chunk_tokens)
    ours_grads = torch.autograd.grad(ours * 0.37, (hidden, weight))
    theirs = F.cross_entropy(hidden @ weight.T, labels, reduction="sum", ignore_index=-100)
    theirs_grads = torch.autograd.grad(theirs * 0.37, (hidden, weight))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    for a, b in zip(ours_grads, theirs_grads):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropy_equal_torch(temperature):
    hidden, weight, labels = inputs()
    kept = labels != -100
    coefficients = torch.randn(2, len(labels), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logprobs, entropy = chunked_logprobs(hidden, weight, labels, 4, temperature)
    ours_grads = torch.autograd.grad((coefficients[0] * logprobs + coefficients[1] * entropy).sum(), (hidden, weight))
    logp = F.log_softmax(hidden @ weight.T / temperature, -1)
    expected = torch.where(kept, logp.gather(1, labels.clamp(min=0)[:, None])[:, 0], 0.0)
    expected_entropy = torch.where(kept, -(logp.exp() * logp).sum(-1), 0.0)
    theirs_grads = torch.autograd.grad((coefficients[0] * expected + coefficients[1] * expected_entropy).sum(), (hidden, weight))
    for a, b in [(logprobs, expected), (entropy, expected_entropy), *zip(ours_grads, theirs_grads)]:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_no_targets_gives_zero_and_zero_gradients():
    hidden, weight, labels = inputs()
    loss = chunked_cross_entropy(hidden, weight, torch.full_like(labels, -100))
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert loss == 0 and all((grad == 0).all() for grad in grads)


def test_second_backward_is_refused():
    hidden, weight, labels = inputs()
    loss = chunked_cross_entropy(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_bfloat16_autocast_stays_near_float32():
    hidden, weight, labels = inputs(n=64, d=32, v=500, dtype=torch.float32)
    exact = chunked_cross_entropy(hidden, weight, labels)
    (exact_grad,) = torch.autograd.grad(exact, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(hidden, weight, labels)
    (grad,) = torch.autograd.grad(loss, weight)
    assert loss.dtype == torch.float32 and grad.dtype == torch.float32
    assert abs(loss / exact - 1) < 5e-3 and (grad - exact_grad).norm() / exact_grad.norm() < 2e-2


def test_wrong_shapes_are_named():
    hidden, weight, labels = inputs()
    with pytest.raises(ValueError, match="expected hidden"):
        chunked_cross_entropy(hidden, weight, labels[:-1])
