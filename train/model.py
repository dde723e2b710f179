"""Load a model and its tokenizer, refuse what cannot be trained, and wrap it so that its forward pass is the loss."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curate.records.errors import UserError
from curate.records.manifest import InputFile, file_sha256
from train.attention import packed_inputs, use_packed_attention
from train.losses import chunked_cross_entropy
from train.packing import Row
from train.tiny import make_tiny_model, make_tiny_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
FILES_OF_A_MODEL = ("*.safetensors", "*.bin", "*.json", "*.model", "merges.txt", "vocab.txt", "*.jinja")
NOT_OF_THE_MODEL = ("manifest.json", "settings.json")  # what a run of ours leaves beside it
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class CausalLoss(nn.Module):
    """A transformers causal language model whose forward pass takes a packed row and returns the *summed* cross-entropy.

    The head is applied inside, chunk by chunk, so that DDP's and FSDP's hooks see one forward pass and logits are never whole.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, inputs: dict[str, Any], labels_T: Tensor) -> Tensor:
        """`inputs` from `packed_inputs`; `labels_T` already shifted, -100 for no loss. Returns a scalar."""
        hidden_TD = self.lm.base_model(**inputs).last_hidden_state[0]
        return chunked_cross_entropy(hidden_TD, self.lm.get_output_embeddings().weight, labels_T)


def loss_inputs(row: Row, device: torch.device | str) -> tuple[dict[str, Any], Tensor]:
    """Arguments of `CausalLoss` for one joined row."""
    return packed_inputs(row, device), torch.from_numpy(row.labels_T).to(device)


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 on a GPU, float32 on a CPU."""
    return DTYPES[("bfloat16" if device.type == "cuda" else "float32") if name == "auto" else name]


def model_folder(name: str) -> str:
    """`name`, or the `model` folder inside it when it is the output folder of a training run."""
    inner = Path(name) / "model"
    return str(inner) if (inner / "config.json").is_file() else name


def model_files(name: str) -> list[InputFile]:
    """The files that decide what `--model name` says, with their hashes: weights first, then configuration and tokenizer.

    Of a model of the hub the files in its cache, so load it first; none for `tiny`. Raises UserError when the hub's cache does not have it.
    """
    if name.split(":")[0] == "tiny":
        return []
    folder = Path(model_folder(name))
    if not folder.is_dir():
        from transformers.utils import cached_file

        try:
            folder = Path(str(cached_file(name, "config.json", local_files_only=True))).parent
        except (OSError, ValueError) as error:
            raise UserError(f"cannot find the files of the model {name}: {_first_line(error)}") from None
    files = [path for pattern in FILES_OF_A_MODEL for path in sorted(folder.glob(pattern)) if path.name not in NOT_OF_THE_MODEL]
    return [InputFile(str(file), file_sha256(file), 0, file.stat().st_size) for file in files]


def load_tokenizer(name: str) -> Any:
    """The tokenizer of `--model name`. Raises UserError when there is none, or it has no pad and no EOS to pad with."""
    if name.split(":")[0] == "tiny":
        return make_tiny_tokenizer()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_folder(name))
    except (OSError, ValueError, KeyError) as error:
        folder = Path(model_folder(name))
        if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES):
            raise UserError(
                f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}): copy in the files of the model that it was trained from"
            ) from None
        raise UserError(f"cannot load a tokenizer from {name}: {_first_line(error)}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {name} has no EOS token: the model would never learn to stop; set `eos_token` in its config")
    return tokenizer


def load_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, tokenizer: Any = None) -> Any:
    """A causal language model with weights in `dtype` (float32 master weights by default) and packed attention.

    `tiny` or `tiny:SIZE` makes a random one; a training run's output folder may be given as such. Raises UserError when it cannot be
    loaded, lacks weights, has fewer embeddings than the tokenizer has tokens, has weights that are not finite, or dropout.
    """
    if name.split(":")[0] == "tiny":
        size = name.partition(":")[2] or "0.4M"
        model: Any = make_tiny_model(size, len(tokenizer or make_tiny_tokenizer()), seed)
        model = model.to(dtype)
    else:
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(model_folder(name), dtype=dtype, output_loading_info=True)
            model, info = loaded
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot load the model {name}: {_first_line(error)}") from None
        if absent := sorted(info["missing_keys"]):  # transformers fills them with random numbers
            raise UserError(f"the files of the model {name} lack {len(absent)} of its weights ({absent[0]}, …); fetch them again")
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer is not None and len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {name} only {rows} embeddings; "
            "use the tokenizer it was trained with, or resize the model's embeddings first"
        )
    if damaged := [key for key, value in model.named_parameters() if not torch.isfinite(value).all()]:
        raise UserError(f"the model {name} has NaN or infinite weights ({damaged[0]}{' and others' if len(damaged) > 1 else ''})")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if getattr(model.config, "attention_dropout", 0.0):
        model.config.attention_dropout = 0.0
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
    use_packed_attention(model)
    return model


def source_dtype(name: str) -> torch.dtype:
    """The dtype that the starting weights are stored in."""
    if name.split(":")[0] == "tiny":
        return torch.float32
    from transformers import AutoConfig

    dtype = getattr(AutoConfig.from_pretrained(model_folder(name)), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def is_tied(model: Any) -> bool:
    """Whether the head shares its weight with the input embeddings."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
