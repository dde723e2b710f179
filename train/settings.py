"""Settings of `train cpt`, `train sft` and `train plan`, and the recipes that fill what was not given."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from curate.records.errors import UserError
from curate.records.settings import build, did_you_mean, option
from train.schedule import SCHEDULES

# The batch is counted in examples (paper's trainer) or in tokens; everything else is the same kind of run.
_REFERENCE = {
    "learning_rate": 1e-5,
    "schedule": "cosine",
    "warmup_fraction": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.01,
    "clip_grad_norm": 1.0,
    "loss": "completion",
    "context_tokens": 4096,
}
RECIPES: dict[str, dict[str, Any]] = {
    "packed": {**_REFERENCE, "pack": True, "tokens_per_step": 32_768, "bos": "auto", "over_long": "split"},
    "four-habits": {**_REFERENCE, "pack": False, "examples_per_step": 64, "bos": "never", "over_long": "error"},
}
RECIPE_KEYS = (*_REFERENCE, "pack", "tokens_per_step", "examples_per_step", "bos", "over_long", "epochs")


@dataclass(frozen=True)
class TrainSettings:
    """Everything a training run can be told. None means: the recipe decides."""

    data: Path = option(None, "Folder of Parquet with `prompt` and `completion` (or `text`).", hashed=False)
    model: str = option("tiny", "Hugging Face name or folder, or tiny[:0.4M|1M|3M|10M] (random, own tokenizer).")
    out: Path = option(None, "Folder for checkpoints, metrics and the final model.", hashed=False)
    recipe: str = option("packed", "packed | four-habits (the paper's trainer) | a TOML file of recipe keys.")
    epochs: float | None = option(None, "Passes over the data; parts of one are allowed.")
    max_steps: int | None = option(None, "Stop after this many updates (the schedule ends there too).")
    context_tokens: int | None = option(None, "Longest row in tokens.")
    pack: bool | None = option(None, "Pack several documents into a row.")
    over_long: str | None = option(None, "A document longer than the context: split it, or stop with an error.", choices=("split", "error"))
    tokens_per_step: int | None = option(None, "Batch of one update in tokens (packed rows of `context`).")
    examples_per_step: int | None = option(None, "Batch of one update in rows instead of tokens.")
    micro_batch_tokens: int | None = option(
        None, "Tokens a process computes at once; changes memory and speed, not the result.", hashed=False
    )
    loss: str | None = option(None, "Targets: `completion` masks the prompt, `all` trains on it too.", choices=("completion", "all"))
    bos: str | None = option(
        None, "BOS before each document: auto does what the tokenizer does with plain text.", choices=("auto", "always", "never")
    )
    learning_rate: float | None = option(None, "Peak learning rate.")
    schedule: str | None = option(None, "Shape after the warm-up.", choices=SCHEDULES)
    warmup_fraction: float | None = option(None, "Share of the updates spent warming up.")
    adam_beta1: float | None = option(None, "Adam's first moment.")
    adam_beta2: float | None = option(None, "Adam's second moment.")
    adam_epsilon: float | None = option(None, "Adam's epsilon.", at_least=0)
    weight_decay: float | None = option(None, "Decoupled, on all parameters as in the reference trainer.", at_least=0)
    clip_grad_norm: float | None = option(None, "Global gradient norm limit; 0 turns it off.", at_least=0)
    optimizer: str = option(
        "adamw", "adamw | adamw-8bit (bitsandbytes) | adamw-offload (moments on the CPU).", choices=("adamw", "adamw-8bit", "adamw-offload")
    )
    lora_rank: int = option(0, "Train low-rank adapters of this rank (peft) and merge them at the end; 0 trains all weights.", at_least=0)
    dtype: str = option(
        "auto",
        "Compute: bfloat16 on float32 master weights on a GPU, float32 on a CPU.",
        choices=("auto", "bfloat16", "float32", "float64"),
    )
    gradient_checkpointing: bool = option(False, "Recompute activations: a third more work, far less memory.", hashed=False)
    compile: bool = option(False, "torch.compile each decoder layer; rows are padded to fixed shapes.", hashed=False)
    seed: int = option(0, "Of the data order, the held-out draw and a tiny model's weights.")
    heldout_data: Path | None = option(None, "Parquet to measure the held-out loss on.", hashed=False)
    heldout_fraction: float = option(0.0, "Share of the examples kept out of training to measure the held-out loss on.")
    heldout_every_steps: int = option(20, "Updates between held-out losses (also before the first and after the last).", hashed=False)
    save_every_steps: int = option(50, "Updates between checkpoints; the last one is always saved.", hashed=False)
    keep_last: int = option(2, "Newest checkpoints kept.", hashed=False)
    keep_every_steps: int = option(0, "Also keep checkpoints of steps that are multiples of this; 0 keeps none.", hashed=False, at_least=0)
    resume: bool = option(True, "Go on from the newest checkpoint in --out; --no-resume refuses a folder that has one.", hashed=False)
    max_skipped_steps: int = option(5, "Stop after this many updates skipped for NaN or infinite gradients.", hashed=False)
    export_dtype: str = option(
        "auto", "Weights of the final model; auto: as the starting model's.", choices=("auto", "bfloat16", "float32"), hashed=False
    )
    tensorboard: bool = option(False, "Also write TensorBoard events into --out.", hashed=False)
    wandb: str | None = option(None, "Also log to this Weights & Biases project.", hashed=False)


@dataclass(frozen=True)
class CptSettings(TrainSettings):
    """`train cpt`: one pass by default."""

    epochs: float | None = option(1.0, "Passes over the data; parts of one are allowed.")


@dataclass(frozen=True)
class SftSettings(TrainSettings):
    """`train sft`: five passes by default, as the paper's priming."""

    epochs: float | None = option(5.0, "Passes over the data; parts of one are allowed.")


