"""The metrics of a step (one JSON line each in `metrics.jsonl`), timings by phase, and the line on the terminal.

Keys are stable. Rewards: reward_mean, reward_std, reward_histogram, accuracy, format_rate, truncated_rate, equal_groups (share of tasks
whose responses all have one reward), reward_variance_correct / _format. Lengths: response_tokens_mean / _max / _min. Policy: kl_k1, kl_k3
(actor before the update against the reference), kl_coefficient, entropy, policy_loss, clipfrac_low / _high, approx_kl, ratio_max, and
first_…: the same on the step's first mini-batch, where the ratio must be 1. Sampler against trainer: mismatch_mean (|difference of
log-probabilities|), mismatch_ratio_max, importance_clipfrac. Values: value_loss, value_clipfrac, value_mean / _min / _max, return_mean,
explained_variance. Both models: …_grad_norm. Behaviors: means a response. Then seconds by phase, tokens_per_second, mfu, memory_gb.
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rl import losses, traces
from rl.ranks import Ranks
from train.flops import peak_flops, training_flops
from train.metrics import MetricsFile, peak_memory_gb

if TYPE_CHECKING:
    from rl.build import Setup
    from rl.ppo import Experience
    from rl.rollouts import Rollout

METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.jsonl"
STOPPED = "stopped.json"  # step and reason, of a run that gave up: its gradients were not finite


class MetricsLog:
    """The two JSONL files of a run; opened at the offsets of a checkpoint, later lines are dropped."""

    def __init__(self, out: Path, offsets: dict[str, int]) -> None:
        self.files = {name: MetricsFile(out / name, offsets.get(name, 0)) for name in (METRICS, EVALUATIONS)}

    def write(self, name: str, line: dict[str, Any]) -> None:
        """Append a line to one of them."""
        self.files[name].write(line)

    def offsets(self) -> dict[str, int]:
        """Bytes so far, for the checkpoint."""
        return {name: file.offset for name, file in self.files.items()}


class Timer:
    """Seconds by phase of one step. On a GPU a phase ends when its work is done."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds, self.started = device, dict[str, float](), time.monotonic()
        self.clock = time.monotonic

    def start_step(self) -> None:
        """Forget the step before."""
        self.seconds, self.started = {}, time.monotonic()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a block."""
        started = self.clock()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + self.clock() - started


class Means:
    """Adds up what micro-batches report. Sums of shares give the mean of one update; `result` is the mean over updates and ranks' sum."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.num_updates = ranks, 0
        self.totals: dict[str, Tensor] = {}
        self.once: set[str] = set()
        self.maxima: dict[str, Tensor] = {}

    def add(self, name: str, share: Tensor, once: bool = False) -> None:
        """Add a share of an update's value. `once`: the value belongs to one update, so it is not divided by their number."""
        self.totals[name] = self.totals.get(name, torch.zeros_like(share)) + share
        if once:
            self.once.add(name)

    def largest(self, name: str, value: Tensor) -> None:
        """Keep the maximum."""
        self.maxima[name] = torch.maximum(self.maxima.get(name, value), value)

    def next_update(self) -> None:
        """An update is over."""
        self.num_updates += 1

    def result(self) -> dict[str, float]:
        """Over all ranks. A rank that had no row of the first mini-batch lacks names that others have."""
        number = max(self.num_updates, 1)
        once = self.ranks.union(self.once)
        device = self.ranks.device
        zero, least = (torch.tensor(value, dtype=torch.float64, device=device) for value in (0.0, -math.inf))
        line = {}
        for name in self.ranks.union(self.totals):
            line[name] = self.ranks.sum(self.totals.get(name, zero).double()).item() / (1 if name in once else number)
        for name in self.ranks.union(self.maxima):
            line[name] = self.ranks.largest(self.maxima.get(name, least).double()).item()
        return line


