"""An experiment folder as curves: `EXPERIMENT/CONDITION/seed-N/` is the output of one `rl ppo` run.

A run may have been made elsewhere: beside its evaluations only `settings.json` is read, where there is one. Refused is what cannot be
compared (other tasks, an evaluation that is missing, a run that has not ended) and what is no further seed: a run made with another
seed than its folder says, two folders of one seed, the same run twice. A run that gave up (`stopped.json`: its gradients were not
finite) counts as its last evaluation: left out, a condition would look better for failing.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.records.errors import UserError
from eval.curves import Curve, read_curve, responses_of
from rl.report import EVALUATIONS, STOPPED

_SEED = re.compile(r"seed-(\d+)")

Experiment = dict[str, dict[int, Curve]]


def read_experiment(folder: Path, how: str = "sampled", leave_out_unfinished: bool = False) -> Experiment:
    """Curves by condition and seed. Raises UserError naming every run that is damaged, unfinished, no seed of its own or unlike the others.

    With `leave_out_unfinished` runs that have not ended are named and left out instead: those without a manifest, and those whose last
    evaluation lies before the last step of their settings. Runs that gave up are named, and go on as their last evaluation to the end
    of the others. Folders that are not called seed-N are named, too.
    """
    found: Experiment = {}
    gave_up: list[Curve] = []
    mistakes: list[str] = []
    for path, seed in _runs(folder):
        stopped = (path / STOPPED).is_file()
        if leave_out_unfinished and not stopped and not (path / "manifest.json").is_file():
            print(f"left out, unfinished: {path}")
            continue
        try:
            settings = run_settings(path)
            curve = read_curve(path, path.parent.name, seed, how)
        except UserError as error:
            mistakes.append(str(error))
            continue
        last, total = curve.steps[-1], settings.get("total_steps")
        if not stopped and isinstance(total, int) and last < total:
            if leave_out_unfinished:
                print(f"left out, unfinished: {path}")
            else:
                mistakes.append(f"{path} has not ended, its last evaluation is at step {last} of {total}: {_WAYS_OUT}")
            continue
        if settings.get("seed", seed) != seed:
            mistakes.append(f"{path} was run with --seed {settings['seed']}, by its settings.json: it is no seed {seed}")
        seeds = found.setdefault(curve.condition, {})
        if seed in seeds:
            mistakes.append(f"{seeds[seed].folder} and {path} are both seed {seed}: keep one")
        seeds[seed] = curve
        gave_up += [curve] if stopped else []
    mistakes += [mistake for seeds in found.values() for mistake in _copies(list(seeds.values()), how)]
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


_WAYS_OUT = "let it finish, or --leave-out-unfinished"


def _runs(folder: Path) -> Iterator[tuple[Path, int]]:
    """The run folders with their seeds; what looks like one but is not called seed-N is named and passed over."""
    for path in sorted(folder.glob("*/*")):
        if not path.is_dir():
            continue
        if match := _SEED.fullmatch(path.name):
            yield path, int(match[1])
        elif path.name.lower().startswith("seed") or (path / EVALUATIONS).exists():
            print(f"passed over, its name is not seed-N: {path}")


def run_settings(folder: Path) -> dict[str, Any]:
    """The run's `settings.json`; empty when there is none (made elsewhere). Raises UserError when it is damaged."""
    path = folder / "settings.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it is no JSON object")
    return found


def _copies(curves: Sequence[Curve], how: str) -> list[str]:
    """Runs of one condition with the same numbers at every evaluation and the same responses in the end. The start alone does not
    count: greedy, two seeds of one model begin alike."""
    return [
        f"{two.folder} is {one.folder} again, with the same numbers at every evaluation: a copy is no further seed"
        for one, two in itertools.combinations(curves, 2)
        if one.steps == two.steps
        and len(one.steps) > 1
        and all(np.array_equal(one.values[name], two.values[name]) for name in one.values)
        and _responses(one, how) == _responses(two, how)
    ]


def _responses(curve: Curve, how: str) -> list[str] | None:
    """The responses of the last evaluation; None where the file has none."""
    path = responses_of(curve.folder, curve.steps[-1], how)
    if "response" not in pq.read_schema(path).names:
        return None
    return pq.read_table(path, columns=["response"])["response"].to_pylist()


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
            mistakes.append(f"{curve.folder} has no evaluation at step {shown}, where others have one: {_WAYS_OUT}")
    return mistakes


def paired_seeds(experiment: Experiment, one: str, other: str) -> list[int]:
    """Seeds that both conditions have."""
    return sorted(set(experiment[one]) & set(experiment[other]))
