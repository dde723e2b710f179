"""Seconds of a PPO step by phase against its floor; the torch sampler against `transformers.generate`; layouts against full padding.

    python bench/ppo_step.py --model FOLDER --data TASKS [--rows 512] [--max-response-tokens 128] [--rounds 3]

`--model` should be a warm-started model (its responses end at different lengths, as in training); `tiny` works, but never stops early.
The floor is the FLOPs that the passes must do (18 N T for three forwards and two forward-backwards) at the rate measured here for a large
matrix product, plus the sampling measured in the same step. Peers are measured alternating with ours.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from rl import ppo, rollouts
from rl.build import build, restore
from rl.forward import Trajectories, micro_batches, policy_outputs
from rl.samplers.base import Sampling, uniform_noise
from rl.settings import PPOSettings, resolve


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square product, the best of five."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 1e9
    for _ in range(5):
        best = min(best, timed(lambda: a @ b, device))
    return 2 * size**3 / best


def timed(function: Any, device: torch.device) -> float:
    """Seconds of one call, its work on the device included."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def fully_padded(setup: Any, trajectories: Trajectories, prompt_tokens: int, response_tokens: int, rows_at_once: int) -> None:
    """Log-probabilities the published script's way: every row padded to prompt + response limit, logits of every position."""
    ids = torch.zeros(len(trajectories), prompt_tokens + response_tokens, dtype=torch.long, device=setup.ranks.device)
    for row in range(len(trajectories)):
        sequence = trajectories.prompts[row] + trajectories.responses[row]
        ids[row, : len(sequence)] = torch.tensor(sequence)
    with torch.no_grad():
        for part in ids.split(rows_at_once):
            logits = setup.actor(input_ids=part, use_cache=False).logits[:, prompt_tokens - 1 : -1]
            logits.log_softmax(-1).gather(2, part[:, prompt_tokens:, None])


def main() -> None:
    """Measure, print, end with a JSON line and a ratio line (sampler against transformers)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--max-response-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = resolve(
            PPOSettings(
                preset="tiny",
                model=given.model,
                data=given.data,
                out=Path(folder) / "run",
                prompts_per_step=given.rows // 4,
                max_response_tokens=given.max_response_tokens,
            )
        )
        setup = build(settings)
        restore(setup)
        device = setup.ranks.device
        prompts = [setup.train.tokens[task] for task in rollouts.step_tasks(len(setup.train.tasks), given.rows, 1, 0)]
        width = max(map(len, prompts))
        left_padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        noise = uniform_noise(given.rows, given.max_response_tokens, torch.Generator().manual_seed(0))
        names = ("torch_sampler", "transformers_generate", "ours_forward", "packed", "padded_full")
        seconds: dict[str, list[float]] = {name: [] for name in names}
        samples: Any = None

        def sample() -> None:
            nonlocal samples
            samples = setup.sampler.generate(prompts, noise, Sampling(given.max_response_tokens))

        def peer() -> None:
            setup.actor.eval()
            setup.actor.set_attn_implementation("sdpa")
            setup.actor.generate(
                left_padded,
                attention_mask=(left_padded != 0).long(),
                max_new_tokens=given.max_response_tokens,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
            )
            setup.actor.set_attn_implementation("fourhabits_packed")

        for _ in range(given.rounds):
            seconds["torch_sampler"].append(timed(sample, device))
            seconds["transformers_generate"].append(timed(peer, device))
        trajectories = Trajectories(prompts, [item.tokens for item in samples])
        rows_at_once = max(1, settings.micro_batch_tokens // (settings.max_prompt_tokens + given.max_response_tokens))

        def forward(layout: str) -> None:
            with torch.no_grad():
                for micro in micro_batches(trajectories, range(len(prompts)), settings.micro_batch_tokens, layout, device):
                    policy_outputs(setup.actor, micro, 1.0, setup.vocab_size)

        for _ in range(given.rounds):
            seconds["ours_forward"].append(timed(lambda: forward(setup.layout), device))
            seconds["packed"].append(timed(lambda: forward("packed"), device))
            whole = lambda: fully_padded(setup, trajectories, settings.max_prompt_tokens, given.max_response_tokens, rows_at_once)  # noqa: E731
            seconds["padded_full"].append(timed(whole, device))
        line = ppo.train_step(setup, 1)
        phases = dict(setup.timer.seconds)
        peak = matmul_flops(device, torch.bfloat16 if setup.compute == torch.bfloat16 else torch.float32)
    best = {name: min(values) for name, values in seconds.items()}
    step, floor = sum(phases.values()), line["flops"] / peak + phases["generate"]
    parts = {
        "rows": given.rows,
        "response_tokens_mean": round(sum(len(item.tokens) for item in samples) / given.rows, 1),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in setup.actor.parameters()),
        "layout": setup.layout,
        "seconds_best": {name: round(value, 3) for name, value in best.items()},
        "step_seconds_by_phase": {name: round(value, 3) for name, value in phases.items()},
        "step_seconds": round(step, 3),
        "measured_gflops": round(peak / 1e9, 1),
        "floor_seconds": round(floor, 3),
        "step_over_floor": round(step / floor, 2),
        "forward_speedup_over_full_padding": round(best["padded_full"] / best["ours_forward"], 2),
        "forward_speedup_of_packed_over_full_padding": round(best["padded_full"] / best["packed"], 2),
    }
    print(json.dumps(parts))
    print(f"ratio: {best['transformers_generate'] / best['torch_sampler']:.2f}")


if __name__ == "__main__":
    main()
