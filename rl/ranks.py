"""The processes of one run: who does which part, and sums over all of them. One process alone needs nothing of it.

Every rank takes every n-th prompt; losses are divided by the token counts of *all* ranks before the backward pass and gradients are
summed, so the number of processes changes nothing but the order of additions. Ranks hold whole models, or with FSDP2 (`accelerate launch
--use_fsdp --fsdp_version 2`) a shard of each, gathered layer by layer in each pass.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from curate.records.errors import UserError

X = TypeVar("X")


class Ranks:
    """`rank` of `world` processes, started by `accelerate launch` (gloo on CPUs, NCCL on GPUs)."""

    def __init__(self, device: str = "auto") -> None:
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu")
        self.rank, self.world = state.process_index, state.num_processes
        self.device: torch.device = state.device
        self.sharded = self.world > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if self.sharded and os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError("sharding is done by FSDP2: add --fsdp_version 2 to accelerate launch")

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def part(self, items: Sequence[X]) -> list[X]:
        """This rank's share of `items`."""
        return list(items[self.rank :: self.world])

    def shard(self, model: nn.Module, layers: Iterable[nn.Module]) -> nn.Module:
        """The model, its parameters divided over the ranks when that was asked for: a group for each layer and one for the rest.

        torch's `fully_shard` and not `Accelerator.prepare`, which takes one model with its optimizer, so never a frozen reference, and
        turns into DDP on a CPU without a word.
        """
        if self.sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.world,))
            for part in [*layers, model]:
                fully_shard(part, mesh=mesh, reshard_after_forward=True)
        return model

    def in_step(self, items: Sequence[X], spare: X) -> list[tuple[X, bool]]:
        """`items`, each with True. When sharded, `spare` with False follows until every rank has as many: passes are collectives."""
        real = [(item, True) for item in items]
        if not self.sharded:
            return real
        most = int(self.largest(torch.tensor(float(len(real)), device=self.device)).item())
        return real + [(spare, False)] * (most - len(real))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, a new tensor; the same bits on every rank."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Maximum over ranks, a new tensor."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients in place, all in one message a dtype. A parameter without a gradient counts as zero.

        Sharded gradients were averaged over ranks in the backward pass; they become sums.
        """
        if self.sharded:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.world)
        if self.world == 1 or self.sharded:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
                gradient.copy_(part.view_as(gradient))

    def gather(self, items: list[X]) -> list[X]:
        """All ranks' lists, interleaved so that `gather(part(items)) == items`; on every rank."""
        if self.world == 1:
            return items
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, items)
        merged: list[X] = []
        for place in range(max(map(len, parts))):
            merged.extend(part[place] for part in parts if place < len(part))
        return merged

    def union(self, names: Iterable[str]) -> list[str]:
        """Every name that some rank has, sorted."""
        return sorted(set(self.gather(sorted(names))))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank."""
        return bool(self.largest(torch.tensor(float(flag), device=self.device)).item())

    def barrier(self) -> None:
        """Wait for each other."""
        if self.world > 1:
            dist.barrier()
