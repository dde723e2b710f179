"""What an audit says: agreement of annotators with each other and with the labels, calibration, prevalence under the design."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from curate.estimation import designed
from curate.prevalence import unshifted

RESAMPLES = 2000
LEAST_ITEMS = 10  # for an interval: resampling fewer says nothing of how far kappa may be off


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa with its 95 % bootstrap interval. Kappa is None where it is not defined (all answers alike), the interval also for
    fewer than LEAST_ITEMS items. `weighted` is kappa at the natural frequencies of the documents; the plain one is of the sample, in
    which behaviors are more common."""

    items: int
    agreement: float | None
    kappa: float | None
    low: float | None
    high: float | None
    weighted: float | None
    weighted_low: float | None
    weighted_high: float | None


def kappa(cells: np.ndarray) -> np.ndarray:
    """Cohen's kappa (1960) of tables, shape (…, 4): neither, only the second, only the first, both. NaN where chance agreement is 1."""
    shares = cells / cells.sum(axis=-1, keepdims=True)
    neither, second, first, both = np.moveaxis(shares, -1, 0)
    expected = (neither + second) * (neither + first) + (both + first) * (both + second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected < 1 - 1e-12, (neither + both - expected) / (1 - expected), np.nan)


def agree(first: np.ndarray, second: np.ndarray, weights: np.ndarray, strata: np.ndarray, rng: np.random.Generator) -> Agreement:
    """Agreement of two judges (bool, shape (n,)) on items of a stratified sample, whose weights are equal within a stratum.

    The bootstrap draws items with replacement within strata; because only the four cells matter, that is a multinomial a stratum. Strata
    with a single item are drawn from together: by themselves they would seem to have no spread.
    """
    if len(first) == 0:
        return Agreement(0, None, None, None, None, None, None, None)
    codes = 2 * first.astype(np.int64) + second.astype(np.int64)
    plain, natural = np.zeros((RESAMPLES + 1, 4)), np.zeros((RESAMPLES + 1, 4))  # row 0: the sample itself
    names, sizes = np.unique(strata, return_counts=True)
    single = np.isin(strata, names[sizes == 1])
    if single.any():
        places = np.flatnonzero(single)
        drawn = np.vstack([np.arange(len(places)), rng.integers(len(places), size=(RESAMPLES, len(places)))])
        shown = np.eye(4)[codes[places]]
        plain += shown[drawn].sum(axis=1)
        natural += (shown * weights[places, None])[drawn].sum(axis=1)
    for stratum in names[sizes > 1]:
        inside = strata == stratum
        counts = np.bincount(codes[inside], minlength=4)
        drawn = np.vstack([counts, rng.multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)])
        plain += drawn
        natural += drawn * float(weights[inside][0])
    ends = []
    for cells in (plain, natural):
        values = kappa(cells)
        sound = values[1:][~np.isnan(values[1:])]
        enough = len(first) >= LEAST_ITEMS and len(sound) and not np.isnan(values[0])
        interval = np.percentile(sound, [2.5, 97.5]).tolist() if enough else [None, None]
        ends += [None if np.isnan(values[0]) else float(values[0]), *interval]
    return Agreement(len(first), float(np.mean(first == second)), *ends)


@dataclass(frozen=True)
class Answers:
    """Answers to one behavior: `truth` by annotator (float, NaN where unsure or unanswered), all of shape (n,), beside the items'
    scores and strata. `shift`, a number or one an item, is what a student added to the log-odds of its probabilities for these scores."""

    behavior: str
    truth: dict[str, np.ndarray]
    scores: np.ndarray
    strata: np.ndarray
    documents: dict[str, int]
    shift: np.ndarray | float = 0.0

    def share(self) -> np.ndarray:
        """Share of annotators who saw the behavior; NaN where nobody decided."""
        stacked = np.stack(list(self.truth.values()))
        counts = (~np.isnan(stacked)).sum(axis=0)
        return np.where(counts > 0, np.nansum(stacked, axis=0) / np.maximum(counts, 1), np.nan)

    def weights(self, known: np.ndarray) -> np.ndarray:
        """Documents that each of the `known` items stands for."""
        from curate.auditing.sample import answered_weights

        return answered_weights(self.strata[known].tolist(), self.documents)


