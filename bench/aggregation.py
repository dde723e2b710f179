"""From the scores of windows to the score of their document: which rule is right?

Gold labels are those of single windows (`windows_dev.parquet`); a document shows a behavior when one of its windows does. Window
scores come from TF-IDF and a logistic regression, cross-fitted by document and calibrated (Platt), so no window is scored by a model that
saw its document. Documents are (a) made of windows drawn at their natural weights, independently or from one source, with 1 to 10
windows each, and (b) the real ones, whole: at least 95 % of their characters lie in labelled windows. What is fitted is fitted on the
other half of the documents. Printed: one row a rule and kind of document, averaged over the behaviors.

    python bench/aggregation.py $FOURHABITS_TEST_DATA/labels/windows_dev.parquet $FOURHABITS_TEST_DATA/corpus
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold

from curate.windows import AGGREGATIONS, document_score

BEHAVIORS = ("verification", "backtracking", "subgoal_setting", "backward_chaining")
LENGTHS = (1, 2, 3, 5, 10)
WHOLE = 0.95
# How a judge's window scores may be off, as functions of the calibrated score.
JUDGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "calibrated": lambda p: p,
    "floor of 4 %": lambda p: 0.04 + 0.96 * p,
    "unsure (half the log-odds)": lambda p: 1 / (1 + np.exp(-logit(p) / 2)),
    "too sure (twice the log-odds)": lambda p: 1 / (1 + np.exp(-2 * logit(p))),
}
Rule = Callable[[list[np.ndarray]], np.ndarray]


def logit(p: np.ndarray) -> np.ndarray:
    clipped = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def window_scores(frame: pl.DataFrame, name: str) -> np.ndarray:
    """Cross-fitted, calibrated probability of each window, shape (windows,)."""
    truth = (frame[name] > 0.5).to_numpy()
    weight = frame["weight"].to_numpy()
    groups = frame["doc"].to_numpy()
    texts = frame["text"].to_list()
    raw = np.zeros(len(texts))
    for train, test in GroupKFold(5, shuffle=True, random_state=0).split(texts, groups=groups):
        features = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
        model = LogisticRegression(C=10.0, max_iter=300)
        model.fit(features.fit_transform([texts[i] for i in train]), truth[train], sample_weight=weight[train])
        raw[test] = model.decision_function(features.transform([texts[i] for i in test]))
    out = np.zeros(len(texts))
    for train, test in GroupKFold(5, shuffle=True, random_state=1).split(texts, groups=groups):
        platt = LogisticRegression(C=1e6).fit(raw[train, None], truth[train], sample_weight=weight[train])
        out[test] = platt.predict_proba(raw[test, None])[:, 1]
    return out


def draw(rng: np.random.Generator, pool: np.ndarray, weight: np.ndarray, source: np.ndarray, count: int, same: bool) -> list[np.ndarray]:
    """`count` documents of each of LENGTHS: indices of their windows."""
    made = []
    p = weight[pool] / weight[pool].sum()
    by_source = {name: pool[source[pool] == name] for name in np.unique(source[pool])}
    for length in LENGTHS:
        if not same:
            made += list(rng.choice(pool, (count, length), p=p))
            continue
        for first in rng.choice(pool, count, p=p):
            members = by_source[source[first]]
            made.append(rng.choice(members, length, p=weight[members] / weight[members].sum()))
    return made


def by_rule(rule: str) -> Rule:
    return lambda windows: np.array([document_score(scores.tolist(), rule) for scores in windows])


def fitted(windows: list[np.ndarray], truth: np.ndarray, kind: str) -> Rule:
    """Platt (on the largest score and the number of windows; or on noisy-or and the number) or isotonic (on noisy-or)."""
    if kind == "isotonic":
        curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(by_rule("noisy-or")(windows), truth)
        return lambda new: curve.predict(by_rule("noisy-or")(new))

    def features(new: list[np.ndarray]) -> np.ndarray:
        top = by_rule("max")(new) if kind == "platt" else by_rule("noisy-or")(new)
        return np.column_stack([logit(top), [math.log(len(scores)) for scores in new]])

    model = LogisticRegression(C=1e6).fit(features(windows), truth)
    return lambda new: model.predict_proba(features(new))[:, 1]


def measures(score: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    flagged = score >= 0.5
    clipped = np.clip(score, 1e-6, 1 - 1e-6)
    return {
        "true": truth.mean(),
        "said": score.mean(),
        "log_loss": -(truth * np.log(clipped) + ~truth * np.log(1 - clipped)).mean(),
        "brier": ((score - truth) ** 2).mean(),
        "ap": average_precision_score(truth, score) if truth.any() else float("nan"),
        "precision": truth[flagged].mean() if flagged.any() else float("nan"),
        "recall": flagged[truth].mean() if truth.any() else float("nan"),
        "clean_flagged": flagged[~truth].mean() if not truth.all() else float("nan"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("windows", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--documents", type=int, default=3000, help="documents drawn of each length")
    options = parser.parse_args()
    frame = pl.read_parquet(options.windows).filter(pl.col("weight") > 0)
    corpus = pl.concat([pl.read_parquet(path, columns=["id", "text"]) for path in sorted(options.corpus.glob("*.parquet"))])
    chars = dict(zip(corpus["id"], corpus["text"].str.len_chars(), strict=True))
    weight, source, doc = (frame[key].to_numpy() for key in ("weight", "source", "doc"))
    real = {}
    for name, indices in (
        frame.with_row_index()
        .group_by("doc")
        .agg("index", pl.col("text").str.len_chars().sum().alias("chars"))
        .select("doc", pl.struct("index", "chars"))
        .iter_rows()
    ):
        if len(indices["index"]) > 1 and indices["chars"] >= WHOLE * chars.get(name, math.inf):
            real[name] = np.array(indices["index"])
    half = np.random.default_rng(0).permutation(np.unique(doc))
    first_half = np.isin(doc, half[: len(half) // 2])
    rows = []
    for name in BEHAVIORS:
        calibrated, truth = window_scores(frame, name), (frame[name] > 0.5).to_numpy()
        for judge, fold in itertools.product(JUDGES, (0, 1)):
            scores = JUDGES[judge](calibrated)
            train, test = np.flatnonzero(first_half == bool(fold)), np.flatnonzero(first_half != bool(fold))
            for kind in ("independent", "one source", "real"):
                rng = np.random.default_rng(7)
                fit_on = draw(rng, train, weight, source, options.documents, same=kind != "independent")
                fit_windows, fit_truth = [scores[d] for d in fit_on], np.array([truth[d].any() for d in fit_on])
                if kind == "real":
                    tried = [d for d in real.values() if first_half[d[0]] != bool(fold)]
                else:
                    tried = draw(rng, test, weight, source, options.documents, same=kind == "one source")
                windows, shows = [scores[d] for d in tried], np.array([truth[d].any() for d in tried])
                rules = {rule: by_rule(rule) for rule in AGGREGATIONS}
                rules |= {f"{way} (fitted)": fitted(fit_windows, fit_truth, way) for way in ("platt", "platt-or", "isotonic")}
                lengths = np.array([len(d) for d in tried])
                for rule, call in rules.items():
                    said = call(windows)
                    for length in (0, *LENGTHS) if kind != "real" else (0,):
                        chosen = lengths == length if length else np.full(len(lengths), True)
                        about = {
                            "judge": judge,
                            "behavior": name,
                            "kind": kind,
                            "windows": length or "all",
                            "rule": rule,
                            "documents": int(chosen.sum()),
                        }
                        rows.append({**about, **measures(said[chosen], shows[chosen])})
    table = pl.DataFrame(rows, schema_overrides={"windows": pl.String}, strict=False)
    numbers = list(measures(np.array([0.5]), np.array([True])))
    short = table.group_by("judge", "kind", "windows", "rule", maintain_order=True).agg(pl.col(numbers).fill_nan(None).mean())
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160, float_precision=3):
        print(short.filter(judge="calibrated").sort("kind", "windows", maintain_order=True))
        print(short.filter(windows="all"))
        print(
            table.filter(kind="real", judge="calibrated")
            .group_by("behavior", "rule", maintain_order=True)
            .agg(pl.col("documents").sum(), pl.col(numbers).fill_nan(None).mean())
        )
    overall = short.filter(windows="all").select("judge", "kind", "rule", "log_loss", "said", "true").to_dicts()
    print(json.dumps(overall))


if __name__ == "__main__":
    main()
