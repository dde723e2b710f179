"""`evals power`: how many paired seeds an effect needs, from the run-to-run spread seen so far.

The power is that of the test that `evals compare` makes, the exact sign-flip test, by simulation of normal differences; beyond 16 pairs
that of the t test, which by then is as good. For a contrast that is corrected by Holm beside m - 1 others, `--alpha` .05 / m is safe.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.settings import option, same
from eval import statistics
from eval.compare import CompareSettings, pair_of
from eval.contrasts import differences
from eval.curves import HOW
from eval.experiment import read_experiment


@dataclass(frozen=True)
class PowerSettings:
    """Settings of `evals power`."""

    experiment: Path | None = option(None, "Folder with CONDITION/seed-N/ runs; gives the spread of paired differences", hashed=False)
    contrast: str | None = option(None, "A:B, whose spread is taken")
    spread: float | None = option(None, "Standard deviation of paired differences, instead of an experiment", at_least=0)
    effect: tuple[str, ...] = option(("0.02", "0.05", "0.1"), "Differences of accuracy to plan for; repeat the option")
    power: float = option(0.8, "Chance of finding the effect when it is there")
    alpha: float = option(0.05, "Level of the two-sided test")
    how: str = option("sampled", "Evaluations at T=1, or greedy", choices=HOW)
    last_evaluations: int = option(3, "The endpoint is the mean of this many last evaluations", at_least=1)
    leave_out_unfinished: bool = same(CompareSettings, "leave_out_unfinished")


def run(settings: PowerSettings) -> None:
    """Say how many paired seeds each effect needs, and which effect the seeds so far could have found."""
    if not 0 < settings.power < 1 or not 0 < settings.alpha < 1:
        raise UserError("--power and --alpha lie between 0 and 1")
    if settings.power <= settings.alpha:
        raise UserError(
            f"--power {settings.power:g} is not above --alpha {settings.alpha:g}, the chance of finding an effect that is not there"
        )
    number = 0
    if settings.spread is not None:
        spread = settings.spread
    else:
        folder = require(settings.experiment, "experiment", "or give --spread")
        experiment = read_experiment(folder, settings.how, leave_out_unfinished=settings.leave_out_unfinished)
        pair = pair_of(require(settings.contrast, "contrast", "for example --contrast all:linear"), experiment)
        values = differences(experiment, [pair], settings.last_evaluations)[0]["per_seed"]
        number = len(values)
        if number < 2:
            raise UserError(f"{settings.contrast} has {number} paired seeds; a spread needs two (or give --spread)")
        spread = float(np.std(values, ddof=1))
        print(f"{settings.contrast}: {number} paired seeds, differences {', '.join(f'{value:+.3f}' for value in values)}")
    print(f"standard deviation of a paired difference: {spread:.4f}")
    for text in settings.effect:
        try:
            effect = float(text)
        except ValueError:
            raise UserError(f"--effect {text!r} is not a number") from None
        if effect <= 0:
            raise UserError(f"--effect {text} is not above 0")
        needed = statistics.seeds_needed(effect, spread, settings.power, settings.alpha)
        print(f"  an effect of {effect:g}: {needed} paired seeds for power {settings.power:g} at {settings.alpha:g}")
    least = statistics.pairs_needed(settings.alpha)
    if number >= least:
        found = statistics.effect_found(number, spread, settings.power, settings.alpha)
        print(f"  the {number} seeds so far would find {found:.3f} with power {settings.power:g}")
    elif number:
        print(f"  the {number} seeds so far can support no claim; {least} are the least at {settings.alpha:g}")
    print(f"power of the exact sign-flip test, simulated; beyond {statistics.MAX_EXACT_SEEDS} pairs of the t test")
