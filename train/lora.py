"""Low-rank adapters (Hu et al. 2021) beside the frozen weights, and back into them; the only file that imports peft."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curate.records.errors import UserError

SCALE = 2.0  # alpha / rank: W' = W + SCALE * B @ A


def add_lora(model: Any, rank: int) -> None:
    """Freeze the model and put adapters of `rank` beside every linear layer of its decoder, in place. Raises UserError without peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("--lora-rank needs the package peft: pip install peft") from None
    head = model.get_output_embeddings()
    linear = {name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and part is not head}
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=int(SCALE * rank), target_modules=sorted(linear)), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.requires_grad_("lora_" in name)


def merge_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Plain weights from the state of a model with adapters, under the names of the model without them.

    Works on the tensors of a checkpoint, so that sharding does not matter. The sum is in the adapters' dtype (float32), whatever the
    frozen weight's.
    """
    merged = {}
    for name, weight in state.items():
        if ".lora_" in name:
            continue
        layer, is_adapted, rest = name.partition(".base_layer.")
        if is_adapted and rest == "weight":
            down, up = (state[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            weight = torch.addmm(weight.to(up.dtype), up, down, alpha=SCALE)
        merged[name.replace(".base_layer.", ".")] = weight
    return merged
