"""What runs of `rl ppo` gained: T=1 accuracy on unseen tasks before and after, the behaviors behind it, the time.

    python bench/learning.py RUN [RUN ...] [--curve]

A gain is over the same tasks, so its interval is that of the paired differences (normal, 95 %); those of accuracies are Wilson's.
`--curve` prints every evaluation. "Per try" is the share of tries that fit; "wrong" are shares of checks and of computed results.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rl.evaluate import Z_95


def responses(run: Path, step: int) -> list[dict[str, Any]]:
    """The sampled responses of one evaluation, in the order of the tasks."""
    return sorted(pq.read_table(run / "evaluations" / f"step-{step:08d}-sampled.parquet").to_pylist(), key=lambda row: row["task"])


def behaviors(rows: list[dict[str, Any]]) -> str:
    """Means a response, and what was wrong."""
    total = {
        name: sum(row[name] for row in rows)
        for name in ("attempts", "fitting_attempts", "verification", "wrong_verification", "arithmetic", "wrong_arithmetic", "num_tokens")
    }
    return (
        f"{total['attempts'] / len(rows):.2f} tries, per try {total['fitting_attempts'] / max(total['attempts'], 1):.3f}, "
        f"wrong checks {total['wrong_verification'] / max(total['verification'], 1):.4f}, "
        f"wrong results {total['wrong_arithmetic'] / max(total['arithmetic'], 1):.4f}, "
        f"{total['num_tokens'] / len(rows):.0f} tokens, truncated {sum(row['truncated'] for row in rows) / len(rows):.3f}"
    )


def report(run: Path, curve: bool) -> float:
    """Print one run; returns its gain."""
    evaluations = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    print(f"{run}: {len(steps)} steps, {sum(line['seconds'] for line in steps) / 60:.1f} minutes")
    shown = evaluations if curve else [evaluations[0], evaluations[-1]]
    by_step = {line["step"]: line for line in steps}
    for line in shown:
        step = by_step.get(line["step"], {})
        print(
            f"  step {line['step']:4d}: T=1 {line['eval_sampled_accuracy']:.3f} "
            f"[{line['eval_sampled_low']:.3f}, {line['eval_sampled_high']:.3f}], greedy {line['eval_greedy_accuracy']:.3f}; "
            f"{behaviors(responses(run, line['step']))}"
            + (f"; kl {step['kl_k1']:.3f}, entropy {step.get('entropy', math.nan):.3f}, {step['seconds']:.1f} s" if step else "")
        )
    first, last = (responses(run, line["step"]) for line in (evaluations[0], evaluations[-1]))
    differences = [int(after["correct"]) - int(before["correct"]) for before, after in zip(first, last, strict=True)]
    number = len(differences)
    gain = sum(differences) / number
    spread = Z_95 * math.sqrt((sum(x * x for x in differences) / number - gain * gain) / number)
    print(f"  gain {100 * gain:+.1f} points [{100 * (gain - spread):+.1f}, {100 * (gain + spread):+.1f}] on {number} unseen tasks")
    return gain


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--curve", action="store_true")
    arguments = parser.parse_args()
    gains = [report(run, arguments.curve) for run in arguments.runs]
    if len(gains) > 1:
        print(f"mean gain {100 * sum(gains) / len(gains):+.1f} points over {len(gains)} runs, least {100 * min(gains):+.1f}")


if __name__ == "__main__":
    main()