@torch.no_grad()
def rollout_metrics(setup: "Setup", everything: Sequence["Rollout"], experience: "Experience") -> dict[str, Any]:
    """Metrics of a step's rollouts before any update. `everything` are all ranks' rollouts."""
    ranks, mask = setup.ranks, experience.mask_BT
    scores = torch.tensor([item.score.value for item in everything], dtype=torch.float64)
    correct = torch.tensor([item.score.correct for item in everything], dtype=torch.float64)
    lengths = [len(item.sample.tokens) for item in everything]
    groups: dict[int, set[float]] = {}
    for item in everything:
        groups.setdefault(item.group, set()).add(item.score.value)
    num_tokens = ranks.sum(mask.sum())

    def mean(x_BT: Tensor) -> float:
        return (ranks.sum(losses.masked_sum(x_BT, mask)) / num_tokens).item()

    difference = experience.old_logprobs_BT - experience.sampler_logprobs_BT
    ratio = difference.clamp(-losses.LOG_RATIO_BOUND, losses.LOG_RATIO_BOUND).exp()
    format_part = scores - correct
    line: dict[str, Any] = {
        "reward_mean": scores.mean().item(),
        "reward_std": scores.std(unbiased=False).item(),
        "reward_histogram": {f"{value:g}": count for value, count in sorted(Counter(scores.tolist()).items())},
        "reward_variance_correct": correct.var(unbiased=False).item(),
        "reward_variance_format": format_part.var(unbiased=False).item(),
        "accuracy": correct.mean().item(),
        "format_rate": sum(item.score.reason != "no_answer" for item in everything) / len(everything),
        "truncated_rate": sum(item.sample.truncated for item in everything) / len(everything),
        "reasons": dict(sorted(Counter(item.score.reason for item in everything).items())),
        "equal_groups": sum(len(values) == 1 for values in groups.values()) / len(groups),
        "response_tokens_mean": sum(lengths) / len(lengths),
        "response_tokens_max": max(lengths),
        "response_tokens_min": min(lengths),
        "kl_coefficient": setup.kl_coefficient,
        "mismatch_mean": mean(difference.abs()),
        "mismatch_ratio_max": ranks.largest(torch.where(mask.bool(), ratio, 0.0).max()).item(),
        "importance_clipfrac": mean((ratio > (setup.settings.importance_cap or 2.0)).to(ratio.dtype)),
    }
    if experience.ref_logprobs_BT is not None:
        for kind in ("k1", "k3"):
            line[f"kl_{kind}"] = mean(losses.kl_estimate(experience.old_logprobs_BT, experience.ref_logprobs_BT, kind))
    if experience.values_BT is not None:
        values, returns = experience.values_BT, experience.returns_BT
        inside = mask.bool()
        line["value_mean"], line["return_mean"] = mean(values), mean(returns)
        line["value_min"] = -ranks.largest((-values[inside]).max()).item()
        line["value_max"] = ranks.largest(values[inside].max()).item()
        residual_mean, residual_square = mean(returns - values), mean((returns - values).square())
        variance = mean(returns.square()) - line["return_mean"] ** 2
        line["explained_variance"] = 1 - (residual_square - residual_mean**2) / variance if variance > 1e-12 else 0.0
    for name in traces.COUNTS:
        line[name] = sum(getattr(item.trace, name) for item in everything) / len(everything)
    if setup.settings.reward == "task" and line["reward_variance_format"] > line["reward_variance_correct"] and ranks.is_main:
        print(
            f"warning: the format reward varies more ({line['reward_variance_format']:.4f}) than correctness "
            f"({line['reward_variance_correct']:.4f}): mostly format is being learnt; consider --format-reward 0",
            file=sys.stderr,
            flush=True,
        )
    return line | _work(setup, everything)


def _work(setup: "Setup", everything: Sequence["Rollout"]) -> dict[str, float]:
    """Tokens of the step, and the FLOPs its passes must do (3 forward, 2 forward and backward: 18 N T for one pass over the data)."""
    prompt_tokens = sum(len(setup.train.tokens[item.task]) for item in everything)
    response_tokens = sum(len(item.sample.tokens) for item in everything)
    squared = sum((len(setup.train.tokens[item.task]) + len(item.sample.tokens)) ** 2 for item in everything)
    one_pass = training_flops(setup.actor.config, prompt_tokens + response_tokens, response_tokens, squared)
    forwards = 1 + (setup.reference is not None) + (setup.critic is not None)
    trained = (1 + (setup.critic is not None)) * setup.settings.epochs_per_step
    return {"tokens": prompt_tokens + response_tokens, "flops": one_pass * (forwards / 3 + trained)}


def finish_line(setup: "Setup", step: int, line: dict[str, Any]) -> None:
    """Add what is known only at the end, write the line, show it."""
    if not setup.ranks.is_main:
        return
    seconds = time.monotonic() - setup.timer.started
    learning = sum(
        setup.timer.seconds.get(phase, 0.0) for phase in ("old_logprobs", "ref_logprobs", "values", "update_critic", "update_actor")
    )
    peak = peak_flops(setup.ranks.device, setup.compute)
    # MFU is over the learning phases alone: what sampling must do is memory traffic, not arithmetic
    line |= {
        "step": step,
        "seconds": seconds,
        **{f"seconds_{phase}": value for phase, value in setup.timer.seconds.items()},
        "tokens_per_second": line["tokens"] / seconds,
        "mfu": line["flops"] / learning / peak / setup.ranks.world if peak else None,
        "memory_gb": peak_memory_gb(),
        "skipped_updates": setup.skipped_updates,
        "weight_version": setup.weight_version,
    }
    assert setup.log is not None
    setup.log.write("metrics.jsonl", {"step": line.pop("step")} | line)
    if alarm := alarms(line):
        print(f"warning: step {step}: {alarm}", file=sys.stderr, flush=True)
    print(
        f"step {step}/{setup.settings.total_steps}: accuracy {line['accuracy']:.3f}, reward {line['reward_mean']:.3f}, "
        f"{line['response_tokens_mean']:.0f} tokens, kl {line.get('kl_k1', 0.0):.4f}, entropy {line.get('entropy', 0.0):.3f}, "
        f"attempts {line['attempts']:.2f}, checks {line['verification']:.2f}, {seconds:.1f} s "
        f"(generate {setup.timer.seconds['generate']:.1f})",
        flush=True,
    )


def alarms(line: dict[str, Any]) -> str:
    """What usually comes before a collapse, in words; empty when all is well."""
    found = []
    if line.get("first_ratio_max", 1.0) > 1.01:
        found.append(f"the first mini-batch's ratio is {line['first_ratio_max']:.3f}, not 1: log-probabilities do not repeat")
    if line["mismatch_mean"] > 0.1:
        found.append(f"sampler and trainer differ by {line['mismatch_mean']:.3f} in log-probability")
    if line["truncated_rate"] > 0.5:
        found.append(f"{line['truncated_rate']:.0%} of the responses are truncated")
    return "; ".join(found)
