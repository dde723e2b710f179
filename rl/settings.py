"""Settings of `rl ppo` and its presets. Everything is counted in trajectories, tokens or updates, and the unit is in the name."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.records.errors import UserError
from curate.records.settings import option
from rl.kinds import ADVANTAGES, AGGREGATIONS, KL_KINDS
from rl.scoring import NUMBER_RULES, SYNTAXES

_PRESET = "[preset]"


@dataclass(frozen=True)
class PPOSettings:
    """Settings of `rl ppo`; a field whose default is None takes its value from the preset."""

    model: str | None = option(None, "Actor to start from: a Hugging Face folder or name, a `train` output, or tiny / tiny:SIZE")
    critic: str | None = option(None, "Backbone of the critic; left out: the same as --model")
    data: Path | None = option(None, "Tasks: the folder of `rl tasks`, or a Parquet file with numbers (nums) and target")
    out: Path | None = option(None, "Folder of the run; a run that was interrupted goes on", hashed=False)
    preset: str = option("four-habits", "Where settings left out come from", choices=("four-habits", "modern", "tiny"))
    seed: int = option(0, "Seed of everything random: task order, sampling, the critic's head, the control's rewards")
    device: str = option("auto", "auto, cpu or cuda")

    total_steps: int = option(None, f"Steps, each a batch of rollouts and its updates {_PRESET}")
    prompts_per_step: int = option(None, f"Tasks sampled a step {_PRESET}")
    samples_per_prompt: int = option(None, f"Responses a task {_PRESET}")
    max_prompt_tokens: int = option(None, f"Longer prompts are refused before the run, never cut {_PRESET}")
    max_response_tokens: int = option(None, f"Tokens of a response, EOS included {_PRESET}")
    temperature: float = option(1.0, "Of the sampler, and of log-probabilities in the trainer")
    template: str = option(None, f"tinyzero, short, set (the frame of `curate match`), or a text with {{numbers}} and {{target}} {_PRESET}")
    bos: str = option(None, f"BOS before the prompt {_PRESET}", choices=("auto", "always", "never"))

    sampler: str = option("torch", "Where responses come from", choices=("torch", "vllm"))
    max_sampler_rows: int = option(1024, "Responses generated at once: less memory when lower", hashed=False)
    vllm_memory_share: float = option(0.3, "Share of the GPU that vLLM may use", hashed=False)

    scorer: str = option("exact", "exact, or the reference's with its defects", choices=("exact", "tinyzero"))
    syntax: str = option("default", "What the exact scorer reads as an expression", choices=SYNTAXES)
    numbers_rule: str = option("all", "Use every number once, or any of them at most once", choices=NUMBER_RULES)
    format_reward: float = option(None, f"Worth of a complete answer that is not correct {_PRESET}")
    reward: str = option("task", "task, or random: a control that tosses a coin instead", choices=("task", "random"))

    advantage: str = option(None, f"Estimator {_PRESET}", choices=ADVANTAGES)
    gamma: float = option(None, f"Discount {_PRESET}")
    lam: float = option(None, f"GAE lambda {_PRESET}")
    kl_place: str = option(None, f"Where the KL to the starting model goes {_PRESET}", choices=("reward", "loss", "none"))
    kl_kind: str = option(None, f"Its estimator {_PRESET}", choices=KL_KINDS)
    kl_coefficient: float = option(None, f"Its weight {_PRESET}")
    kl_target: float = option(0.0, "Adapt the weight towards this KL per token; 0: fixed")
    kl_horizon: float = option(10_000.0, "Trajectories over which the weight adapts")

    actor_learning_rate: float = option(None, f"Constant {_PRESET}")
    critic_learning_rate: float = option(None, f"Constant {_PRESET}")
    weight_decay: float = option(0.01, "Of AdamW, both models")
    adam_beta1: float = option(0.9, "Of AdamW, both models")
    adam_beta2: float = option(0.999, "Of AdamW, both models")
    adam_epsilon: float = option(1e-8, "Of AdamW, both models")
    max_grad_norm: float = option(1.0, "Gradients are clipped to this norm, both models")
    actor_updates_per_step: int = option(None, f"Mini-batches of the actor a step {_PRESET}")
    critic_updates_per_step: int = option(None, f"Mini-batches of the critic a step {_PRESET}")
    epochs_per_step: int = option(1, "Passes over a step's rollouts")
    shuffle: bool = option(False, "Shuffle trajectories before each pass")
    critic_warmup_steps: int = option(None, f"First steps in which only the critic learns {_PRESET}")
    clip_low: float = option(None, f"The ratio is clipped at 1 - this {_PRESET}")
    clip_high: float = option(None, f"The ratio is clipped at 1 + this {_PRESET}")
    dual_clip: float = option(None, f"Bound for negative advantages, over 1; 0: off {_PRESET}")
    value_clip: float = option(None, f"Values are clipped to this distance from the old ones {_PRESET}")
    entropy_coefficient: float = option(None, f"Weight of the entropy bonus {_PRESET}")
    aggregation: str = option("token-mean", "From tokens to one loss", choices=AGGREGATIONS)
    importance_cap: float = option(None, f"Cap of importance weights trainer/sampler; 0: off {_PRESET}")
    mask_truncated: bool = option(False, "Leave truncated responses out of the losses")

    micro_batch_tokens: int = option(16_384, "Tokens in one forward pass: less memory when lower", hashed=False)
    layout: str = option("auto", "packed end to end, or padded in order of length", choices=("auto", "packed", "padded"), hashed=False)
    dtype: str = option("auto", "Compute dtype on float32 weights", choices=("auto", "float32", "bfloat16", "float64"))
    gradient_checkpointing: bool = option(False, "Trade compute for memory", hashed=False)

    eval_every_steps: int = option(10, "Evaluate before the first step and every so many steps")
    eval_tasks: int = option(None, f"Fixed test tasks of every evaluation {_PRESET}")
    save_every_steps: int = option(10, "Save a checkpoint every so many steps", hashed=False)
    keep_last: int = option(2, "Checkpoints to keep", hashed=False)
    keep_every_steps: int = option(0, "Keep also every checkpoint at a multiple of this", hashed=False)
    stop_after_bad_updates: int = option(5, "Stop when so many updates in a row had no finite gradient", hashed=False)


# A.1 of the published run: 2 actor and 8 critic updates a step, because its mini-batches are counted differently for the two.
FOUR_HABITS: dict[str, Any] = {
    "total_steps": 250,
    "prompts_per_step": 256,
    "samples_per_prompt": 4,
    "max_prompt_tokens": 256,
    "max_response_tokens": 1024,
    "template": "tinyzero",
    "bos": "never",
    "format_reward": 0.1,
    "advantage": "gae",
    "gamma": 1.0,
    "lam": 1.0,
    "kl_place": "reward",
    "kl_kind": "k1",
    "kl_coefficient": 0.001,
    "actor_learning_rate": 1e-6,
    "critic_learning_rate": 1e-5,
    "actor_updates_per_step": 2,
    "critic_updates_per_step": 8,
    "critic_warmup_steps": 0,
    "clip_low": 0.2,
    "clip_high": 0.2,
    "dual_clip": 0.0,
    "value_clip": 0.5,
    "entropy_coefficient": 0.001,
    "importance_cap": 0.0,
    "eval_tasks": 1024,
}
# Clip-higher (DAPO), dual clip, truncated importance weights, critic warm-up, KL in the loss with the right gradient, no format reward.
MODERN = FOUR_HABITS | {
    "format_reward": 0.0,
    "kl_place": "loss",
    "kl_kind": "k3+",
    "actor_updates_per_step": 4,
    "critic_warmup_steps": 5,
    "clip_high": 0.28,
    "dual_clip": 3.0,
    "entropy_coefficient": 0.0,
    "importance_cap": 2.0,
}
# For models of 0.4M to 3M parameters on a CPU, after `rl warmstart` and `train sft`.
TINY = FOUR_HABITS | {
    "total_steps": 60,
    "prompts_per_step": 64,
    "max_prompt_tokens": 32,
    "max_response_tokens": 128,
    "template": "short",
    "bos": "auto",
    "format_reward": 0.0,
    "lam": 0.95,
    "actor_learning_rate": 1e-4,
    "critic_learning_rate": 1e-3,
    "critic_updates_per_step": 4,
    "critic_warmup_steps": 3,
    "entropy_coefficient": 0.0,
    "eval_tasks": 250,
}
PRESETS = {"four-habits": FOUR_HABITS, "modern": MODERN, "tiny": TINY}


def resolve(settings: PPOSettings) -> PPOSettings:
    """Fill in the preset and check the whole. Raises UserError with every mistake at once."""
    preset = PRESETS[settings.preset]
    settings = dataclasses.replace(settings, **{name: value for name, value in preset.items() if getattr(settings, name) is None})
    trajectories = settings.prompts_per_step * settings.samples_per_prompt
    mistakes = [f"--{name.replace('_', '-')} is at least 1" for name in _AT_LEAST_1 if getattr(settings, name) < 1]
    for name in ("actor_updates_per_step", "critic_updates_per_step"):
        if settings.prompts_per_step % max(getattr(settings, name), 1):
            mistakes.append(f"--{name.replace('_', '-')} {getattr(settings, name)} does not divide --prompts-per-step")
    if settings.advantage in ("grpo", "rloo") and settings.samples_per_prompt < 2:
        mistakes.append(f"--advantage {settings.advantage} compares the responses to a task: --samples-per-prompt is at least 2")
    if settings.temperature <= 0:
        mistakes.append("--temperature is over 0 (evaluation is greedy as well as sampled anyway)")
    if 0 < settings.dual_clip <= 1:
        mistakes.append("--dual-clip is over 1, or 0 for none")
    if settings.kl_place == "reward" and settings.kl_kind == "k3+":
        mistakes.append("--kl-kind k3+ is about gradients, so it goes with --kl-place loss")
    if settings.kl_place == "loss" and settings.kl_kind == "k1":
        mistakes.append("--kl-kind k1 in the loss has a gradient of zero on average; use k2 or k3+")
    if mistakes:
        raise UserError("; ".join(mistakes))
    assert trajectories > 0
    return settings


_AT_LEAST_1 = (
    "total_steps",
    "prompts_per_step",
    "samples_per_prompt",
    "max_prompt_tokens",
    "max_response_tokens",
    "actor_updates_per_step",
    "critic_updates_per_step",
    "epochs_per_step",
    "micro_batch_tokens",
    "max_sampler_rows",
    "eval_every_steps",
    "save_every_steps",
    "keep_last",
)
