"""An experiment folder as curves: `EXPERIMENT/CONDITION/seed-N/` is the output of one `rl ppo` run.

Read are `evaluations.jsonl` and `evaluations/step-…-{sampled,greedy}.parquet` (table `rollouts`), nothing else, so a run may have been made
elsewhere. Curves that cannot be compared are refused: other tasks, other steps, an evaluation that is missing. A run that gave up
(`stopped.json`: its gradients were not finite) counts as its last evaluation: left out, a condition would look better for failing.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.records.errors import UserError
from curate.records.manifest import json_sha256
from rl.report import EVALUATIONS, STOPPED
from rl.traces import COUNTS

HOW = ("sampled", "greedy")
BEHAVIORS = ("verification", "backtracking", "subgoal_setting", "backward_chaining")
_SEED = re.compile(r"seed-(\d+)$")


@dataclass(frozen=True)
class Curve:
    """One run under one way of sampling. Every array has one value an evaluation: accuracy, tokens, truncated, and mean counts of
    `rl.traces.COUNTS` a response. `tasks_sha256` names the fixed task set, `num_tasks` its size, `num_held` how many values at the end
    repeat the last evaluation of a run that gave up."""

    condition: str
    seed: int
    folder: Path
    steps: tuple[int, ...]
    values: dict[str, np.ndarray]
    num_tasks: int
    tasks_sha256: str
    num_held: int = 0

    def last_mean(self, name: str, number: int) -> float:
        """Mean of the last `number` evaluations."""
        return float(self.values[name][-number:].mean())


Experiment = dict[str, dict[int, Curve]]


def read_experiment(folder: Path, how: str = "sampled", conditions: Sequence[str] = (), leave_out_unfinished: bool = False) -> Experiment:
    """Curves by condition and seed. Raises UserError naming every run that is damaged, unfinished or different from the others.

    With `leave_out_unfinished` runs without a manifest are named and left out instead. Runs that gave up are named, and go on as their
    last evaluation to the end of the others.
    """
    found: Experiment = {}
    gave_up: list[Curve] = []
    mistakes: list[str] = []
    for path in sorted(folder.glob("*/seed-*")):
        match = _SEED.search(path.name)
        if match is None or not path.is_dir() or (conditions and path.parent.name not in conditions):
            continue
        stopped = (path / STOPPED).is_file()
        if leave_out_unfinished and not stopped and not (path / "manifest.json").is_file():
            print(f"left out, unfinished: {path}")
            continue
        try:
            curve = read_curve(path, path.parent.name, int(match[1]), how)
        except UserError as error:
            mistakes.append(str(error))
            continue
        found.setdefault(curve.condition, {})[curve.seed] = curve
        gave_up += [curve] if stopped else []
    mistakes += [f"{folder} has no condition {name}" for name in conditions if name not in found]
    if not found and not mistakes:
        mistakes.append(f"{folder} has no runs; an experiment is CONDITION/seed-N/ folders, each the --out of one `rl ppo`")
    everywhere = sorted({step for seeds in found.values() for curve in seeds.values() for step in curve.steps})
    for curve in gave_up:
        print(f"counts as its last evaluation (step {curve.steps[-1]}), it stopped: {curve.folder}")
        found[curve.condition][curve.seed] = _held(curve, [step for step in everywhere if step > curve.steps[-1]])
    mistakes += _unlike([curve for seeds in found.values() for curve in seeds.values()])
    if mistakes:
        raise UserError("; ".join(mistakes))
    return found


def read_curve(folder: Path, condition: str, seed: int, how: str) -> Curve:
    """One run's evaluations. Raises UserError when there are none, a line is damaged, or a file of responses is missing."""
    file = folder / EVALUATIONS
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
    except OSError:
        raise UserError(f"{file} is missing: run `rl ppo` with this --out") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from None
    if not lines or f"eval_{how}_accuracy" not in lines[-1]:
        raise UserError(f"{file} has no {how} evaluations")
    rows = [_row(folder, line, how) for line in lines]
    shas = {sha for _, sha in rows}
    if len(shas) > 1:
        raise UserError(f"{folder} was evaluated on different tasks at different steps")
    values = {name: np.array([row[name] for row, _ in rows], dtype=np.float64) for name in rows[0][0]}
    steps = tuple(int(line["step"]) for line in lines)
    return Curve(condition, seed, folder, steps, values, int(lines[0]["num_tasks"]), shas.pop())


def _row(folder: Path, line: dict[str, Any], how: str) -> tuple[dict[str, float], str]:
    path = folder / "evaluations" / f"step-{line['step']:08d}-{how}.parquet"
    try:
        table = pq.read_table(path, columns=["numbers", "target", *COUNTS])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); a curve needs the responses of every evaluation") from None
    row = {name: line[f"eval_{how}_{name}"] for name in ("accuracy", "tokens", "truncated")}
    row |= {name: float(np.mean(table[name].to_numpy())) for name in COUNTS}
    return row, json_sha256([table["numbers"].to_pylist(), table["target"].to_pylist()])


def _held(curve: Curve, steps: Sequence[int]) -> Curve:
    """The curve with its last evaluation repeated at later steps."""
    values = {name: np.append(array, np.repeat(array[-1], len(steps))) for name, array in curve.values.items()}
    return replace(curve, steps=(*curve.steps, *steps), values=values, num_held=len(steps))


def _unlike(curves: Sequence[Curve]) -> list[str]:
    """What makes the curves incomparable: another task set, an evaluation that others have, an end before the others' end."""
    if not curves:
        return []
    mistakes = []
    first = curves[0]
    everywhere = sorted({step for curve in curves for step in curve.steps})
    for curve in curves:
        if curve.tasks_sha256 != first.tasks_sha256:
            mistakes.append(f"{curve.folder} was evaluated on other tasks than {first.folder}")
        if missing := [step for step in everywhere if step not in curve.steps]:
            shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
            mistakes.append(
                f"{curve.folder} has no evaluation at step {shown}, where others have one: let it finish, or --leave-out-unfinished"
            )
    return mistakes


def paired_seeds(experiment: Experiment, one: str, other: str) -> list[int]:
    """Seeds that both conditions have."""
    return sorted(set(experiment[one]) & set(experiment[other]))


def take_off(curve: Curve) -> int | None:
    """First step from which on accuracy stays above the upper Wilson bound of its start; None when it never does."""
    from rl.evaluate import wilson

    accuracy = curve.values["accuracy"]
    bound = wilson(round(accuracy[0] * curve.num_tasks), curve.num_tasks)[1]
    above = accuracy > bound
    for place in range(1, len(above)):
        if above[place:].all():
            return curve.steps[place]
    return None


def lead(curve: Curve, behavior: str, most: int = 3) -> int | None:
    """Evaluations by which changes of a behavior run ahead of changes of accuracy (negative: behind): the lag of the largest correlation
    of first differences, within ± `most`. None when one of them never changes, or the curve is too short (fewer than 2 · most + 3)."""
    accuracy, counts = np.diff(curve.values["accuracy"]), np.diff(curve.values[behavior])
    if len(accuracy) < 2 * most + 2 or accuracy.std() == 0 or counts.std() == 0:
        return None

    def correlation(lag: int) -> float:
        late, early = (accuracy[lag:], counts[: len(counts) - lag]) if lag >= 0 else (accuracy[:lag], counts[-lag:])
        return float(np.corrcoef(late, early)[0, 1]) if late.std() > 0 and early.std() > 0 else -1.0

    return max(range(-most, most + 1), key=lambda lag: (correlation(lag), -abs(lag)))
