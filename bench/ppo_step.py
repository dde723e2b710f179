"""Seconds of a PPO step by phase against its floor; the torch sampler against `transformers.generate`; layouts against full padding.

    python bench/ppo_step.py [--model FOLDER] [--data TASKS] [--rows 512] [--max-response-tokens 96] [--rounds 3]

Two workloads for the samplers. `never_ends`: every row runs to the limit. `rows_end`: rows end at different lengths, as in training; a
warm-started `--model` does so by itself, a random one (`tiny`, the default) is given stop tokens enough for a mean of about 40 tokens
(geometric; its quartiles are printed). The floor is the FLOPs that the passes must do (18 N T for three forwards and two
forward-backwards) at the rate measured here for a large matrix product, plus the sampling measured in the same step. Peers are measured
alternating with ours. The last line is the samplers' ratio where nothing ends early, the smaller of the two.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from rl import ppo, rollouts, tasks
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


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def timed(function: Any, device: torch.device) -> float:
    """Seconds of one call, its work on the device included."""
    started = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


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
    """Measure, print, end with a JSON line and a ratio line (sampler against transformers, nothing ends early)."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--model", default="tiny:0.4M")
    parser.add_argument("--data", type=Path, help="left out: three numbers up to 9, targets up to 20")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--max-response-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this process, for one thread on a busy machine")
    given = parser.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    if given.clock == "cpu":
        torch.set_num_threads(1)
    random_model = given.model.split(":")[0] == "tiny"
    with tempfile.TemporaryDirectory() as folder:
        if given.data is None:
            given.data = Path(folder) / "tasks"
            tasks.run(
                tasks.TasksSettings(out=given.data, operands=(3,), max_number=9, min_target=1, max_target=20, num_train=0, num_test=8)
            )
        settings = resolve(
            PPOSettings(
                preset="tiny",
                model=given.model,
                data=given.data,
                out=Path(folder) / "run",
                prompts_per_step=given.rows // 4,
                critic_warmup_steps=0,
                max_response_tokens=given.max_response_tokens,
            )
        )
        setup = build(settings)
        restore(setup)
        setup.timer.clock = clock
        device = setup.ranks.device
        sampler: Any = setup.sampler
        sampler.load_weights(0)
        chosen = rollouts.step_tasks(len(setup.train.tasks), given.rows // 4, 1, 0)
        prompts = [setup.train.tokens[task] for task in chosen for _ in range(4)]
        width = max(map(len, prompts))
        left_padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        noise = uniform_noise(given.rows, given.max_response_tokens, torch.Generator().manual_seed(0))
        ends = tuple(range(2, 2 + round(setup.vocab_size / 40))) if random_model else sampler.stop
        workloads = {"rows_end": ends, "never_ends": (10**6,)}
        seconds: dict[str, list[float]] = {}
        samples: dict[str, Any] = {}

        def sample(workload: str) -> None:
            sampler.stop = workloads[workload]
            samples[workload] = sampler.generate(prompts, noise, Sampling(given.max_response_tokens))

        def peer(workload: str) -> None:
            setup.actor.eval()
            setup.actor.set_attn_implementation("sdpa")
            torch.manual_seed(0)
            setup.actor.generate(
                left_padded,
                attention_mask=(left_padded != 0).long(),
                max_new_tokens=given.max_response_tokens,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
                eos_token_id=list(workloads[workload]),
            )
            setup.actor.set_attn_implementation("fourhabits_packed")

        for _ in range(given.rounds):
            for workload in workloads:
                seconds.setdefault(f"{workload}_torch_sampler", []).append(timed(lambda: sample(workload), device))  # noqa: B023
                seconds.setdefault(f"{workload}_transformers", []).append(timed(lambda: peer(workload), device))  # noqa: B023
        sampler.stop = ends
        trajectories = Trajectories(prompts, [item.tokens for item in samples["rows_end"]])
        rows_at_once = max(1, settings.micro_batch_tokens // (settings.max_prompt_tokens + given.max_response_tokens))

        def forward(layout: str) -> None:
            with torch.no_grad():
                for micro in micro_batches(trajectories, range(len(prompts)), settings.micro_batch_tokens, layout, device):
                    policy_outputs(setup.actor, micro, 1.0, setup.vocab_size)

        for _ in range(given.rounds):
            seconds.setdefault("forward_ours", []).append(timed(lambda: forward(setup.layout), device))
            seconds.setdefault("forward_packed", []).append(timed(lambda: forward("packed"), device))
            whole = lambda: fully_padded(setup, trajectories, settings.max_prompt_tokens, given.max_response_tokens, rows_at_once)  # noqa: E731
            seconds.setdefault("forward_padded_full", []).append(timed(whole, device))
        ppo.train_step(setup, 1)  # once to warm up
        line = ppo.train_step(setup, 2)
        phases = dict(setup.timer.seconds)
        peak = matmul_flops(device, torch.bfloat16 if setup.compute == torch.bfloat16 else torch.float32)
    best = {name: min(values) for name, values in seconds.items()}
    step, floor = sum(phases.values()), line["flops"] / peak + phases["generate"]
    lengths = [len(item.tokens) for item in samples["rows_end"]]
    ratios = {workload: best[f"{workload}_transformers"] / best[f"{workload}_torch_sampler"] for workload in workloads}
    parts = {
        "rows": given.rows,
        "max_response_tokens": given.max_response_tokens,
        "rows_end_tokens": {
            "mean": round(statistics.mean(lengths), 1),
            "quartiles": statistics.quantiles(lengths),
            "longest": max(lengths),
        },
        "device": str(device),
        "clock": given.clock,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in setup.actor.parameters()),
        "layout": setup.layout,
        "seconds_best": {name: round(value, 3) for name, value in best.items()},
        "sampler_speedup": {name: round(value, 2) for name, value in ratios.items()},
        "step_seconds_by_phase": {name: round(value, 3) for name, value in phases.items()},
        "step_seconds": round(step, 3),
        "step_tokens": line["tokens"],
        "measured_gflops": round(peak / 1e9, 1),
        "floor_seconds": round(floor, 3),
        "step_over_floor": round(step / floor, 2),
        "learning_over_floor": round((step - phases["generate"]) / (line["flops"] / peak), 2),
        "forward_speedup_over_full_padding": round(best["forward_padded_full"] / best["forward_ours"], 2),
        "forward_speedup_of_packed_over_full_padding": round(best["forward_padded_full"] / best["forward_packed"], 2),
    }
    print(json.dumps(parts))
    print(f"ratio: {ratios['never_ends']:.2f}")


if __name__ == "__main__":
    main()
