"""Accuracy on a fixed set of unseen tasks, sampled at temperature 1 and greedy, with intervals."""

import math
from typing import TYPE_CHECKING, Any

from curate.records.parts import write_part
from rl import rollouts
from rl.report import EVALUATIONS
from rl.rollouts import Rollout
from rl.samplers.base import Sampling

if TYPE_CHECKING:
    from rl.build import Setup

EVAL_NOISE = 6
Z_95 = 1.959963984540054


def wilson(successes: float, trials: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) without trials, which need not be a whole number. E. B. Wilson, JASA 22 (1927)."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def evaluate(setup: "Setup") -> dict[str, list[Rollout]]:
    """One response a test task at temperature 1 (`sampled`) and one greedy. The noise is the same at every step of a run, so that
    two evaluations differ by what the policy learnt and less by luck. Empty when there are no test tasks."""
    if not setup.test.tasks:
        return {}
    settings, ranks = setup.settings, setup.ranks
    number = len(setup.test.tasks)
    results = {}
    setup.sampler.wake()
    setup.sampler.load_weights(setup.weight_version)
    for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        found = rollouts.roll_out(
            setup.sampler,
            setup.test,
            ranks.part(list(zip(range(number), range(number)))),
            settings,
            setup.tokenizer,
            samples_per_prompt=1,
            sampling=Sampling(settings.max_response_tokens, temperature),
            noise_seed=(settings.seed, EVAL_NOISE),
            num_groups=number,
        )
        results[name] = ranks.gather(found)
    setup.sampler.sleep()
    return results


def write_evaluation(setup: "Setup", step: int, results: dict[str, list[Rollout]]) -> dict[str, Any]:
    """A line in evaluations.jsonl and the responses in evaluations/; returns metrics for the step's line."""
    line: dict[str, Any] = {}
    if not results:
        return line
    for name, found in results.items():
        correct = sum(item.score.correct for item in found)
        low, high = wilson(correct, len(found))
        line[f"eval_{name}_accuracy"] = correct / len(found)
        line[f"eval_{name}_low"], line[f"eval_{name}_high"] = low, high
        line[f"eval_{name}_tokens"] = sum(len(item.sample.tokens) for item in found) / len(found)
        line[f"eval_{name}_truncated"] = sum(item.sample.truncated for item in found) / len(found)
        for count in ("attempts", "verification", "backtracking"):
            line[f"eval_{name}_{count}"] = sum(getattr(item.trace, count) for item in found) / len(found)
    if setup.ranks.is_main:
        assert setup.log is not None
        setup.log.write(EVALUATIONS, {"step": step, "num_tasks": len(setup.test.tasks)} | line)
        for name, found in results.items():
            path = setup.out / "evaluations" / f"step-{step:08d}-{name}.parquet"
            write_part(path, rollouts.table(step, setup.test, found))
        parts = (
            f"{name} {line[f'eval_{name}_accuracy']:.3f} [{line[f'eval_{name}_low']:.3f}, {line[f'eval_{name}_high']:.3f}]"
            for name in results
        )
        print(f"evaluation after step {step} on {len(setup.test.tasks)} unseen tasks: {', '.join(parts)}", flush=True)
    return line
