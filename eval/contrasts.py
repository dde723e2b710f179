"""What a comparison counts: differences over paired seeds, equivalence, and what each condition did by itself.

The first contrast is the primary one and is tested at .05 as it is; the other contrasts are corrected together by Holm, and so are the
equivalences, a family of their own. A claim needs a corrected p below .05 and six paired seeds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval import statistics
from eval.curves import BEHAVIORS, LEAST_FOR_LEAD, Curve, lead, take_off
from eval.experiment import Experiment, paired_seeds

ALPHA = 0.05
# `p_least` is the lowest corrected p that so many pairs can reach, `pairs_needed` how many can go below ALPHA whatever the others show.
_TESTED = ("mean", "low", "high", "p", "p_holm", "p_least", "pairs_needed", "p_equivalence", "margin", "claim", "per_seed")
_EMPTY: dict[str, Any] = dict.fromkeys(_TESTED)


def differences(experiment: Experiment, contrasts: Sequence[tuple[str, str]], last: int) -> list[dict[str, Any]]:
    """One row a contrast × measure: `end` (tested), `gain` from step 0 and `end` of each behavior (intervals only, no test)."""
    rows: list[dict[str, Any]] = []
    for place, (one, other) in enumerate(contrasts):
        seeds = paired_seeds(experiment, one, other)
        row: dict[str, Any] = {"kind": "difference", "a": one, "b": other, "primary": place == 0, "seeds": seeds, "measure": "end"}
        pairs = [(experiment[one][seed], experiment[other][seed]) for seed in seeds]
        rows.append(row | _tested([a.last_mean("accuracy", last) - b.last_mean("accuracy", last) for a, b in pairs]))
        rows.append(row | {"measure": "gain"} | _interval([_gain(a, last) - _gain(b, last) for a, b in pairs]))
        for name in BEHAVIORS:
            rows.append(row | {"measure": name} | _interval([a.last_mean(name, last) - b.last_mean(name, last) for a, b in pairs]))
    tested = [row for row in rows if row["measure"] == "end" and row["p"] is not None]
    for row in tested:
        row["p_least"], row["pairs_needed"] = 2.0 ** (1 - len(row["seeds"])), statistics.pairs_needed(ALPHA)
    _correct_differences([row for row in tested if not row["primary"]])
    for row in tested:
        enough = len(row["seeds"]) >= statistics.MIN_SEEDS
        row["claim"] = enough and (row["p"] if row["primary"] else row["p_holm"]) < ALPHA
    return rows


def _correct_differences(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's p of the secondary contrasts, and the lowest that each could have had beside the others as they are."""
    p_values = [row["p"] for row in rows]
    least = [statistics.holm([*p_values[:place], row["p_least"], *p_values[place + 1 :]])[place] for place, row in enumerate(rows)]
    for row, adjusted, lowest in zip(rows, statistics.holm(p_values), least):
        row |= {"p_holm": adjusted, "p_least": lowest, "pairs_needed": statistics.pairs_needed(ALPHA, len(rows))}


def equivalences(experiment: Experiment, contrasts: Sequence[tuple[str, str]], margin: float, last: int) -> list[dict[str, Any]]:
    """One row a contrast: two one-sided tests against a difference of `margin`; more than one are corrected together by Holm."""
    rows: list[dict[str, Any]] = []
    for one, other in contrasts:
        seeds = paired_seeds(experiment, one, other)
        values = [experiment[one][seed].last_mean("accuracy", last) - experiment[other][seed].last_mean("accuracy", last) for seed in seeds]
        row: dict[str, Any] = {"kind": "equivalence", "a": one, "b": other, "primary": False, "seeds": seeds, "measure": "end"}
        row |= _interval(values) | {"margin": margin}
        if len(values) >= 2:
            row |= {"p_equivalence": statistics.equivalence(values, margin), "pairs_needed": statistics.MIN_SEEDS}
        rows.append(row)
    tested = [row for row in rows if row["p_equivalence"] is not None]
    adjusted = statistics.holm([row["p_equivalence"] for row in tested])
    for row, p in zip(tested, adjusted):
        row["p_holm"] = p if len(tested) > 1 else None
        row["claim"] = len(row["seeds"]) >= statistics.MIN_SEEDS and p < ALPHA
    return rows


def _gain(curve: Curve, last: int) -> float:
    return curve.last_mean("accuracy", last) - float(curve.values["accuracy"][0])


def _tested(values: Sequence[float]) -> dict[str, Any]:
    if len(values) < 2:
        return _EMPTY | {"per_seed": list(values), "mean": values[0] if values else None}
    found = statistics.paired(values)
    return _EMPTY | {"per_seed": list(values), "mean": found.mean, "low": found.low, "high": found.high, "p": found.p}


def _interval(values: Sequence[float]) -> dict[str, Any]:
    return _tested(values) | {"p": None}


def describe(curves: Sequence[Curve], last: int) -> dict[str, Any]:
    """A condition by itself, over its seeds: accuracy at the start and the end, the gain from its own start with t interval and sign-flip
    p (a description: no claim is made of it), take-off, and each behavior's start, end, amplification and lead over accuracy.

    `lead_in_evaluations` and `lead_correlation` are medians over the seeds that have a lead (`leads` has each); None where there is none
    or the correlations differ in sign. `long_enough_for_lead` counts the runs with LEAST_FOR_LEAD evaluations of their own.
    """
    steps_up = [step for step in map(take_off, curves) if step is not None]
    gain = _tested([_gain(curve, last) for curve in curves])
    return {
        "seeds": [curve.seed for curve in curves],
        "start": float(np.mean([curve.values["accuracy"][0] for curve in curves])),
        "end": float(np.mean([curve.last_mean("accuracy", last) for curve in curves])),
        "gain": {name: gain[name] for name in ("mean", "low", "high", "p", "per_seed")},
        "took_off": len(steps_up),
        "take_off_step": float(np.median(steps_up)) if steps_up else None,
        "long_enough_for_lead": sum(len(curve.steps) - curve.num_held >= LEAST_FOR_LEAD for curve in curves),
        "behaviors": {name: _behavior(curves, name, last) for name in BEHAVIORS},
    }


def _behavior(curves: Sequence[Curve], name: str, last: int) -> dict[str, Any]:
    start = float(np.mean([curve.values[name][0] for curve in curves]))
    end = float(np.mean([curve.last_mean(name, last) for curve in curves]))
    leads = [(curve.seed, found) for curve in curves if (found := lead(curve, name)) is not None]
    one_sign = len({found.correlation > 0 for _, found in leads}) == 1
    return {
        "start": start,
        "end": end,
        "amplification": end / start if start > 0 else None,
        "lead_in_evaluations": float(np.median([found.evaluations for _, found in leads])) if one_sign else None,
        "lead_correlation": float(np.median([found.correlation for _, found in leads])) if one_sign else None,
        "leads": [{"seed": seed, "evaluations": found.evaluations, "correlation": found.correlation} for seed, found in leads],
    }
