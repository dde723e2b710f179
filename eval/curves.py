"""One run of `rl ppo` as a curve: its evaluations, when accuracy takes off, and whether a behavior leads or follows it.

Read are `evaluations.jsonl` and `evaluations/step-…-{sampled,greedy}.parquet` (table `rollouts`).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.records.errors import UserError
from curate.records.manifest import json_sha256
from rl.report import EVALUATIONS
from rl.traces import COUNTS

HOW = ("sampled", "greedy")
BEHAVIORS = ("verification", "backtracking", "subgoal_setting", "backward_chaining")
MEASURED = ("accuracy", "tokens", "truncated")  # of a line; the behaviors are counted in the responses
MOST_LAG = 3  # evaluations by which a behavior may lead or follow
LEAST_FOR_LEAD = 2 * MOST_LAG + 3  # evaluations: at the largest lag five differences are left


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


def read_curve(folder: Path, condition: str, seed: int, how: str) -> Curve:
    """One run's evaluations. Raises UserError, naming file and line, when there are none, one is damaged or out of order, or a file of
    responses is missing."""
    lines = _lines(folder / EVALUATIONS, how)
    rows = [_row(folder, line, how) for line in lines]
    shas = {sha for _, sha in rows}
    if len(shas) > 1:
        raise UserError(f"{folder} was evaluated on different tasks at different steps")
    values = {name: np.array([row[name] for row, _ in rows], dtype=np.float64) for name in rows[0][0]}
    steps = tuple(line["step"] for line in lines)
    return Curve(condition, seed, folder, steps, values, lines[0]["num_tasks"], shas.pop())


def responses_of(folder: Path, step: int, how: str) -> Path:
    """The file of responses of one evaluation."""
    return folder / "evaluations" / f"step-{step:08d}-{how}.parquet"


def _lines(file: Path, how: str) -> list[dict[str, Any]]:
    """The lines of `evaluations.jsonl`: objects with finite numbers, steps that rise."""
    try:
        texts = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"{file} is missing: run `rl ppo` with this --out") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged: {error}") from None
    if not texts:
        raise UserError(f"{file} has no evaluations")
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise UserError(f"{file} line {number} is damaged: {error}") from None
        if mistake := _mistake(line, how):
            raise UserError(f"{file} line {number} {mistake}")
        if lines and line["step"] <= lines[-1]["step"]:
            raise UserError(f"{file} line {number}: step {line['step']} does not come after step {lines[-1]['step']} of the line before")
        lines.append(line)
    return lines


def _mistake(line: Any, how: str) -> str | None:
    """What is wrong with a line; None when nothing is."""
    if not isinstance(line, dict):
        return "is no JSON object"
    for key in ("step", "num_tasks", *(f"eval_{how}_{name}" for name in MEASURED)):
        if key not in line:
            return f"has no {key}"
        value, whole = line[key], not key.startswith("eval_")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
            return f"has {key} = {json.dumps(value)}, not a {'whole' if whole else 'finite'} number"
    if line["step"] < 0 or line["num_tasks"] < 1 or not 0 <= line[f"eval_{how}_accuracy"] <= 1:
        return "has a step below 0, no tasks or an accuracy outside 0 to 1"
    return None


def _row(folder: Path, line: dict[str, Any], how: str) -> tuple[dict[str, float], str]:
    path = responses_of(folder, line["step"], how)
    try:
        table = pq.read_table(path, columns=["numbers", "target", *COUNTS])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); a curve needs the responses of every evaluation") from None
    if not table.num_rows or any(table[name].null_count for name in COUNTS):
        raise UserError(f"{path} has {'responses without counts' if table.num_rows else 'no responses'}; evaluate the run again")
    row = {name: line[f"eval_{how}_{name}"] for name in MEASURED}
    row |= {name: float(np.mean(table[name].to_numpy())) for name in COUNTS}
    return row, json_sha256([table["numbers"].to_pylist(), table["target"].to_pylist()])


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


@dataclass(frozen=True)
class Lead:
    """A behavior changes `evaluations` before accuracy does (negative: after), with this correlation of their first differences."""

    evaluations: int
    correlation: float


def lead(curve: Curve, behavior: str, most: int = MOST_LAG) -> Lead | None:
    """The lag within ± `most` evaluations at which first differences of a behavior and of accuracy correlate most, whatever the sign.

    A lag counts when |r| is at least 2 / sqrt(overlap), twice the standard error of a correlation of nothing; None when no lag does, or
    when the run has fewer than 2 · most + 3 evaluations of its own. Seven lags are looked at, so two runs in five of pure noise have a
    lead: it describes, and says something only when many seeds agree.
    """
    own = len(curve.steps) - curve.num_held
    accuracy, counts = np.diff(curve.values["accuracy"][:own]), np.diff(curve.values[behavior][:own])
    found: list[Lead] = []
    for lag in range(-most, most + 1) if own >= 2 * most + 3 else ():
        late, early = (accuracy[lag:], counts[: len(counts) - lag]) if lag >= 0 else (accuracy[:lag], counts[-lag:])
        if late.std() > 0 and early.std() > 0:
            correlation = float(np.corrcoef(late, early)[0, 1])
            found += [Lead(lag, correlation)] if abs(correlation) >= 2 / math.sqrt(len(late)) else []
    return max(found, key=lambda one: (abs(one.correlation), -abs(one.evaluations)), default=None)
