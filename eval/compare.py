"""`evals compare`: do conditions differ? One primary endpoint, fixed in advance; the seed is the unit; too few seeds make no claim.

The endpoint of a run is the mean accuracy of its last evaluations on a fixed task set, never its best. The first `--contrast` is the
primary one and is tested at .05 as it is; the others are corrected together by Holm. `--equivalent A:B` asks whether two conditions differ
by less than `--margin` (two one-sided tests), which a large p of a difference does not show; several are corrected by Holm, too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_json, write_part
from curate.records.settings import did_you_mean, option, to_dict
from eval import statistics
from eval.contrasts import ALPHA, describe, differences, equivalences
from eval.curves import HOW, LEAST_FOR_LEAD
from eval.experiment import Experiment, read_experiment
from rl.report import EVALUATIONS

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
    equivalent = [pair_of(text, experiment) for text in settings.equivalent]
    fewest = min(len(curve.steps) for seeds in experiment.values() for curve in seeds.values())
    if fewest < settings.last_evaluations + 1:
        raise UserError(f"runs have {fewest} evaluations; --last-evaluations {settings.last_evaluations} and a start need more")
    rows = differences(experiment, contrasts, settings.last_evaluations)
    rows += equivalences(experiment, equivalent, settings.margin, settings.last_evaluations)
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
    found = {"how": settings.how, "last_evaluations": settings.last_evaluations, "num_tasks": curves[0].num_tasks}
    write_json(out / SUMMARY, {"contrasts": rows, "conditions": conditions} | found)
    manifest.write(out)
    show(rows, conditions, settings)


def show(rows: Sequence[dict[str, Any]], conditions: dict[str, Any], settings: CompareSettings) -> None:
    """The comparison in plain text."""
    print(f"accuracy ({settings.how}), mean of the last {settings.last_evaluations} evaluations; start is before the first step")
    for name, found in conditions.items():
        kept = [
            f"{behavior} {b['start']:.2f} -> {b['end']:.2f}" + (f" (x {b['amplification']:.2f})" if b["amplification"] else "")
            for behavior, b in found["behaviors"].items()
            if b["start"] or b["end"]
        ]
        step = "never" if found["take_off_step"] is None else f"step {found['take_off_step']:g} in {found['took_off']}"
        ends = f"{found['start']:.3f} -> {found['end']:.3f} over {len(found['seeds'])} seeds, {gain_words(found['gain'])}"
        print(f"  {name}: {ends}; take-off {step}; {', '.join(kept) or 'no behaviors'}")
    print("gains are from a condition's own start; their p describes, no claim is made of it")
    for words, names in _alike({name: lead_words(found) for name, found in conditions.items()}).items():
        print(f"behaviors before or after accuracy, {', '.join(names) if len(names) < len(conditions) else 'every condition'}: {words}")
    for row in rows:
        if row["measure"] == "end":
            print(f"  {sentence(row)}")
        elif row["measure"] == "gain" and row["low"] is not None:
            print(f"    {gain_sentence(row)}")
    if any(row["claim"] is False for row in rows):
        print("`evals power` says how many seeds for which effect")


def _alike(words: dict[str, str]) -> dict[str, list[str]]:
    """The conditions of which the same is said, together."""
    return {said: [name for name, other in words.items() if other == said] for said in words.values()}


def gain_words(gain: dict[str, Any]) -> str:
    """A condition's gain from its own start, in words."""
    words = f"gain {gain['mean']:+.3f}"
    return words if gain["low"] is None else f"{words} [{gain['low']:+.3f}, {gain['high']:+.3f}], sign-flip p = {gain['p']:.3g}"


def lead_words(found: dict[str, Any]) -> str:
    """Which behaviors change before or after accuracy, of one condition of the summary, in words."""
    if not found["long_enough_for_lead"]:
        return f"too few evaluations ({LEAST_FOR_LEAD} needed)"
    said = []
    for name, behavior in found["behaviors"].items():
        lag, number = behavior["lead_in_evaluations"], len(behavior["leads"])
        if number and lag is None:
            said.append(f"{name} with either sign in {number}")
        elif number:
            place = f"{abs(lag):g} evaluations {'before' if lag > 0 else 'after'}" if lag else "at once"
            said.append(f"{name} {place}, r = {behavior['lead_correlation']:+.2f}, in {number}")
    return f"{'; '.join(said) or 'none of them'} (of {found['long_enough_for_lead']} seeds; |r| at least 2 / sqrt(overlap))"


def sentence(row: dict[str, Any]) -> str:
    """One result in words; what cannot be claimed is said to be so, with what it would need."""
    number = len(row["seeds"])
    head = f"{row['a']} - {row['b']}"
    if number < 2:
        return f"{head}: {number} paired seed{'' if number == 1 else 's'}; a difference needs two, a claim {statistics.MIN_SEEDS} or more"
    head += f": {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] over {number} paired seeds"
    equivalence = row["kind"] == "equivalence"
    if equivalence:
        head += f", p = {row['p_equivalence']:.3g} for a difference of {row['margin']:g} or more"
    else:
        head += f", sign-flip p = {row['p']:.3g}"
    head += "" if row["p_holm"] is None else f", by Holm {row['p_holm']:.3g}"
    if row["claim"]:
        return f"{head}; {'equivalent' if equivalence else 'a difference'}{' (primary)' if row['primary'] else ''}"
    needed = row["pairs_needed"]
    more = f"run {needed - number} more seed{'s' if needed - number != 1 else ''}"
    if equivalence and number < needed:
        return f"{head}; NO CLAIM: a claim needs {needed} pairs, {more}"
    if not equivalence and row["p_least"] >= ALPHA:
        return f"{head}; NO CLAIM: cannot be shown with {number} pairs, whose least p is {row['p_least']:.3g}; needs {needed}, {more}"
    return f"{head}; not shown"


def gain_sentence(row: dict[str, Any]) -> str:
    """The difference of two conditions' gains, of a row with an interval."""
    return f"gain from step 0: {row['mean']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], not tested"


def pair_of(text: str, experiment: Experiment) -> tuple[str, str]:
    """The two conditions of `A:B`. Raises UserError when there are not two that exist."""
    one, colon, other = text.partition(":")
    if not colon or one == other:
        raise UserError(f"{text!r} is not A:B with two conditions; there are {', '.join(experiment)}")
    for name in (one, other):
        if name not in experiment:
            raise UserError(f"no condition {name!r}{did_you_mean(name, experiment)}; there are {', '.join(experiment)}")
    return one, other
