"""The whole state of a model and its optimizer as plain tensors by parameter name: the same file for one process, DDP and FSDP2."""

from typing import Any

import torch
from torch import Tensor, nn

from curate.records.errors import UserError


def full_tensor(value: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The unsharded tensor on `device`. A collective when the tensor is sharded: every rank must call it."""
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().to(device)


def unwrap(model: nn.Module) -> nn.Module:
    """The module under DDP."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and saved buffer by name; a tied one appears once. Every rank must call it."""
    inner = unwrap(model)
    names = {name for name, _ in inner.named_parameters()} | {name for name, _ in inner.named_buffers()}
    return {name: full_tensor(value) for name, value in inner.state_dict().items() if name in names}


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The optimizer's state of each parameter, by the parameter's name. Every rank must call it."""
    return {
        name: {key: full_tensor(item) if isinstance(item, Tensor) else item for key, item in optimizer.state[parameter].items()}
        for name, parameter in unwrap(model).named_parameters()
        if parameter in optimizer.state
    }


@torch.no_grad()
def load_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy what `model_state` gave into the model, sharding it as the model is. Raises UserError when names or shapes differ."""
    inner = unwrap(model)
    own = dict(inner.named_parameters()) | {name: value for name, value in inner.named_buffers() if name in state}
    if missing := set(own) ^ set(state):
        raise UserError(f"the checkpoint is of another model: {sorted(missing)[0]} is only in one of them")
    for name, target in own.items():
        if target.shape != state[name].shape:
            raise UserError(f"the checkpoint is of another model: {name} is {tuple(state[name].shape)}, not {tuple(target.shape)}")
        target.copy_(_like(state[name], target))


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, dict[str, Any]]) -> None:
    """Put back what `optimizer_state` gave. Raises UserError when it is of another model."""
    if unknown := set(state) - {name for name, _ in unwrap(model).named_parameters()}:
        raise UserError(f"the checkpoint's optimizer is of another model: it has {sorted(unknown)[0]}")
    for name, parameter in unwrap(model).named_parameters():
        if name in state:
            optimizer.state[parameter] = {
                key: _like(item, parameter) if isinstance(item, Tensor) else item for key, item in state[name].items()
            }


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    if hasattr(parameter, "device_mesh") and value.shape == parameter.shape and value.ndim:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    # a copy: tensors from the file may share its memory map
    return value.to(parameter.device, copy=True)
