"""The plain Hugging Face folder: safetensors, configuration, tokenizer; it appears whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from curate.records.errors import OutputError, output_error
from curate.records.parts import sync_folder


def export_model(lm: Any, tokenizer: Any, folder: Path, *, dtype: torch.dtype, weights: dict[str, Tensor] | None = None) -> None:
    """Write `folder` for transformers and vLLM. `weights` replaces the model's own state (gathered from shards).

    A tied head is left out and tied again by whoever loads it. An older folder is replaced only once the new one is complete.
    Raises OutputError when the disk refuses.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    old = folder.with_name(f"{folder.name}.old.tmp")
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in (weights or lm.state_dict()).items()}
    if lm.config.tie_word_embeddings:
        state = {key: value for key, value in state.items() if key not in set(lm._tied_weights_keys or ())}
    former = lm.config.dtype
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        lm.config.dtype = dtype
        lm.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise output_error(folder, error) from error
    except SafetensorError as error:  # it wraps the operating system's: a full disk, most often
        shutil.rmtree(temporary, ignore_errors=True)
        raise OutputError(f"cannot write {folder}: {error}; free some space and run the same command again") from error
    finally:
        lm.config.dtype = former
