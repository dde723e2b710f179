"""Versions of one document, or of two that are matched, side by side: what enters the arms together or not at all."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from curate.arms import ArmDesign
from curate.matching import MatchSettings
from curate.matching_strata import CONTINUOUS, coarsen, continuous, match_across
from curate.parsing import within
from curate.selection import keep
from pipelines.cleaning import Log

FILLED = 0.995  # of the budget: below it a shortfall is said


def versions(frame: pl.DataFrame, cells: Sequence[str], settings: MatchSettings, log: Log) -> list[pl.DataFrame]:
    """The versions of each document of a family, one frame a cell, row i of all being the same document.

    A document stays when all its versions exist and the words of their thoughts agree within the tolerance.
    """
    frame = frame.filter(pl.col("cell").is_in(cells))
    whole = (pl.len().over("pair_id") == len(cells)) & (pl.col("cell").n_unique().over("pair_id") == len(cells))
    frame = keep(frame, whole, "sibling missing", log.dropped).sort("_key", "pair_id")
    made = [frame.filter(pl.col("cell") == cell) for cell in cells]
    agree = np.ones(made[0].height, dtype=bool)
    for other in made[1:]:
        words = zip(made[0]["thoughts_words"], other["thoughts_words"], strict=True)
        agree &= np.array([within(second, first, settings.length_tolerance) for first, second in words], dtype=bool)
    log.drop("length outside", len(cells) * int((~agree).sum()))
    return [version.filter(pl.Series(agree)) for version in made]


def make_blocks(
    families: list[list[pl.DataFrame]], design: ArmDesign, settings: MatchSettings, match_on: Sequence[str], log: Log
) -> list[pl.DataFrame]:
    """One frame an arm, row i of all being a block: the versions of one document, or those of two that are matched."""
    if len(families) == 1:
        rows = [list(range(families[0][0].height))]
    else:
        first, second = families[0][0], families[1][0]
        made = coarsen(first, second, match_on)
        if made.constant:
            print(f"note: the same in all documents, so nothing to match on: {', '.join(made.constant)}")
        tokens = [np.sum([version["num_loss_tokens"].to_numpy() for version in family], axis=0) for family in families]
        matched = match_across(made, (first["_key"].to_numpy(), second["_key"].to_numpy()), settings.caliper, sizes=(tokens[0], tokens[1]))
        rows = [[pair[side] for pair in matched.pairs] for side in (0, 1)]
        for cells, unmatched in zip(design.families, matched.unmatched, strict=True):
            for reason, count in sorted(unmatched.items()):
                log.drop(f"{reason} ({' and '.join(cells)})", count * len(cells))
        unmatched_of = {" and ".join(cells): dict(counts) for cells, counts in zip(design.families, matched.unmatched, strict=True)}
        log.notes["matching"] = {
            "match_on": list(match_on),
            "caliper": settings.caliper,
            "pairs": len(matched.pairs),
            "unmatched": unmatched_of,
        }
        left = "; ".join(
            f"{name}: {', '.join(f'{n} {why}' for why, n in sorted(why.items())) or 'none'}" for name, why in unmatched_of.items()
        )
        print(f"matched {len(matched.pairs)} pairs of documents on {', '.join(match_on)} (caliper {settings.caliper:g}); unmatched: {left}")
    names = families[0][0][rows[0]]["pair_id"].alias("block_id")
    return [version[picked].with_columns(names) for family, picked in zip(families, rows, strict=True) for version in family]


def differences_of(families: list[list[pl.DataFrame]], blocks: list[pl.DataFrame], match_on: Sequence[str]) -> np.ndarray | None:
    """By how many standard deviations the two documents of each block differ, shape (k, N); None where a block has one document."""
    if len(families) == 1 or not blocks[0].height:
        return None
    first, second = blocks[0], blocks[len(families[0])]
    rows = []
    for name in (name for name in CONTINUOUS if name in match_on):
        values = continuous(first, name), continuous(second, name)
        spread = np.sqrt((np.nanvar(values[0]) + np.nanvar(values[1])) / 2) if np.isfinite(np.concatenate(values)).any() else 0.0
        rows.append(np.nan_to_num((values[0] - values[1]) / (spread or 1.0)))
    return np.stack(rows) if rows else None


def ways_out(families: list[list[pl.DataFrame]], design: ArmDesign, settings: MatchSettings) -> str:
    """What would bring more examples, in the order in which it is worth trying."""
    sizes = ", ".join(f"{family[0].height} {cells[0]}" for family, cells in zip(families, design.families, strict=True))
    ways = [f"label or rewrite more documents (usable now: {sizes})"]
    if len(families) > 1:
        ways += [f"name fewer covariates than --match-on {' '.join(settings.match_on)}", f"widen --caliper {settings.caliper:g}"]
    if any(len(family) > 1 for family in families):
        ways.append(f"widen --length-tolerance {settings.length_tolerance:g}")
    return "to get more: " + "; ".join(ways)


def shortfall(
    tokens: tuple[int, ...], blocks: int, families: list[list[pl.DataFrame]], design: ArmDesign, settings: MatchSettings
) -> list[str]:
    """What the user must know when the arms are smaller, or less even, than asked for."""
    warnings = []
    smaller = min(tokens)
    if smaller < FILLED * settings.budget_tokens:
        share = smaller / settings.budget_tokens
        need = blocks / max(share, 1e-9)
        warnings.append(
            f"the arms hold {' and '.join(f'{total:,}' for total in tokens)} tokens in {blocks} examples each, {share:.1%} of the budget "
            f"of {settings.budget_tokens:,}: {settings.budget_tokens - smaller:,} are missing; about {need:,.0f} usable "
            f"pairs would fill it; {ways_out(families, design, settings)}"
        )
    gap = (max(tokens) - smaller) / max(tokens)
    if gap > settings.tolerance:
        warnings.append(
            f"the arms' tokens differ by {gap:.2%}, more than --tolerance {settings.tolerance:.2%}: too few pairs to even them out"
        )
    return warnings
