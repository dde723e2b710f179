"""Checkpoints that exist completely or not at all, without pickle.

    folder/step-00000120/state.json            skeleton of the state, settings, and size and digest of the tensor file
                        /tensors.safetensors   every tensor of the state
    folder/latest                              name of the newest complete one

A checkpoint is written to `step-….tmp`, each file fsynced, then renamed; `latest` follows; only then are older ones removed.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from curate.records.errors import UserError, output_error
from curate.records.parts import atomic_file, sync_folder
from curate.records.settings import difference
from train.tensorfile import read_tensors, write_tensors

FORMAT_VERSION = 1
STATE, TENSORS, LATEST = "state.json", "tensors.safetensors", "latest"


@dataclass(frozen=True)
class Checkpoint:
    """What `load_latest` found. `skipped` says why newer ones could not be used, one line each."""

    step: int
    state: dict[str, Any]
    settings: dict[str, Any]
    path: Path
    skipped: list[str] = field(default_factory=list)


def save_checkpoint(
    folder: Path, step: int, state: Mapping[str, Any], *, settings: Mapping[str, Any] | None = None, keep_last: int = 2, keep_every: int = 0
) -> Path:
    """Write `state` (nested dicts and lists of tensors and JSON values; integer keys and tuples survive) as checkpoint `step`.

    `settings` is what a resumed run must agree with (`check_settings`). Afterwards the newest `keep_last` stay, and every step that is
    a multiple of `keep_every`. Raises OutputError when the disk refuses; older checkpoints are then untouched.
    """
    final, temporary = folder / _name(step), folder / f"{_name(step)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        tensors: dict[str, Tensor] = {}
        skeleton = _take_tensors(state, "", tensors, {})
        size, digest = write_tensors(temporary / TENSORS, tensors)
        record = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "settings": dict(settings or {}),
            "tensors": {"bytes": size, "xxh3_128": digest},
            "state": skeleton,
        }
        with open(temporary / STATE, "w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise output_error(final, error) from error
    with atomic_file(folder / LATEST) as file:
        file.write(_name(step).encode())
    _remove_old(folder, keep_last, keep_every)
    return final


def load_latest(folder: Path, *, map_location: str = "cpu", verbose: bool = True) -> Checkpoint | None:
    """The newest checkpoint in `folder` that is complete, or None when there is none at all.

    A damaged one is skipped with a line on stderr. Raises UserError when there are checkpoints and every one is damaged.
    """
    skipped: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            step, state, settings = _read(path, map_location)
        except (OSError, ValueError, KeyError, TypeError) as error:
            skipped.append(f"checkpoint {path} is damaged ({error}); trying the one before")
            if verbose:
                print(f"warning: {skipped[-1]}", file=sys.stderr, flush=True)
            continue
        return Checkpoint(step, state, settings, path, skipped)
    if skipped:
        raise UserError(f"every checkpoint in {folder} is damaged ({len(skipped)}); remove the folder to start again")
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Folders of complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir() and path.suffix != ".tmp")


def check_settings(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    """Raise UserError, showing the difference, when `settings` are not those that the checkpoint was made with."""
    if changed := difference(checkpoint.settings, settings):
        raise UserError(
            f"{checkpoint.path} was made with other settings or data ({changed}); go back to the old ones, or choose another --out"
        )


def generator_states(**generators: torch.Generator) -> dict[str, Any]:
    """State of Python's, NumPy's and torch's global generators (CUDA's too) and of `generators`, as tensors and JSON."""
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy_state
    return {
        "python": json.loads(json.dumps(random.getstate())),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "own": {name: generator.get_state() for name, generator in generators.items()},
    }


def restore_generators(states: Mapping[str, Any], **generators: torch.Generator) -> None:
    """Put back what `generator_states` took; `generators` must be the same names. CUDA states of absent devices are ignored."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    for name, generator in generators.items():
        generator.set_state(states["own"][name])


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _remove_old(folder: Path, keep_last: int, keep_every: int) -> None:
    for path in checkpoints(folder)[: -max(keep_last, 1)]:
        if not (keep_every and int(path.name.removeprefix("step-")) % keep_every == 0):
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path, map_location: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    record = json.loads((path / STATE).read_text())
    if record["format_version"] > FORMAT_VERSION:
        raise ValueError(f"format_version {record['format_version']} is newer than {FORMAT_VERSION}")
    expected, file = record["tensors"], path / TENSORS
    if (size := file.stat().st_size) != expected["bytes"]:
        raise ValueError(f"{TENSORS} has {size} of {expected['bytes']} bytes")
    with open(file, "rb") as stream:
        digest = xxhash.xxh3_128()
        while block := stream.read(1 << 24):
            digest.update(block)
    if digest.hexdigest() != expected["xxh3_128"]:
        raise ValueError(f"{TENSORS} does not have the digest it was written with")
    return record["step"], _put_tensors(record["state"], read_tensors(file, map_location)), record["settings"]


def _take_tensors(value: Any, path: str, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], str]) -> Any:
    """Move tensors into `tensors` and leave `{"$tensor": name}`; views of the same memory (tied weights) are stored once."""
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, str(value.device))
        name = seen.setdefault(key, path) if value.numel() else path
        tensors.setdefault(name, value)
        return {"$tensor": name}
    if isinstance(value, Mapping):
        inner = {str(key): _take_tensors(item, f"{path}/{key}" if path else str(key), tensors, seen) for key, item in value.items()}
        if any(isinstance(key, int) for key in value):
            return {"$integer_keys": inner}
        return inner
    if isinstance(value, (list, tuple)):
        items = [_take_tensors(item, f"{path}/{index}", tensors, seen) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{path}: a checkpoint holds tensors and JSON values, not {type(value).__name__}")


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value):
        case ["$tensor"]:
            return tensors[value["$tensor"]]
        case ["$integer_keys"]:
            return {int(key): _put_tensors(item, tensors) for key, item in value["$integer_keys"].items()}
        case ["$tuple"]:
            return tuple(_put_tensors(item, tensors) for item in value["$tuple"])
    return {key: _put_tensors(item, tensors) for key, item in value.items()}
