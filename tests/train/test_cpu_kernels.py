"""What the loop does its own way on a CPU equals torch's and transformers' way, gradients too."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import train.causal_cpu as causal_cpu
from train.causal_cpu import documents_attention, parts
from train.norms import FewPassesRMSNorm, use_few_passes
from train.tiny import make_tiny_model

LENGTHS = [1, 319, 320, 5, 385, 700]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_attention_equals_one_causal_call_a_document(dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (1, sum(LENGTHS), 2, 8)
    query, key, value, grad = (torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for _ in range(4))
    inputs = [x.requires_grad_() for x in (query, key, value)]
    ours = documents_attention(*inputs, LENGTHS, 0.3)
    each = zip(*(x.split(LENGTHS, dim=2) for x in inputs))
    theirs = torch.cat([F.scaled_dot_product_attention(*x, is_causal=True, scale=0.3) for x in each], dim=2)
    limit = 1e-12 if dtype == torch.float64 else 2e-5
    assert (ours - theirs).abs().max() < limit
    for a, b in zip(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad)):
        assert (a - b).abs().max() < limit


@pytest.mark.parametrize("length", [1, 127, 128, 129, 319, 320, 511, 513, 1000])
def test_parts_cover_the_triangle_once(length):
    seen = torch.zeros(length + 3, length + 3, dtype=torch.int)
    for rows, columns, triangle in parts([3, length]):
        block = torch.ones(rows.stop - rows.start, columns.stop - columns.start, dtype=torch.int)
        seen[rows, columns] += block.tril() if triangle else block
    expected = torch.block_diag(torch.ones(3, 3), torch.ones(length, length)).tril().int()
    assert torch.equal(seen, expected)
    assert causal_cpu.HALVED_FROM > causal_cpu.TRIANGLE


def test_norm_and_its_gradients_are_those_of_transformers():
    norm = make_tiny_model("0.4M", 349, 0).model.norm
    generator = torch.Generator().manual_seed(0)
    norm.weight.data = torch.rand(96, generator=generator) + 0.5
    hidden, grad = (torch.randn(1, 40, 96, generator=generator) * 3 for _ in range(2))
    hidden.requires_grad_()
    inputs = (hidden, norm.weight)
    before = norm(hidden)
    expected = torch.autograd.grad(before, inputs, grad)
    holder = nn.Sequential(norm)
    use_few_passes(holder)
    assert isinstance(holder[0], FewPassesRMSNorm) and list(holder.state_dict()) == ["0.weight"]
    after = norm(hidden)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)
    for a, b in zip(torch.autograd.grad(after, inputs, grad), expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert torch.equal(norm.double()(hidden.double()), type(norm).__mro__[2].forward(norm, hidden.double()))


def test_a_norm_with_another_formula_stays():
    class OtherRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.zeros(8)), 1e-6

        def forward(self, x):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon) * (1 + self.weight)

    model = nn.Sequential(OtherRMSNorm())
    use_few_passes(model)
    assert type(model[0]) is OtherRMSNorm
