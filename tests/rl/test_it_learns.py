"""Two operands, a tiny warm start, PPO: accuracy on the training tasks climbs. With some hundred tasks this shows that the loop learns,
not that it generalises; the run that measures learning on unseen tasks is in docs/LOG.md."""

import json
import random

import pytest
import torch

from rl import ppo, tasks
from rl.prompts import render
from rl.rollouts import _bos
from rl.settings import PPOSettings
from rl.warmstart import WORDS, trace
from train.data import encode
from train.export import export_model
from train.losses import chunked_cross_entropy
from train.tiny import TinyConfig, make_tiny_model, make_tiny_tokenizer

SHAPE = TinyConfig(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=192)
SFT_STEPS, PPO_STEPS = 150, 30


def _warm_start(folder, data):
    tokenizer = make_tiny_tokenizer(WORDS)
    model = make_tiny_model(SHAPE, len(tokenizer), seed=0)
    generator = random.Random(0)
    train = tasks.read_tasks(data, "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    head = _bos(tokenizer, "auto")
    for _ in range(SFT_STEPS):
        chosen = [generator.choice(train) for _ in range(64)]
        prompts = encode(tokenizer, [render("short", *task) for task in chosen])
        completions = encode(tokenizer, [trace(*task, 1, generator)[0] for task in chosen])
        rows = [head + prompt + completion + [tokenizer.eos_token_id] for prompt, completion in zip(prompts, completions)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        labels = torch.full((64, width), -100)
        for place, (prompt, row) in enumerate(zip(prompts, rows)):
            start = len(head) + len(prompt)
            labels[place, start - 1 : len(row) - 1] = torch.tensor(row[start:])
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        loss = chunked_cross_entropy(hidden.flatten(0, 1), model.lm_head.weight, labels.flatten()) / (labels >= 0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    export_model(model, tokenizer, folder, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_operands_are_learnt(tmp_path):
    game = {"operands": (2,), "max_number": 9, "min_target": 1, "max_target": 20, "num_train": 0, "num_test": 10}
    tasks.run(tasks.TasksSettings(out=tmp_path / "tasks", **game))
    _warm_start(tmp_path / "model", tmp_path / "tasks")
    ppo.run(
        PPOSettings(
            model=str(tmp_path / "model"),
            data=tmp_path / "tasks",
            out=tmp_path / "run",
            preset="tiny",
            device="cpu",
            total_steps=PPO_STEPS,
            max_response_tokens=32,
            actor_learning_rate=1e-3,
            critic_learning_rate=2e-3,
            eval_every_steps=PPO_STEPS,
            save_every_steps=PPO_STEPS,
        )
    )
    accuracy = [json.loads(line)["accuracy"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, last = sum(accuracy[:3]) / 3, sum(accuracy[-3:]) / 3
    assert first > 0.03, "the warm start gives no reward to learn from"
    assert last > first + 0.15, accuracy
