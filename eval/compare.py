"""`evals compare`: do conditions differ? One primary endpoint, fixed in advance; the seed is the unit; too few seeds make no claim.

The endpoint of a run is the mean accuracy of its last evaluations on a fixed task set, never its best. The first `--contrast` is the
primary one and is tested at .05 as it is; the others are corrected together by Holm. `--equivalent A:B` asks whether two conditions differ
by less than `--margin` (two one-sided tests), which a large p of a difference does not show.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_json, write_part
from curate.records.settings import did_you_mean, option, to_dict
from eval import statistics
from eval.curves import BEHAVIORS, HOW, Curve, Experiment, lead, paired_seeds, read_experiment, take_off
from rl.report import EVALUATIONS

ALPHA = 0.05
TABLE, SUMMARY = "contrasts.parquet", "comparison.json"


@dataclass(frozen=True)
class CompareSettings:
    """Settings of `evals compare`."""

    experiment: Path | None = option(None, "Folder with CONDITION/seed-N/ runs of `rl ppo`", hashed=False)
    out: Path | None = option(None, "Folder for contrasts.parquet, comparison.json and manifest.json", hashed=False)
    contrast: tuple[str, ...] = option((), "A:B, the difference A - B; repeat the option. The first is the primary endpoint")
    equivalent: tuple[str, ...] = option((), "A:B, are they within --margin of each other? Repeat the option")
    margin: float = option(0.05, "Largest difference of accuracy that counts as none", at_least=0.0001)
    how: str = option("sampled", "Evaluations at T=1, or greedy", choices=HOW)
    last_evaluations: int = option(3, "The endpoint is the mean of this many last evaluations", at_least=1)
    leave_out_unfinished: bool = option(False, "Leave out runs that have not ended, each named; else they are an error")


def run(settings: CompareSettings) -> None:
    """Compare conditions over paired seeds: difference, interval, exact sign-flip test; equivalence; Holm; behaviors over training."""
    started = time.monotonic()
    folder, out = require(settings.experiment, "experiment"), require(settings.out, "out")
    experiment = read_experiment(folder, settings.how, leave_out_unfinished=settings.leave_out_unfinished)
    contrasts = [pair_of(text, experiment) for text in require(settings.contrast, "contrast", "for example --contrast all:linear")]
    equivalences = [pair_of(text, experiment) for text in settings.equivalent]
    fewest = min(len(curve.steps) for seeds in experiment.values() for curve in seeds.values())
    if fewest < settings.last_evaluations + 1:
        raise UserError(f"runs have {fewest} evaluations; --last-evaluations {settings.last_evaluations} and a start need more")
    rows = differences(experiment, contrasts, settings.last_evaluations)
    rows += [_equivalence(experiment, pair, settings) for pair in equivalences]
    conditions = {name: describe(list(seeds.values()), settings.last_evaluations) for name, seeds in experiment.items()}
    curves = [curve for seeds in experiment.values() for curve in seeds.values()]
    files = [curve.folder / EVALUATIONS for curve in curves]
    manifest = Manifest(
        stage="compare",
        settings=to_dict(settings),
        inputs=[InputFile(str(file), file_sha256(file), len(curve.steps), file.stat().st_size) for file, curve in zip(files, curves)],
        rows_made=len(rows),
        rows_out=len(rows),
        seconds=time.monotonic() - started,
    )
    write_part(out / TABLE, pa.Table.from_pylist(rows))
    write_json(out / SUMMARY, {"contrasts": rows, "conditions": conditions, "num_tasks": curves[0].num_tasks, "how": settings.how})
    manifest.write(out)
    show(rows, conditions, settings)


def differences(experiment: Experiment, contrasts: Sequence[tuple[str, str]], last: int) -> list[dict[str, Any]]:
    """One row a contrast × measure: `end` (tested), `gain` from step 0 and `end` of each behavior (intervals only, no test)."""
    rows: list[dict[str, Any]] = []
    for place, (one, other) in enumerate(contrasts):
        seeds = paired_seeds(experiment, one, other)
        row: dict[str, Any] = {"kind": "difference", "a": one, "b": other, "primary": place == 0, "seeds": seeds, "measure": "end"}
        pairs = [(experiment[one][seed], experiment[other][seed]) for seed in seeds]
        ends = [a.last_mean("accuracy", last) - b.last_mean("accuracy", last) for a, b in pairs]
        rows.append(row | _tested(ends))
        starts = [float(a.values["accuracy"][0] - b.values["accuracy"][0]) for a, b in pairs]
        rows.append(row | {"measure": "gain"} | _interval([end - start for end, start in zip(ends, starts)]))
        for name in BEHAVIORS:
            rows.append(row | {"measure": name} | _interval([a.last_mean(name, last) - b.last_mean(name, last) for a, b in pairs]))
    tested = [row for row in rows if row["measure"] == "end" and row["p"] is not None]
    secondary = [row for row in tested if not row["primary"]]
    for row, adjusted in zip(secondary, statistics.holm([row["p"] for row in secondary])):
        row["p_holm"] = adjusted
    for row in tested:
        enough = len(row["seeds"]) >= statistics.MIN_SEEDS
        row["claim"] = enough and (row["p"] if row["primary"] else row["p_holm"]) < ALPHA
    return rows


_EMPTY: dict[str, Any] = dict.fromkeys(("mean", "low", "high", "p", "p_holm", "p_equivalence", "claim", "per_seed"))


def _tested(values: Sequence[float]) -> dict[str, Any]:
    if len(values) < 2:
        return _EMPTY | {"per_seed": list(values), "mean": values[0] if values else None}
    found = statistics.paired(values)
    return _EMPTY | {"per_seed": list(values), "mean": found.mean, "low": found.low, "high": found.high, "p": found.p}


def _interval(values: Sequence[float]) -> dict[str, Any]:
    return _tested(values) | {"p": None}


def _equivalence(experiment: Experiment, pair: tuple[str, str], settings: CompareSettings) -> dict[str, Any]:
    one, other = pair
    seeds = paired_seeds(experiment, one, other)
    last = settings.last_evaluations
    values = [experiment[one][s].last_mean("accuracy", last) - experiment[other][s].last_mean("accuracy", last) for s in seeds]
    row: dict[str, Any] = {"kind": "equivalence", "a": one, "b": other, "primary": False, "seeds": seeds, "measure": "end"} | _interval(
        values
    )
    if len(values) >= 2:
        row["p_equivalence"] = statistics.equivalence(values, settings.margin)
        row["claim"] = len(values) >= statistics.MIN_SEEDS and row["p_equivalence"] < ALPHA
    return row


def describe(curves: Sequence[Curve], last: int) -> dict[str, Any]:
    """Means over a condition's seeds: accuracy at the start and end, take-off, and each behavior's start, end, amplification and lead."""
    steps_up = [step for step in map(take_off, curves) if step is not None]
    behaviors = {}
    for name in BEHAVIORS:
        start = float(np.mean([curve.values[name][0] for curve in curves]))
        end = float(np.mean([curve.last_mean(name, last) for curve in curves]))
        leads = [found for found in (lead(curve, name) for curve in curves) if found is not None]
        behaviors[name] = {
            "start": start,
            "end": end,
            "amplification": end / start if start > 0 else None,
            "lead_in_evaluations": float(np.median(leads)) if leads else None,
        }
    return {
        "seeds": [curve.seed for curve in curves],
        "start": float(np.mean([curve.values["accuracy"][0] for curve in curves])),
        "end": float(np.mean([curve.last_mean("accuracy", last) for curve in curves])),
        "took_off": len(steps_up),
        "take_off_step": float(np.median(steps_up)) if steps_up else None,
        "behaviors": behaviors,
    }


def show(rows: Sequence[dict[str, Any]], conditions: dict[str, Any], settings: CompareSettings) -> None:
    """The comparison in plain text."""
    print(f"accuracy ({settings.how}), mean of the last {settings.last_evaluations} evaluations; start is before the first step")
    for name, found in conditions.items():
        kept = ", ".join(f"{key} {b['start']:.2f} -> {b['end']:.2f}" for key, b in found["behaviors"].items() if b["start"] or b["end"])
        step = "never" if found["take_off_step"] is None else f"step {found['take_off_step']:g} in {found['took_off']}"
        print(f"  {name}: {found['start']:.3f} -> {found['end']:.3f} over {len(found['seeds'])} seeds; take-off {step}; {kept}")
    for row in rows:
        if row["measure"] != "end":
            continue
        print(f"  {sentence(row, settings.margin)}")


def sentence(row: dict[str, Any], margin: float) -> str:
    """One result in words; what cannot be claimed is said to be so, with what it would need."""
    number = len(row["seeds"])
    head = f"{row['a']} - {row['b']}"
    if number < 2:
        return f"{head}: {number} paired seed{'' if number == 1 else 's'}; a difference needs two, a claim {statistics.MIN_SEEDS}"
    head += f": {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] over {number} paired seeds"
    if row["kind"] == "equivalence":
        head += f", p = {row['p_equivalence']:.3g} for a difference of {margin:g} or more"
    else:
        head += f", sign-flip p = {row['p']:.3g}" + ("" if row["p_holm"] is None else f", by Holm {row['p_holm']:.3g}")
    if number < statistics.MIN_SEEDS:
        least = f": {number} pairs cannot go below p = {2.0 ** (1 - number):.3g}"
        return f"{head}; NO CLAIM{least}, run {statistics.MIN_SEEDS - number} more seeds (`evals power` says how many for which effect)"
    if not row["claim"]:
        return f"{head}; not shown"
    return f"{head}; {'equivalent' if row['kind'] == 'equivalence' else 'a difference'}{' (primary)' if row['primary'] else ''}"


def pair_of(text: str, experiment: Experiment) -> tuple[str, str]:
    """The two conditions of `A:B`. Raises UserError when there are not two that exist."""
    one, colon, other = text.partition(":")
    if not colon or one == other:
        raise UserError(f"{text!r} is not A:B with two conditions; there are {', '.join(experiment)}")
    for name in (one, other):
        if name not in experiment:
            raise UserError(f"no condition {name!r}{did_you_mean(name, experiment)}; there are {', '.join(experiment)}")
    return one, other
