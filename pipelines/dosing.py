"""Cuts the arms with behavior of a match down to their dose of it."""

import numpy as np
import polars as pl

from curate.arms import ArmDesign
from curate.dose import choose_carriers, dosed_arms, num_carriers
from curate.matching import MatchSettings
from curate.matching_strata import order_keys


def dosed(sets: list[pl.DataFrame], design: ArmDesign, settings: MatchSettings) -> tuple[list[pl.DataFrame], dict[str, int]]:
    """The arms after `--dose`, and how many examples of each carry behavior. Row i stays a version of the same document.

    Which examples carry it is drawn by content and seed, then exchanged until the tokens are as even as those of the other arms.
    """
    pairs = dosed_arms(design)
    if settings.dose == 1:
        return sets, {design.arms[arm]: sets[arm].height for arm, _ in pairs}
    examples, budget, tolerance = sets[0].height, settings.budget_tokens, settings.tolerance
    count = num_carriers(settings.dose, examples)
    content = sets[0].select(pl.coalesce("text_sha256", "pair_id")).to_series()
    order = np.argsort(order_keys(content, settings.seed + 1), kind="stable").tolist()
    tokens = [arm["num_loss_tokens"].to_numpy() for arm in sets]
    others = [int(tokens[number].sum()) for number in range(len(sets)) if number not in [arm for arm, _ in pairs]]
    least = int(np.ceil(max(others) * (1 - tolerance)))
    most = min(int(min(others) / (1 - tolerance)), budget) if tolerance < 1 else budget
    made = list(sets)
    for arm, sibling in pairs:
        base = int(tokens[sibling].sum())
        carries = choose_carriers(tokens[arm] - tokens[sibling], order, count, least - base, max(most, least) - base)
        rows = np.where(carries, np.arange(examples), np.arange(examples, 2 * examples))
        made[arm] = pl.concat([sets[arm], sets[sibling]])[rows]
    names = " and ".join(design.arms[arm] for arm, _ in pairs)
    print(f"dose {settings.dose:g}: {count} of {examples} examples of {names} carry behavior")
    return made, {design.arms[arm]: count for arm, _ in pairs}
