"""`train plan`: memory per GPU, FLOPs, updates and time, before anything is spent."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.records.errors import UserError
from curate.records.progress import format_seconds
from curate.records.settings import option
from train.settings import TrainSettings, resolve

GIGA = 1e9
RESERVE_GB = 4.0  # CUDA context, NCCL buffers, fragmentation

# The shape of models whose configuration may not be at hand; values of the published config.json.
SHAPES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-3B": {
        "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 8192, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
    "meta-llama/Llama-3.2-1B": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 8192, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class PlanSettings(TrainSettings):
    """What is planned: the settings of the run, and the machine."""

    epochs: float | None = option(1.0, "Passes over the data; parts of one are allowed.")
    num_gpus: int = option(1, "GPUs of the run.")
    gpu_memory_gb: float = option(80.0, "Memory of one GPU.")
    sharding: str = option(
        "fsdp2", "With several GPUs: fsdp2 divides weights, gradients and moments; ddp copies them.", choices=("fsdp2", "ddp")
    )
    peak_tflops: float = option(989.0, "Dense bfloat16 peak of one GPU (H100, H200: 989; A100: 312).")
    assumed_mfu: float = option(0.4, "Share of the peak that is reached: an assumption; measure it on a few steps.")
    tokens: int | None = option(None, "Tokens of one pass, instead of reading --data.")


@dataclass(frozen=True)
class Memory:
    """Gigabytes on one GPU, by what they hold."""

    master_weights: float
    gradients: float
    moments: float
    compute_copies: float
    activations: float
    loss: float
    reserve: float = RESERVE_GB

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())


def memory(config: Any, settings: TrainSettings, *, shards: int = 1, micro_batch_tokens: int = 16_384) -> Memory:
    """Memory of one GPU for a Llama-like `config` (research arithmetic: 16 bytes a parameter for float32 weights, gradients, moments).

    Activations: with checkpointing one hidden state per layer and one layer whole; without, about 34 bytes + the MLP's per layer, token
    and hidden unit in bfloat16 with flash attention (Korthikanti et al. 2022, eq. 2 without the attention matrix).
    """
    from train.flops import matrix_parameters
    from train.losses import CHUNK_TOKENS

    layers, head = matrix_parameters(config)
    untied = 0 if config.tie_word_embeddings else head
    total = layers + head + untied
    trained = total
    if settings.lora_rank:
        wide = config.num_hidden_layers * (4 * 2 * config.hidden_size + 3 * (config.hidden_size + config.intermediate_size))
        trained = settings.lora_rank * wide
    moment_bytes = {"adamw": 8.0, "adamw-8bit": 2.1, "adamw-offload": 0.0}[settings.optimizer]
    per_layer = micro_batch_tokens * (16 * config.hidden_size + 6 * config.intermediate_size)
    kept = config.num_hidden_layers * micro_batch_tokens * config.hidden_size * 2 + per_layer
    activations = kept if settings.gradient_checkpointing else config.num_hidden_layers * per_layer
    # autocast keeps one bfloat16 copy of the weights; FSDP2 gathers a layer and the embeddings at a time
    copies = total * 2 if shards == 1 else 2 * (head + untied + 2 * layers / config.num_hidden_layers)
    weights = total * 2 + trained * 4 if settings.lora_rank else total * 4
    return Memory(
        master_weights=weights / shards / GIGA,
        gradients=trained * 4 / shards / GIGA,
        moments=trained * moment_bytes / shards / GIGA,
        compute_copies=0.0 if settings.lora_rank else copies / GIGA,
        activations=activations / GIGA,
        # the head's bfloat16 copy, a chunk of logits, the hidden states' gradient, and the head's gradient before it is added up
        loss=(head * (2 if settings.lora_rank else 6) + CHUNK_TOKENS * config.vocab_size * 6 + micro_batch_tokens * config.hidden_size * 4)
        / GIGA,
    )


def ways_to_fit(config: Any, settings: TrainSettings, *, shards: int, micro_batch_tokens: int, gpu_memory_gb: float) -> list[str]:
    """Options that make the run fit, mildest first; each is tried alone, then with gradient checkpointing."""
    import dataclasses

    changes: list[tuple[str, dict[str, Any]]] = [
        ("--gradient-checkpointing", {"gradient_checkpointing": True}),
        ("--optimizer adamw-8bit", {"optimizer": "adamw-8bit"}),
        ("--optimizer adamw-offload", {"optimizer": "adamw-offload"}),
        ("--lora-rank 64", {"lora_rank": 64}),
    ]
    both = [(f"{text} --gradient-checkpointing", {**change, "gradient_checkpointing": True}) for text, change in changes[1:]]
    found = []
    for size in dict.fromkeys((micro_batch_tokens, min(micro_batch_tokens, settings.context_tokens or 4096))):
        for text, change in [*changes, *both]:
            tried = dataclasses.replace(settings, **change)
            if memory(config, tried, shards=shards, micro_batch_tokens=size).total <= gpu_memory_gb:
                found.append(text if size == micro_batch_tokens else f"{text} --micro-batch-tokens {size}")
    return found


def read_config(name: str) -> Any:
    """The model's configuration: ours for tiny ones, the published shape for known names, or from disk or the hub."""
    if name.split(":")[0] == "tiny":
        from train.tiny import make_tiny_model, make_tiny_tokenizer

        return make_tiny_model(name.partition(":")[2] or "0.4M", len(make_tiny_tokenizer()), 0).config
    if name in SHAPES:
        from transformers import LlamaConfig

        return LlamaConfig(**SHAPES[name])
    from transformers import AutoConfig

    from train.model import model_folder

    try:
        return AutoConfig.from_pretrained(model_folder(name))
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(f"cannot read the configuration of {name}: {first}; known without it: {', '.join(SHAPES)}") from None


