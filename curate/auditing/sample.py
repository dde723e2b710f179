"""The sample of an audit: disjoint strata of score bands, drawn with known probabilities, in an order that may be broken off anywhere."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from curate.records.errors import UserError

if TYPE_CHECKING:
    import polars as pl

LOWEST = "all-low"


def parse_bands(text: str) -> list[float]:
    """`0.2,0.5,0.8` -> [0.2, 0.5, 0.8]. Raises UserError unless they rise between 0 and 1."""
    try:
        bands = [float(item) for item in text.split(",")]
    except ValueError:
        bands = []
    if not bands or bands != sorted(set(bands)) or not 0 < bands[0] <= bands[-1] < 1:
        raise UserError(f"--bands {text!r} is not a rising list of numbers between 0 and 1, such as 0.2,0.5,0.8")
    return bands


def assign_strata(scores: Mapping[str, np.ndarray], bands: Sequence[float]) -> np.ndarray:
    """The stratum of each document, shape (N,), from its scores by behavior, each (N,).

    A document belongs to the highest band that any of its behaviors reaches, and there to the behavior with the fewest documents
    in that band: what is rare is not lost among what is common. All below the first band: one stratum. Strata are disjoint, so a
    document's inclusion probability is simply its stratum's share of drawn documents.
    """
    names = list(scores)
    level = np.stack([np.searchsorted(bands, scores[name], side="right") for name in names], axis=1)  # (N, number of behaviors)
    highest = level.max(axis=1)
    strata = np.full(len(highest), LOWEST, dtype=object)
    edges = [0.0, *bands, 1.0]
    for band in range(1, len(bands) + 1):
        rare_last = sorted(range(len(names)), key=lambda number: -int((level[:, number] == band).sum()))
        for number in rare_last:  # the rarest writes last, and stays
            here = (highest == band) & (level[:, number] == band)
            strata[here] = f"{names[number]} {edges[band]:g}-{edges[band + 1]:g}"
    return strata.astype(str)


def allocate(sizes: Mapping[str, int], items: int) -> dict[str, int]:
    """How many of `items` to draw from each stratum: in proportion to the square root of its size (power allocation, Bankier 1988),
    at least two of each, never more than it has. A compromise: enough of what scores high to judge the labels by, enough of the many
    that score low to find what was missed there."""
    total = min(items, sum(sizes.values()))
    drawn = {name: min(2, size) for name, size in sizes.items()}
    if sum(drawn.values()) > total:
        raise UserError(f"{len(sizes)} strata need at least {sum(drawn.values())} items: raise --items, or give fewer --bands")
    while (left := total - sum(drawn.values())) > 0:
        open_strata = [name for name in sizes if drawn[name] < sizes[name]]
        wanted = {name: math.sqrt(sizes[name]) for name in open_strata}
        behind = {name: total * wanted[name] / sum(wanted.values()) - drawn[name] for name in open_strata}
        most = max(open_strata, key=lambda name: (behind[name], name))
        step = max(1, min(left, sizes[most] - drawn[most], int(behind[most] / 2)))
        drawn[most] += step
    return drawn


def draw(labels: "pl.DataFrame", behaviors: Sequence[str], bands: Sequence[float], items: int, seed: int) -> "pl.DataFrame":
    """Rows of `labels` to read, in a random order, with `item`, `stratum`, `stratum_documents`, `stratum_items` and
    `inclusion_probability`. Because the order is random, the items answered before an interruption are a sample of the same design."""
    import polars as pl

    rng = np.random.default_rng(seed)
    labels = labels.sort("file_sha256", "source_row")
    strata = assign_strata({name: labels[f"{name}_score"].cast(pl.Float64).to_numpy() for name in behaviors}, bands)
    names, counts = np.unique(strata, return_counts=True)
    sizes = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    numbers = allocate(sizes, items)
    chosen = np.concatenate([rng.choice(np.flatnonzero(strata == name), numbers[name], replace=False) for name in sizes])
    chosen = rng.permutation(chosen)
    stratum = strata[chosen].tolist()
    frame = labels[chosen.tolist()]
    ids = [
        hashlib.sha256(f"{row['file_sha256']}:{row['source_row']}:{row['start']}:{row['end']}".encode()).hexdigest()[:12]
        for row in frame.select("file_sha256", "source_row", "start", "end").iter_rows(named=True)
    ]
    return frame.with_columns(
        pl.Series("item", ids),
        pl.Series("stratum", stratum),
        pl.Series("stratum_documents", [sizes[name] for name in stratum]),
        pl.Series("stratum_items", [numbers[name] for name in stratum]),
        pl.Series("inclusion_probability", [numbers[name] / sizes[name] for name in stratum]),
    )


def answered_weights(strata: Sequence[str], documents: Mapping[str, int]) -> np.ndarray:
    """How many documents each answered item stands for, shape (n,): its stratum's documents over its stratum's answers."""
    names, inverse, counts = np.unique(np.asarray(strata, dtype=str), return_inverse=True, return_counts=True)
    each = np.array([documents[str(name)] for name in names]) / counts
    return each[inverse]
