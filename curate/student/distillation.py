"""Fitting a student to labelled windows; everything random comes from one seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.student.features import Sentences
from curate.student.forest import Forest
from curate.student.model import QUESTIONS, Student, logit, neighbours, sigmoid, window_features

SENTENCE_C, WINDOW_C, SECOND_C = 3.0, 10.0, 0.01
NEGATIVE_SHARE = 0.5  # of the sentences of windows without the behavior: half of them teach as much, in half the time
TREES, LEAF_WINDOWS, TREE_FEATURES = 60, 6, 0.12
GRID = np.linspace(-4.5, 2.5, 141)  # log-odds among which the cut is looked for
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Windows:
    """Labelled windows, row by row: `labels` (windows, targets) in [0, 1] or NaN where nobody was asked, `weight` how many windows of the
    corpus each stands for, `group` its document, `source` where that is from, `length` in characters. `evidence` (sentences,
    behaviors): whether a quoted span lies in the sentence. Targets are the behaviors, then problem and solution.
    """

    behaviors: tuple[str, ...]
    sentences: Sentences
    evidence: npt.NDArray[np.bool_]
    labels: Array
    weight: Array
    group: Array
    source: Array
    length: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> "Windows":
        """The windows `rows` (ascending)."""
        chosen = np.isin(self.sentences.text_of, rows)
        number = np.full(len(self), -1)
        number[rows] = np.arange(len(rows))
        all_of = self.sentences
        sentences = Sentences(
            len(rows), number[all_of.text_of[chosen]], all_of.spans[chosen], all_of.words[np.flatnonzero(chosen)], all_of.cues[chosen]
        )
        columns = (self.labels, self.weight, self.group, self.source, self.length)
        return Windows(self.behaviors, sentences, self.evidence[chosen], *(column[rows] for column in columns))


def distill(windows: Windows, folds: int, seed: int, about: dict[str, Any]) -> Student:
    """Fit a student. The second look learns from first looks that did not see the window's document (cross-fitting in `folds`)."""
    fold = folds_by_group(windows.group, folds, seed)
    targets = (*windows.behaviors, *QUESTIONS)
    features = cross_fitted_features(windows, fold, seed)
    weights = first_look(windows, seed)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    known = ~np.isnan(windows.labels)
    second, bias, platt, shift, forests = [], [], [], [], {}
    for column, name in enumerate(targets):
        rows = known[:, column]
        truth = windows.labels[rows, column]
        raw = np.zeros(int(rows.sum()))
        for number in range(folds):
            held = fold[rows] == number
            if held.any():
                linear, forest = fit_second((features[rows][~held] - mean) / scale, features[rows][~held], truth[~held], seed)
                raw[held] = mixed(linear, forest, features[rows][held], mean, scale)
        slope, offset = fit_platt(raw, truth, windows.weight[rows])
        platt.append((slope, offset))
        shift.append(-best_cut(slope * raw + offset, truth, windows.weight[rows], windows.group[rows], seed))
        linear, forest = fit_second((features[rows] - mean) / scale, features[rows], truth, seed)
        second.append(linear.coef_[0])
        bias.append(linear.intercept_[0])
        forests[name] = forest
    weights |= {"mean": mean, "scale": scale, "second": np.stack(second, axis=1), "second_bias": np.array(bias)}
    weights |= {"platt": np.array(platt).T, "shift": np.array(shift)}
    return Student(windows.behaviors, {name: np.asarray(value, np.float32) for name, value in weights.items()}, forests, about)


def cross_fitted_features(windows: Windows, fold: Array, seed: int) -> npt.NDArray[np.float32]:
    """Features of the second look, (windows, features), from first looks fitted to the other folds."""
    count = len(windows.behaviors)
    sentences = np.zeros((len(windows.sentences.text_of), count), dtype=np.float32)
    whole = np.zeros((len(windows), count + len(QUESTIONS)), dtype=np.float32)
    for number in np.unique(fold):
        weights = first_look(windows.take(np.flatnonzero(fold != number)), seed)
        some = Student(windows.behaviors, weights, {}, {})
        held = fold == number
        scored, pooled_scores = some.first_look(windows.sentences)
        sentences[held[windows.sentences.text_of]] = scored[held[windows.sentences.text_of]]
        whole[held] = pooled_scores[held]
    return window_features(windows.sentences, sentences, whole, windows.length.tolist())


def first_look(windows: Windows, seed: int) -> dict[str, Any]:
    """Weights of sentences and of the words of windows."""
    from scipy.sparse import csr_matrix, hstack

    where = windows.sentences
    both = hstack([where.words, csr_matrix(neighbours(where))]).tocsr()
    words = where.words.shape[1]
    kept = np.random.default_rng(seed).random(len(where.text_of)) < NEGATIVE_SHARE
    sentence_fits = []
    for column in range(len(windows.behaviors)):
        truth, weight = sentence_labels(windows, column, kept)
        rows = weight > 0
        sentence_fits.append(logistic(both[rows], truth[rows], SENTENCE_C, weight[rows]))
    sums = csr_matrix(
        (np.ones(len(where.text_of)), (where.text_of, np.arange(len(where.text_of)))), shape=(len(windows), len(where.text_of))
    )
    pooled_words = sums @ where.words
    pooled_words.data /= np.repeat(np.sqrt(np.maximum(np.diff(sums.indptr), 1)), np.diff(pooled_words.indptr))
    window_fits = []
    for column in range(windows.labels.shape[1]):
        rows = ~np.isnan(windows.labels[:, column])
        index, truth, weight = yes_and_no(windows.labels[rows, column])
        window_fits.append(logistic(pooled_words[rows][index], truth, WINDOW_C, weight))
    stacked = [fit.coef_[0][:words] for fit in (*sentence_fits, *window_fits)]
    return {
        "words": np.stack(stacked, axis=1).astype(np.float16).astype(np.float32),
        "sentence_cues": np.stack([fit.coef_[0][words:] for fit in sentence_fits], axis=1),
        "sentence_bias": np.array([fit.intercept_[0] for fit in sentence_fits]),
        "window_bias": np.array([fit.intercept_[0] for fit in window_fits]),
    }