def run(settings: PlanSettings) -> None:
    """Say what a run needs before it starts: memory per GPU and what to change when it does not fit, FLOPs, updates, time."""
    print("\n".join(report(settings)))


def report(settings: PlanSettings) -> list[str]:
    """The lines that `train plan` prints."""
    from train.flops import matrix_parameters, training_flops

    settings = resolve(settings)
    config = read_config(settings.model)
    layers, head = matrix_parameters(config)
    context = settings.context_tokens or 4096
    micro = settings.micro_batch_tokens or 16_384
    shards = settings.num_gpus if settings.sharding == "fsdp2" else 1
    count = layers + head * (1 if config.tie_word_embeddings else 2)
    lines = [f"{settings.model}: {f'{count / 1e9:.3g}B' if count >= 1e9 else f'{count / 1e6:.3g}M'} parameters"]
    need = memory(config, settings, shards=shards, micro_batch_tokens=micro)
    parts = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in vars(need).items())
    how = f"{settings.num_gpus} x {settings.sharding}" if settings.num_gpus > 1 else "one GPU"
    lines.append(f"memory per GPU ({how}, micro-batches of {micro:,} tokens): {need.total:.1f} GB = {parts}")
    if need.total > settings.gpu_memory_gb:
        ways = ways_to_fit(config, settings, shards=shards, micro_batch_tokens=micro, gpu_memory_gb=settings.gpu_memory_gb)
        advice = " or ".join(ways[:3]) if ways else "more GPUs with --sharding fsdp2, or a smaller --micro-batch-tokens"
        lines.append(f"does not fit in {settings.gpu_memory_gb:g} GB: use {advice}")
    else:
        lines.append(f"fits in {settings.gpu_memory_gb:g} GB")
    tokens, loss_tokens, squared, updates = _work(settings, context)
    flops = training_flops(config, tokens, loss_tokens, squared) * (4 / 3 if settings.gradient_checkpointing else 1)
    passes = settings.epochs or settings.max_steps / updates  # type: ignore[operator]
    total_updates = math.ceil(updates * passes) if settings.max_steps is None else min(settings.max_steps, math.ceil(updates * passes))
    flops *= total_updates / updates
    seconds = flops / (settings.peak_tflops * 1e12 * settings.assumed_mfu * settings.num_gpus)
    best, worst = (seconds * settings.assumed_mfu / share for share in (0.55, 0.25))
    lines.append(f"{tokens:,} tokens a pass: {updates:,} updates an epoch, {total_updates:,} in all (recipe {settings.recipe})")
    expected = format_seconds(seconds) if seconds >= 1 else "under a second"
    lines.append(
        f"{flops:.2g} FLOPs: {expected} on {settings.num_gpus} GPU at {settings.assumed_mfu:.0%} of "
        f"{settings.peak_tflops:g} TFLOP/s (from {format_seconds(best)} at 55% to {format_seconds(worst)} at 25%)"
    )
    if config.hidden_size < 512:
        lines.append("a model this small trains on a CPU too; a short run with --max-steps 5 shows its rate and the time that is left")
    checkpoint = (layers + head) * 4 * 3 / GIGA
    kept = checkpoint * (settings.keep_last + 1)  # the next one is complete before the oldest goes
    lines.append(f"disk: {kept:.1f} GB for checkpoints ({checkpoint:.1f} GB each), {(layers + head) * 2 / GIGA:.1f} GB for the model")
    return lines


def _work(settings: PlanSettings, context: int) -> tuple[int, int, int, int]:
    """(tokens, targets, sum of squared document lengths, updates) of one pass; from the data, or from --tokens with full rows."""
    if settings.tokens is not None:
        rows = math.ceil(settings.tokens / context)
        per_step = settings.examples_per_step or max((settings.tokens_per_step or context) // context, 1)
        return settings.tokens, settings.tokens, settings.tokens * context, max(math.ceil(rows / per_step), 1)
    if settings.data is None:
        raise UserError("--data or --tokens is needed")
    from train.data import load_documents
    from train.model import load_tokenizer
    from train.rows import make_batches

    tokenizer = load_tokenizer(settings.model)
    documents = load_documents(Path(settings.data), tokenizer, loss=settings.loss or "completion", bos=settings.bos or "auto")
    batches = make_batches(documents, list(range(len(documents.tokens))), settings)
    return int(batches.row_tokens.sum()), int(batches.row_loss_tokens.sum()), int(batches.row_square.sum()), batches.steps_per_epoch
