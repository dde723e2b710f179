"""Can a classifier tell the arms apart when the evidence of the behaviors is masked? Near .5 it cannot, and that is the goal."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\n+")
WORD = re.compile(r"\w+")
FOLDS = 5
RESAMPLES = 500
MOST_BLOCKS = 2_000  # enough for an interval of a few hundredths
FEWEST_BLOCKS = 20
EVIDENCE_SCORE = 0.5


def mask(text: str, evidence: Iterable[Mapping[str, Any]], cues: "re.Pattern[str] | None") -> str:
    """`text` without the sentences that a span of evidence touches or that contain a cue.

    `evidence` are spans in `text` with a score; one that covers more than half of the text says that a behavior is there, not where, and
    masks nothing.
    """
    spans = [
        (span["start"], span["end"])
        for span in evidence
        if (span.get("score") is None or span["score"] >= EVIDENCE_SCORE) and 2 * (span["end"] - span["start"]) <= len(text)
    ]
    kept = []
    start = 0
    for end, following in [*((found.start(), found.end()) for found in SENTENCE.finditer(text)), (len(text), len(text))]:
        sentence = text[start:end]
        if not any(low < end and high > start for low, high in spans) and not (cues and cues.search(sentence)):
            kept.append(sentence)
        start = following
    return " ".join(kept)


def cue_pattern(cues: Iterable[str]) -> "re.Pattern[str] | None":
    """One pattern for all cues, whatever their case; None for no cues."""
    escaped = [re.escape(cue) for cue in cues]
    return re.compile("|".join(escaped), re.IGNORECASE) if escaped else None


def about_the_subject(text: str, subject: str) -> str:
    """The words of `text` that stand in `subject` (the question and the answer) too: what it is about, not how it is told."""
    known = set(WORD.findall(subject.lower()))
    return " ".join(word for word in WORD.findall(text.lower()) if word in known)


def separability(first: Sequence[str], second: Sequence[str], seed: int) -> dict[str, Any] | None:
    """AUC of a classifier that reads a text and says which arm it is from, cross-validated, with a 95 % interval.

    Text i of `first` and of `second` belong to one block, which is never divided between training and test. Logistic regression on
    TF-IDF of words and word pairs, FOLDS folds; the interval is a bootstrap over blocks of the held-out scores. None for fewer than
    FEWEST_BLOCKS blocks.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    if len(first) < FEWEST_BLOCKS:
        return None
    generator = np.random.default_rng(seed)
    blocks = np.sort(generator.permutation(len(first))[:MOST_BLOCKS])
    texts = np.array([side[block] for side in (first, second) for block in blocks], dtype=object)
    arm = np.repeat([1, 0], len(blocks))
    group = np.tile(np.arange(len(blocks)), 2)
    scores = np.zeros(len(texts))
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(texts, arm, group):
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
            LogisticRegression(max_iter=1000),
        )
        try:
            model.fit(texts[train], arm[train])
        except ValueError:  # nothing is left of the texts: nothing tells them apart
            return {"auc": 0.5, "low": 0.5, "high": 0.5, "blocks": len(blocks), "folds": FOLDS}
        scores[test] = model.decision_function(texts[test])
    resampled = [generator.integers(len(blocks), size=len(blocks)) for _ in range(RESAMPLES)]
    halves = scores[: len(blocks)], scores[len(blocks) :]
    low, high = np.quantile([area_under_curve(halves[0][draw], halves[1][draw]) for draw in resampled], [0.025, 0.975])
    return {"auc": area_under_curve(*halves), "low": float(low), "high": float(high), "blocks": len(blocks), "folds": FOLDS}


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative, ties counted half (Mann and Whitney)."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    upto = np.searchsorted(ordered, positive, side="right")
    return float((below + upto).sum() / (2 * len(positive) * len(negative)))
