"""Coarsened exact matching: documents of two kinds, paired where they are alike in everything that was fixed before rewriting.

Iacus, King, Porro (2012): covariates are coarsened into bins and documents are compared inside equal bins only. Inside them the
nearest counterpart is taken, no farther than a caliper in any covariate (Rosenbaum and Rubin 1985: 0.2 standard deviations).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from curate.records.errors import UserError
from curate.records.settings import did_you_mean, option

if TYPE_CHECKING:
    import polars as pl

MATCHABLE = ("source", "length", "topic", "notation", "difficulty")
CONTINUOUS = ("length", "notation", "difficulty")
NUM_BINS = 4  # of notation density and difficulty: quarters of both kinds together
SIZE_WEIGHT = 50.0  # 0.05 standard deviations for a thousandth of the tokens
EVEN_ENOUGH = 0.005
EVENING_PASSES = 3
RARE_HOST = 20  # documents of a host below which hosts are thrown together
# The columns that matching reads.
COLUMNS = ("source", "source_file", "url", "num_chars", "topic", "notation_density", "difficulty")


@dataclass(frozen=True)
class MatchingSettings:
    """On what, and how closely, documents of different kinds are matched."""

    match_on: tuple[str, ...] = option(
        MATCHABLE, f"Matched exactly or in bins, any of {', '.join(MATCHABLE)}: name fewer to match more documents less closely."
    )
    caliper: float = option(
        0.2, "Largest difference of matched documents in length (log), notation density, difficulty, in standard deviations.", at_least=0
    )


def check_match_on(names: Sequence[str]) -> list[str]:
    """The covariates to match on. Raises UserError for an unknown one."""
    unknown = [name for name in names if name not in MATCHABLE]
    if unknown:
        raise UserError(f"--match-on {unknown[0]!r} is unknown{did_you_mean(unknown[0], MATCHABLE)}; known: {', '.join(MATCHABLE)}")
    return list(dict.fromkeys(names))


def origin() -> "pl.Expr":
    """The source of a document: as the corpus names it, or the host of its address where the corpus has only files.

    Hosts with fewer than RARE_HOST documents in the frame count as one.
    """
    import polars as pl

    unnamed = pl.col("source") == pl.col("source_file")
    host = pl.coalesce(pl.col("url").str.extract(r"^[a-z]+://(?:www\.)?([^/:?#]+)", 1), "source")
    rare = pl.when(pl.len().over(host) < RARE_HOST).then(pl.lit("rare hosts")).otherwise(host)
    return pl.when(unnamed).then(rare).otherwise(pl.col("source")).alias("origin")


def order_keys(content: "pl.Series", seed: int) -> np.ndarray:
    """A seeded order of rows by their content, shape (N,) uint64: the last 15 hexadecimal digits of their hash, mixed with the seed.

    Neither the order of files nor of rows enters. The mixing function is splitmix64 (Steele, Lea, Flood 2014).
    """
    digits = content.str.slice(-15).str.to_integer(base=16).to_numpy().astype(np.uint64)
    with np.errstate(over="ignore"):
        return _splitmix(digits ^ _splitmix(np.array([seed], dtype=np.uint64)))


def _splitmix(values: np.ndarray) -> np.ndarray:
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class Coarsened:
    """Documents of two kinds as matching sees them: `strata` (N,) and `places` (N, k), standardised, of each kind."""

    strata: tuple[np.ndarray, np.ndarray]
    places: tuple[np.ndarray, np.ndarray]
    constant: list[str]


def coarsen(first: "pl.DataFrame", second: "pl.DataFrame", match_on: Sequence[str]) -> Coarsened:
    """Bin the covariates of two kinds of documents together. Both frames have COLUMNS.

    Length falls into factors of two of characters, notation density and difficulty into quarters of all documents; a topic or a
    difficulty that is not known is a bin of its own. `constant` lists covariates with a single bin.
    """
    import polars as pl

    both = pl.concat([first.select(COLUMNS), second.select(COLUMNS)])
    codes = np.zeros(both.height, dtype=np.int64)
    constant = []
    places = []
    for name in match_on:
        bins = _bins(both, name)
        if bins.max(initial=0) == bins.min(initial=0):
            constant.append(name)
        codes = codes * (int(bins.max(initial=0)) + 1) + bins
        codes = np.unique(codes, return_inverse=True)[1]  # stays small whatever is combined
    for name in CONTINUOUS:
        if name in match_on:
            values = continuous(both, name)
            spread = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
            middle = float(np.nanmean(values)) if np.isfinite(values).any() else 0.0
            places.append(np.nan_to_num((values - middle) / (spread or 1.0)))
    stacked = np.stack(places, axis=1) if places else np.zeros((both.height, 0))
    cut = first.height
    return Coarsened((codes[:cut], codes[cut:]), (stacked[:cut], stacked[cut:]), constant)


def continuous(frame: "pl.DataFrame", name: str) -> np.ndarray:
    """A continuous covariate, shape (N,), nan where it is not known: log2 of characters, notation density, difficulty."""
    import polars as pl

    column = {"length": pl.col("num_chars").log(2), "notation": pl.col("notation_density"), "difficulty": pl.col("difficulty")}[name]
    return frame.select(column.cast(pl.Float64).fill_null(float("nan"))).to_series().to_numpy()


def _bins(frame: "pl.DataFrame", name: str) -> np.ndarray:

    if name == "source":
        return _codes(frame.select(origin().fill_null("unknown")).to_series())
    if name == "topic":
        return _codes(frame["topic"].fill_null("unknown"))
    values = continuous(frame, name)
    known = np.isfinite(values)
    if name == "length":
        return np.where(known, np.floor(np.where(known, values, 0)) + 1, 0).astype(np.int64)
    cuts = np.unique(np.quantile(values[known], np.arange(1, NUM_BINS) / NUM_BINS)) if known.any() else np.zeros(0)
    return np.where(known, np.searchsorted(cuts, values, side="right") + 1, 0).astype(np.int64)


def _codes(names: "pl.Series") -> np.ndarray:
    return names.rank("dense").to_numpy().astype(np.int64) - 1


@dataclass
class Matched:
    """Pairs of row numbers, and for each kind why the others have no partner."""

    pairs: list[tuple[int, int]] = field(default_factory=list)
    unmatched: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))


def match_across(
    made: Coarsened,
    keys: tuple[np.ndarray, np.ndarray],
    caliper: float,
    limit: int | None = None,
    sizes: tuple[np.ndarray, np.ndarray] | None = None,
) -> Matched:
    """Pair documents of two kinds one to one inside their strata, each with the nearest one that is free and within the caliper.

    In each stratum the smaller side chooses, in the order of `keys` over all strata; with `limit` it ends after that many pairs.
    `sizes` (tokens) make the nearest one also near in size. At the end partners are exchanged for rows that are left, as long as that
    brings the means of the covariates and the sums of the sizes closer: what is even here need not be evened by leaving pairs out.
    Every row is paired or counted with a reason.
    """
    matched = Matched()
    places = made.places if sizes is None else _with_sizes(made.places, sizes)
    num_inside = made.places[0].shape[1]
    rows = [np.argsort(side, kind="stable") for side in keys]
    grouped = [_groups(side[order], order) for side, order in zip(made.strata, rows, strict=True)]
    free: dict[int, np.ndarray] = {}
    choosers: list[tuple[int, int, int, int]] = []  # (key, stratum, side, row)
    for stratum in grouped[0].keys() | grouped[1].keys():
        sides = [groups.get(stratum, np.zeros(0, dtype=np.int64)) for groups in grouped]
        for side in (0, 1):
            if len(sides[side]) and not len(sides[1 - side]):
                matched.unmatched[side]["nothing alike in the other arm"] += len(sides[side])
        if len(sides[0]) and len(sides[1]):
            choosing = 0 if len(sides[0]) <= len(sides[1]) else 1
            free[stratum] = sides[1 - choosing]
            choosers += [(int(keys[choosing][row]), stratum, choosing, int(row)) for row in sides[choosing]]
    choosers.sort()
    stratum_of: list[tuple[int, int]] = []  # of each pair: its stratum, and which side chose
    for number, (_, stratum, side, row) in enumerate(choosers):
        if limit is not None and len(matched.pairs) >= limit:
            for _, _, later, _ in choosers[number:]:
                matched.unmatched[later]["over the limit"] += 1
            break
        others = free[stratum]
        apart = np.abs(places[1 - side][others] - places[side][row])  # (M, k)
        close = (apart[:, :num_inside] <= caliper).all(axis=1)
        if not close.any():
            matched.unmatched[side]["outside the caliper"] += 1
            continue
        distance = np.where(close, (apart**2).sum(axis=1), np.inf)
        chosen = int(distance.argmin())
        matched.pairs.append((row, int(others[chosen])) if side == 0 else (int(others[chosen]), row))
        free[stratum] = np.delete(others, chosen)
        stratum_of.append((stratum, side))
    _even_partners(matched.pairs, stratum_of, free, made.places, sizes, caliper)
    for stratum, others in free.items():
        side = 1 if len(grouped[0][stratum]) <= len(grouped[1][stratum]) else 0
        if len(others):
            matched.unmatched[side]["not needed: the other arm has fewer alike"] += len(others)
    return matched


def _even_partners(
    pairs: list[tuple[int, int]],
    stratum_of: Sequence[tuple[int, int]],
    free: dict[int, np.ndarray],
    places: tuple[np.ndarray, np.ndarray],
    sizes: tuple[np.ndarray, np.ndarray] | None,
    caliper: float,
) -> None:
    """Exchange the partners of pairs for free rows of the same stratum, within the caliper, while that brings the two sides closer.

    Close means a small length of the vector of differences of the means of all `places`, in standard deviations, and of the sums of
    `sizes`, where SIZE_WEIGHT makes a thousandth of the sum as bad as 0.05 standard deviations. Changes `pairs` and `free`.
    """
    if not pairs:
        return
    coordinates = [place / len(pairs) for place in places]  # (N, k)
    if sizes is not None:
        total = max(int(sizes[0][[a for a, _ in pairs]].sum()), 1)
        coordinates = [np.column_stack([part, SIZE_WEIGHT * size / total]) for part, size in zip(coordinates, sizes, strict=True)]
    gap = coordinates[0][[a for a, _ in pairs]].sum(axis=0) - coordinates[1][[b for _, b in pairs]].sum(axis=0)
    for _ in range(EVENING_PASSES):
        for number, (stratum, side) in enumerate(stratum_of):
            others = free[stratum]
            if not len(others) or np.abs(gap).max(initial=0) < EVEN_ENOUGH:
                continue
            chooser, partner = pairs[number] if side == 0 else pairs[number][::-1]
            close = (np.abs(places[1 - side][others] - places[side][chooser]) <= caliper).all(axis=1)
            change = coordinates[1 - side][others] - coordinates[1 - side][partner]  # (M, k)
            after = gap - change if side == 0 else gap + change
            lengths = np.where(close, (after**2).sum(axis=1), np.inf)
            best = int(lengths.argmin())
            if lengths[best] < (gap**2).sum():
                gap = after[best]
                replacement = int(others[best])
                pairs[number] = (chooser, replacement) if side == 0 else (replacement, chooser)
                others[best] = partner


def _with_sizes(places: tuple[np.ndarray, np.ndarray], sizes: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    spread = float(np.concatenate(sizes).std()) or 1.0
    first, second = (np.column_stack([place, size / spread]) for place, size in zip(places, sizes, strict=True))
    return first, second


def _groups(strata: np.ndarray, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Rows by stratum, in the order given."""
    by_stratum = np.argsort(strata, kind="stable")
    names, starts = np.unique(strata[by_stratum], return_index=True)
    ends = [*starts[1:].tolist(), len(rows)]
    return {int(name): rows[by_stratum[start:end]] for name, start, end in zip(names, starts, ends)}
