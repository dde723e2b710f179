"""Small models, tasks and settings that several tests share."""

from pathlib import Path
from typing import Any

import torch

from rl import tasks
from rl.settings import PPOSettings
from rl.warmstart import WORDS
from train.export import export_model
from train.tiny import TinyConfig, make_tiny_model, make_tiny_tokenizer

SMALL = TinyConfig(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=64)


def small_model(folder: Path, seed: int = 0, extra_rows: int = 0, scale: float = 3.0, shape: TinyConfig = SMALL) -> Path:
    """A random model of 20k parameters with its tokenizer, saved. `extra_rows` pads the vocabulary; `scale` makes it opinionated."""
    tokenizer = make_tiny_tokenizer(WORDS)
    model = make_tiny_model(shape, len(tokenizer) + extra_rows, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    export_model(model, tokenizer, folder, dtype=torch.float32)
    return folder


def small_tasks(folder: Path, num_test: int = 12) -> Path:
    """116 tasks of two numbers."""
    tasks.run(
        tasks.TasksSettings(out=folder, operands=(2,), max_number=9, min_target=1, max_target=20, num_train=0, num_test=num_test, seed=3)
    )
    return folder


def small_settings(folder: Path, **changes: Any) -> PPOSettings:
    """A run of the tiny preset that takes a second or two."""
    if not (folder / "model").exists():
        small_model(folder / "model")
        small_tasks(folder / "tasks")
    values: dict[str, Any] = {
        "model": str(folder / "model"),
        "data": folder / "tasks",
        "out": folder / "run",
        "preset": "tiny",
        "device": "cpu",
        "total_steps": 3,
        "prompts_per_step": 8,
        "samples_per_prompt": 2,
        "max_response_tokens": 12,
        "actor_updates_per_step": 2,
        "critic_updates_per_step": 2,
        "critic_warmup_steps": 0,
        "eval_tasks": 8,
        "eval_every_steps": 2,
        "save_every_steps": 1,
        "format_reward": 0.1,
    }
    return PPOSettings(**(values | changes))
