"""oneDNN's products are float32 products: values and gradients of the plain layer, the same bits every time."""

import torch
from torch import nn

from train.onednn import OneDnnLinear, use_onednn
from train.tiny import make_tiny_model


def test_linear_and_its_gradients():
    torch.manual_seed(0)
    plain = nn.Linear(48, 80, bias=False)
    ours = nn.Sequential(nn.Linear(48, 80, bias=False))
    ours[0].load_state_dict(plain.state_dict())
    use_onednn(ours)
    assert isinstance(ours[0], OneDnnLinear)
    inputs = torch.randn(2, 33, 48)
    results = []
    for layer in (plain, ours, ours):
        x = inputs.clone().requires_grad_()
        layer.zero_grad()
        out = layer(x)
        (out * torch.linspace(0, 1, 80)).sum().backward()
        results.append([out.detach(), x.grad, next(layer.parameters()).grad.clone()])
    for a, b, c in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
        assert torch.equal(b, c)


def test_other_dtypes_and_names_are_untouched():
    model = make_tiny_model("0.4M", 349, 0).double()
    names = list(model.state_dict())
    expected = model(input_ids=torch.arange(9)[None]).logits
    use_onednn(model)
    assert list(model.state_dict()) == names and model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model(input_ids=torch.arange(9)[None]).logits, expected)