S = TypeVar("S", bound=TrainSettings)


def read_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe, by name or from a TOML file (its own `base` recipe first, `packed` when it names none).

    Raises UserError for an unknown recipe or key.
    """
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}; choose {' or '.join(RECIPES)} or a .toml file")
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from None
    base = raw.pop("base", "packed")
    if base not in RECIPES:
        raise UserError(f"{path}: unknown base recipe {base!r}{did_you_mean(str(base), RECIPES)}")
    values = {key.replace("-", "_"): value for key, value in raw.items()}
    if unknown := [key for key in values if key not in RECIPE_KEYS]:
        raise UserError(f"{path}: unknown recipe key {unknown[0]!r}{did_you_mean(unknown[0], RECIPE_KEYS)}")
    build(TrainSettings, values)  # types and choices
    inherited = dict(RECIPES[base])
    if "tokens_per_step" in values or "examples_per_step" in values:
        inherited = {key: value for key, value in inherited.items() if not key.endswith("_per_step")}
    return {**inherited, **values}


def resolve(settings: S) -> S:
    """Settings with the recipe's values where none were given, checked. Raises UserError, all mistakes at once."""
    recipe = dict(read_recipe(settings.recipe))
    if settings.tokens_per_step is not None or settings.examples_per_step is not None:
        recipe.pop("tokens_per_step", None)
        recipe.pop("examples_per_step", None)
    filled = {key: value for key, value in recipe.items() if getattr(settings, key) is None}
    settings = dataclasses.replace(settings, **filled)
    mistakes = []
    if settings.epochs is None and settings.max_steps is None:
        mistakes.append("--epochs or --max-steps is needed")
    if (settings.tokens_per_step is None) == (settings.examples_per_step is None):
        mistakes.append("give --tokens-per-step or --examples-per-step, not both")
    for name in ("epochs", "max_steps", "context_tokens", "tokens_per_step", "examples_per_step", "micro_batch_tokens", "learning_rate"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            mistakes.append(f"--{name.replace('_', '-')} must be above 0, not {value}")
    for name in ("heldout_every_steps", "save_every_steps", "keep_last", "max_skipped_steps"):
        if getattr(settings, name) < 1:
            mistakes.append(f"--{name.replace('_', '-')} must be at least 1")
    if settings.tokens_per_step is not None and settings.context_tokens and 0 < settings.tokens_per_step < settings.context_tokens:
        mistakes.append(f"--tokens-per-step {settings.tokens_per_step} is less than one row of --context-tokens {settings.context_tokens}")
    if not 0 <= settings.heldout_fraction < 1:
        mistakes.append("--heldout-fraction must be from 0 to below 1")
    if not 0 <= (settings.warmup_fraction or 0) <= 1:
        mistakes.append("--warmup-fraction must be from 0 to 1")
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= (getattr(settings, name) or 0) < 1:
            mistakes.append(f"--{name.replace('_', '-')} must be from 0 to below 1")
    if settings.heldout_data is not None and settings.heldout_fraction:
        mistakes.append("give --heldout-data or --heldout-fraction, not both")
    if mistakes:
        raise UserError("; ".join(mistakes))
    return settings