def sentence_labels(windows: Windows, column: int, kept: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """(label, weight) of each sentence: 1 where the evidence lies, 0 in windows without the behavior, weight 0 where nobody knows.

    In a window that shows the behavior without saying where, all its sentences share the weight of one.
    """
    text_of = windows.sentences.text_of
    label = windows.labels[:, column]
    quoted = np.zeros(len(windows), dtype=bool)
    quoted[text_of[windows.evidence[:, column]]] = True
    shown, absent = label >= 0.5, label < 0.5
    unquoted = (shown & ~quoted)[text_of]
    counts = np.bincount(text_of, minlength=len(windows))
    positive = windows.evidence[:, column] & shown[text_of]
    weight = np.where(positive, 1.0, np.where(unquoted, 1 / np.maximum(counts, 1)[text_of], 0.0))
    weight[absent[text_of] & kept] = 1 / NEGATIVE_SHARE
    return (positive | unquoted).astype(int), weight


def logistic(features: Any, truth: Array, c: float, weight: Array | None = None) -> Any:
    """A fitted LogisticRegression. Raises ValueError when only one class is there."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=40, tol=1e-3).fit(features, truth, sample_weight=weight)


def fit_second(scaled: Array, features: Array, label: Array, seed: int) -> tuple[Any, Forest]:
    """The two halves of the second look."""
    from sklearn.ensemble import ExtraTreesClassifier

    (rows, truth, weight) = yes_and_no(label)
    linear = logistic(scaled[rows], truth, SECOND_C, weight)
    trees = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF_WINDOWS, max_features=TREE_FEATURES, random_state=seed)
    return linear, Forest.of(trees.fit(features[rows], truth, sample_weight=weight))


def yes_and_no(label: Array) -> tuple[Array, Array, Array]:
    """(row, truth, weight) for shares in [0, 1]: one between stands twice, as a yes and as a no, with its weights."""
    yes, no = np.flatnonzero(label > 0), np.flatnonzero(label < 1)
    rows = np.concatenate([yes, no])
    return rows, np.repeat([1, 0], [len(yes), len(no)]), np.concatenate([label[yes], 1 - label[no]])


def mixed(linear: Any, forest: Forest, features: Array, mean: Array, scale: Array) -> Array:
    """Uncalibrated log-odds, as `Student.second_look` computes them."""
    first = sigmoid(((features - mean) / scale) @ linear.coef_[0] + linear.intercept_[0])
    return logit((first + forest.predict(features.astype(np.float32))) / 2)


def fit_platt(raw: Array, label: Array, weight: Array) -> tuple[float, float]:
    """Slope and offset of calibrated log-odds, at the prevalence that `weight` restores (Platt, 1999)."""
    rows, truth, share = yes_and_no(label)
    fit = logistic(raw[rows][:, None], truth, 1e3, share * np.maximum(weight[rows], 1e-6))
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def best_cut(log_odds: Array, label: Array, weight: Array, group: Array, seed: int, rounds: int = 40) -> float:
    """Log-odds above which F1 (as labelled, and at the natural prevalence, together) is largest: the mean over drawings of documents."""
    truth = label >= 0.5
    above = log_odds[:, None] >= GRID
    _, document = np.unique(group, return_inverse=True)
    generator = np.random.default_rng(seed)
    cuts = []
    for _ in range(rounds):
        drawn = np.bincount(generator.integers(document.max() + 1, size=document.max() + 1), minlength=document.max() + 1)[document]
        total = sum(f1_curve(above, truth, drawn * given) for given in (np.ones(len(truth)), weight))
        cuts.append(GRID[int(np.argmax(total))])
    return float(np.mean(cuts))


def f1_curve(above: Array, truth: Array, weight: Array) -> Array:
    """F1 of each column of `above` (rows, cuts)."""
    hits = (weight * truth) @ above
    return 2 * hits / np.maximum(weight @ above + (weight * truth).sum(), 1e-12)


def folds_by_group(group: Array, folds: int, seed: int) -> Array:
    """A fold for each row, the same for all rows of a group; groups are shuffled with the seed."""
    _, number = np.unique(group, return_inverse=True)
    return np.random.default_rng(seed).permutation(number.max() + 1)[number] % folds


def evidence_sentences(where: Sentences, spans: Sequence[Sequence[tuple[int, int, int]]], behaviors: int) -> npt.NDArray[np.bool_]:
    """Which sentences a quoted span lies in, (sentences, behaviors), from (behavior, start, end) of each window.

    A span that runs over several sentences marks those that it covers for a good part.
    """
    marked = np.zeros((len(where.text_of), behaviors), dtype=bool)
    first = np.searchsorted(where.text_of, np.arange(where.num_texts + 1))
    for window, quotes in enumerate(spans):
        low, high = first[window], first[window + 1]
        for behavior, start, end in quotes:
            overlap = np.minimum(where.spans[low:high, 1], end) - np.maximum(where.spans[low:high, 0], start)
            if len(overlap) and overlap.max() > 0:
                marked[low:high, behavior] |= overlap >= max(1, 0.35 * min(overlap.max(), 60))
    return marked
