"""Experiment folders made of nothing but the files that the evaluation reads."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from curate.records.parts import write_part
from rl.report import EVALUATIONS
from rl.traces import COUNTS

TASKS = 50


def write_run(
    folder: Path,
    accuracy: Sequence[float],
    *,
    steps: Sequence[int] | None = None,
    verification: Sequence[int] | None = None,
    target: int = 10,
) -> Path:
    """One run of `rl ppo` as it looks to `evals`: a line and a file of responses for each evaluation."""
    steps = steps or [10 * place for place in range(len(accuracy))]
    folder.mkdir(parents=True)
    lines = []
    for place, (step, share) in enumerate(zip(steps, accuracy)):
        line = {"step": step, "num_tasks": TASKS}
        for how in ("sampled", "greedy"):
            line |= {f"eval_{how}_accuracy": share, f"eval_{how}_tokens": 40.0, f"eval_{how}_truncated": 0.0}
            counts = {name: [0] * TASKS for name in COUNTS}
            counts["verification"] = [verification[place] if verification else 1] * TASKS
            columns = {"numbers": [[1, 2, number] for number in range(TASKS)], "target": [target] * TASKS}
            columns |= {"response": ["1 + 2 = 3 no\n<answer>1 + 2</answer>"] * TASKS, "correct": [False] * TASKS}
            write_part(folder / "evaluations" / f"step-{step:08d}-{how}.parquet", pa.table(columns | counts))
        lines.append(json.dumps(line))
    (folder / EVALUATIONS).write_text("\n".join(lines) + "\n")
    return folder


def write_experiment(folder: Path, ends: dict[str, float], seeds: int = 6, spread: float = 0.01) -> Path:
    """Conditions that rise from .1 to their end, each seed a little different, the same way in all conditions plus own noise."""
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 0.05, seeds)
    for name, end in ends.items():
        for seed in range(seeds):
            last = end + shared[seed] + generator.normal(0, spread)
            write_run(folder / name / f"seed-{seed}", [0.1, 0.1, *np.linspace(0.2, last, 5)])
    return folder
