"""Named tensors in a safetensors file, streamed to disk tensor by tensor: a full disk is an OSError, and nothing is held twice."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from torch import Tensor

# https://github.com/huggingface/safetensors#format
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Write and fsync `path`; returns its size in bytes and its xxh3_128 digest in hex. Raises OSError when the disk refuses."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    digest = xxhash.xxh3_128()
    with open(path, "wb") as file:
        for block in (len(raw).to_bytes(8, "little"), raw):
            file.write(block)
            digest.update(block)
        for tensor in tensors.values():
            if tensor.numel():
                data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                file.write(data.data)
                digest.update(data.data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell(), digest.hexdigest()


def read_tensors(path: Path, map_location: str = "cpu") -> dict[str, Tensor]:
    """Every tensor of a safetensors file. Raises ValueError when the file is not one or is cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=map_location) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a whole safetensors file: {error}") from None
