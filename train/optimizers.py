"""AdamW and the two ways to make its moments smaller; the only file that imports bitsandbytes."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim._functional import adamw

from curate.records.errors import UserError
from train.settings import TrainSettings


def make_optimizer(parameters: Iterable[Tensor], settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer named in the settings. Raises UserError when its package is absent."""
    kept = [parameter for parameter in parameters if parameter.requires_grad]
    arguments: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "adamw-8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise UserError("--optimizer adamw-8bit needs the package bitsandbytes: pip install bitsandbytes") from None
        return AdamW8bit(kept, **arguments)
    if settings.optimizer == "adamw-offload":
        return OffloadedAdamW(kept, **arguments)
    return torch.optim.AdamW(kept, fused=True, **arguments)


class OffloadedAdamW(torch.optim.Optimizer):
    """AdamW whose moments live in CPU memory: 8 bytes a parameter less on the GPU, and gradients and weights cross the bus each step."""

    def __init__(self, params: Iterable[Tensor], **arguments: Any) -> None:
        super().__init__(params, arguments)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update, parameter by parameter, computed on the CPU."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter, device="cpu")
                    state["exp_avg_sq"] = torch.zeros_like(parameter, device="cpu")
                # moments restored from a checkpoint arrive on the parameter's device
                state.update({key: value.cpu() for key, value in state.items()})
                weight = parameter.detach().cpu()
                adamw(
                    [weight],
                    [parameter.grad.cpu()],
                    [state["exp_avg"]],
                    [state["exp_avg_sq"]],
                    [],
                    [state["step"]],
                    fused=True,
                    amsgrad=False,
                    beta1=beta1,
                    beta2=beta2,
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                parameter.copy_(weight)
