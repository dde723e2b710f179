"""Float32 matrix products on a CPU through oneDNN, where torch would call MKL.

MKL's float32 kernels leave a fifth of an AMD core unused in x @ W.T and dy @ W (docs/LOG.md); dy.T @ x is as fast in MKL, so it stays.
The arithmetic is float32 either way. Chosen by device and dtype alone, never by timing: a resumed run must choose the same.
"""

from typing import Any

import torch
from torch import Tensor, nn


def usable(tensor: Tensor) -> bool:
    """Whether products with this tensor may go through oneDNN."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and torch.backends.mkldnn.is_available()


def product(left_NK: Tensor, right_MK: Tensor) -> Tensor:
    """left @ right.T, without a gradient."""
    if not (usable(left_NK) and usable(right_MK)):
        return left_NK @ right_MK.T
    if torch.compiler.is_compiling():
        return _product(left_NK, right_MK)
    return torch.ops.mkldnn._linear_pointwise(left_NK, right_MK, None, "none", [], "")


@torch.library.custom_op("fourhabits::product", mutates_args=())
def _product(left: Tensor, right: Tensor) -> Tensor:
    # an operator of its own, because the compiler takes the one below only for frozen weights
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


@_product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty((*left.shape[:-1], right.shape[0]))


class OneDnnLinear(nn.Linear):
    """`nn.Linear` whose forward pass and input gradient use oneDNN; the same parameters under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        """input (…, in) -> (…, out)."""
        if self.bias is not None or not usable(input) or not usable(self.weight) or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return _Linear.apply(input, self.weight)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input, weight)
        return product(input, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        input, weight = ctx.saved_tensors
        grad_input = product(grad, weight.T) if ctx.needs_input_grad[0] else None
        grad_weight = grad.flatten(0, -2).T @ input.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return grad_input, grad_weight


def use_onednn(model: nn.Module) -> None:
    """Turn every plain linear layer of a model into `OneDnnLinear`, in place."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