def between_annotators(answers: Answers, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row a pair of annotators."""
    rows = []
    for one, other in combinations(sorted(answers.truth), 2):
        known = ~np.isnan(answers.truth[one]) & ~np.isnan(answers.truth[other])
        first, second = (answers.truth[name][known] == 1 for name in (one, other))
        found = agree(first, second, answers.weights(known), answers.strata[known], rng)
        rows.append({"behavior": answers.behavior, "first": one, "second": other, **vars(found)})
    return rows


def against_labels(answers: Answers, threshold: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row an annotator, and one for all of them together (majority; ties are left out) when there are several."""
    judges = dict(answers.truth)
    if len(judges) > 1:
        share = answers.share()
        judges["everybody"] = np.where(share == 0.5, np.nan, np.where(np.isnan(share), np.nan, (share > 0.5).astype(float)))
    rows = []
    for name, truth in judges.items():
        known = ~np.isnan(truth) & ~np.isnan(answers.scores)
        found = agree(truth[known] == 1, answers.scores[known] >= threshold, answers.weights(known), answers.strata[known], rng)
        rows.append({"behavior": answers.behavior, "first": name, "second": "labels", **vars(found)})
    return rows


def calibration(answers: Answers, edges: Sequence[float]) -> list[dict[str, Any]]:
    """A row a band of scores: mean probability (`mean_score`) and share of documents that truly show the behavior, both at natural
    frequencies."""
    probabilities = unshifted(answers.scores, answers.shift)
    share = answers.share()
    rows = []
    for low, high in pairwise(edges):
        inside = ~np.isnan(share) & (answers.scores >= low) & ((answers.scores < high) | (high == edges[-1]))
        if not inside.any():
            continue
        known = ~np.isnan(share)
        weights = np.zeros(len(share))
        weights[known] = answers.weights(known)
        estimate = designed(share[inside], weights[inside], answers.strata[inside])
        mean = float(np.average(probabilities[inside], weights=weights[inside]))
        about = {"behavior": answers.behavior, "from": low, "to": high, "items": int(inside.sum()), "mean_score": mean}
        rows.append({**about, "share": estimate.value, "low": estimate.low, "high": estimate.high})
    return rows


def prevalence(answers: Answers) -> dict[str, Any]:
    """The share of documents that show the behavior by the annotators alone, corrected for the sampling; strata in which nobody has
    answered are named by their share of documents."""
    share = answers.share()
    known = ~np.isnan(share)
    total = sum(answers.documents.values())
    covered = sum(answers.documents[name] for name in set(answers.strata[known].tolist()))
    row: dict[str, Any] = {"behavior": answers.behavior, "items": int(known.sum()), "uncovered": 1 - covered / total}
    if not known.any():
        return {**row, "value": None, "low": 0.0, "high": 1.0, "raw": None}
    estimate = designed(share[known], answers.weights(known), answers.strata[known])
    return {**row, "value": estimate.value, "low": estimate.low, "high": estimate.high, "raw": float(share[known].mean())}


def disagreements(answers: Answers, items: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """Items on which annotators differ, and items on which they agree with each other but not with the label."""
    rows = []
    for number, item in enumerate(items):
        given = {name: bool(truth[number]) for name, truth in answers.truth.items() if not np.isnan(truth[number])}
        label = bool(answers.scores[number] >= threshold)
        kind = "annotators" if len(set(given.values())) > 1 else "label" if given and label not in given.values() else None
        if kind:
            score = float(answers.scores[number])
            rows.append({"item": item, "behavior": answers.behavior, "between": kind, "answers": given, "score": score})
    return rows
