"""What a report shows of single documents: the highest-scoring ones with their evidence, and the two sets side by side."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx

from curate.agreement import average_precision, roc_auc
from curate.arms import ARM_DESIGNS
from curate.attach import fetch_rows
from curate.behaviors import Behavior
from curate.contrasts import CONTRASTS, DOSE
from curate.highlight import Layer, Span, cue_spans, excerpt, highlighted
from curate.parsing import num_words
from curate.records.errors import FourHabitsError
from curate.records.manifest import InputFile, Manifest
from curate.scoring import EVIDENCE_SCORE

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ("file_sha256", "source_row")
MOST_TRUTH_ROWS = 5_000
PAIR_CHARS = 6_000
Rows = dict[tuple[str, int], dict[str, Any]]


def examples(
    labels: "pl.DataFrame", manifest: Manifest, behaviors: Sequence[Behavior], present: Mapping[str, float], num_examples: int
) -> dict[str, Any]:
    """For each behavior its highest-scoring documents with their text, and how the labels compare with the truth where it is known.

    `labels` are those of `classify`, `manifest` is its manifest; `present` holds the thresholds of the selection, if there was one.
    """
    good = labels.filter(labels["error"].is_null())
    top = {
        behavior.name: good.sort(f"{behavior.name}_score", *IDENTITY, descending=[True, False, False]).head(max(num_examples, 1)).to_dicts()
        for behavior in behaviors
    }
    files = {file.sha256: file for file in manifest.inputs}
    rows, problem = fetch(files, [(row["file_sha256"], row["source_row"]) for shown in top.values() for row in shown])
    text_key = manifest.settings.get("text_key", "text")
    has_truth = any(truth_spans(values) is not None for values in rows.values())
    return {
        "problem": problem,
        "window_chars": manifest.settings.get("window_chars"),
        "has_truth": has_truth,
        "labelled": good.height,
        "truth": against_truth(good, files, behaviors) if has_truth else [],
        "groups": [
            {
                "behavior": behavior,
                "present": present.get(behavior.name),
                "documents": [one_example(row, behavior, rows, text_key) for row in top[behavior.name][:num_examples]],
            }
            for behavior in behaviors
        ],
    }


def fetch(files: dict[str, InputFile], wanted: list[tuple[str, int]]) -> tuple[Rows, str | None]:
    """Rows of the corpus, or none and the reason: a page without texts is better than no page."""
    try:
        return fetch_rows(files, wanted), None
    except (FourHabitsError, OSError, httpx.HTTPError) as error:
        return {}, str(error)


def one_example(row: dict[str, Any], behavior: Behavior, rows: Rows, text_key: str) -> dict[str, Any]:
    """What is shown of a document: its identity and score, and its text with evidence, true spans and cue phrases, or why there is none."""
    values = rows.get((row["file_sha256"], row["source_row"]), {})
    shown: dict[str, Any] = {
        **{key: row.get(key) for key in ("id", "source", "source_file", "source_row", "url", "num_windows", "num_chars")},
        "score": row[f"{behavior.name}_score"],
        "pieces": [],
        "problem": None,
    }
    text = values.get(text_key)
    if not isinstance(text, str):
        return {**shown, "problem": "the text could not be read from the corpus"}
    if hashlib.sha256(text.encode()).hexdigest() != row["text_sha256"]:
        return {**shown, "problem": "the document has changed since it was labelled, so its text is not shown"}
    found = [item for item in row["evidence"] or [] if item["behavior"] == behavior.name]
    found.sort(key=lambda item: (-(item["score"] or 0.0), item["start"]))
    windows = [window_span(item) for item in found]
    known = truth_spans(values)
    true = [
        Span(item["start"], item["end"], {"data-behavior": behavior.name, "data-truth": "true"})
        for item in known or []
        if item["behavior"] == behavior.name
    ]
    pieces = excerpt(len(text), windows)
    layers = [Layer("mark", windows), Layer("u", true), Layer("b", cue_spans(text, behavior.cues, pieces))]
    shown["pieces"], shown["skipped"] = highlighted(text, layers, pieces)
    hidden = sum(not any(start < span.end and span.start < end for start, end in pieces) for span in true)
    return {
        **shown,
        "is_excerpt": len(text) > sum(end - start for start, end in pieces),
        "known": known,
        "true": len(true),
        "hidden": hidden,
    }


def window_span(item: dict[str, Any]) -> Span:
    """The span of a window; `data-weak` marks one that is evidence only because it is the document's best."""
    score = item["score"] or 0.0
    weak = {} if score >= EVIDENCE_SCORE else {"data-weak": "true"}
    about = {"data-behavior": item["behavior"], "data-score": f"{score:.3f}", "title": f"score of this window: {score:.2f}"}
    return Span(item["start"], item["end"], about | weak)


def against_truth(labels: "pl.DataFrame", files: dict[str, InputFile], behaviors: Sequence[Behavior]) -> list[dict[str, Any]]:
    """One row a behavior: how its scores rank the documents whose truth is known, at most the first MOST_TRUTH_ROWS."""
    labelled = labels.sort(IDENTITY).head(MOST_TRUTH_ROWS).to_dicts()
    rows, _ = fetch(files, [(row["file_sha256"], row["source_row"]) for row in labelled])
    known = [(row, truth_spans(rows.get((row["file_sha256"], row["source_row"]), {}))) for row in labelled]
    table = []
    for behavior in behaviors:
        pairs = [
            (row[f"{behavior.name}_score"], any(item["behavior"] == behavior.name for item in spans))
            for row, spans in known
            if spans is not None and row[f"{behavior.name}_score"] is not None
        ]
        scores, truth = [score for score, _ in pairs], [shows for _, shows in pairs]
        table.append(
            {
                "behavior": behavior.name,
                "documents": len(pairs),
                "positives": sum(truth),
                "average_precision": average_precision(scores, truth),
                "auc": roc_auc(scores, truth),
            }
        )
    return table


def truth_spans(values: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The true spans in a corpus row whose `truth` column is of the bundled sample's form, else None."""
    truth = values.get("truth")
    evidence = truth.get("evidence") if isinstance(truth, dict) else None
    if not isinstance(evidence, list):
        return None
    good = [item for item in evidence if isinstance(item, dict) and isinstance(item.get("behavior"), str)]
    good = [item for item in good if all(isinstance(item.get(key), int) for key in ("start", "end"))]
    return good if len(good) == len(evidence) else None


def side_by_side(arms: Sequence["pl.DataFrame"], manifest: Manifest, behaviors: Sequence[Behavior], num_examples: int) -> dict[str, Any]:
    """The sets: totals, what comparing them identifies, and their first examples; versions of one document stand beside each other.

    `arms` are the frames of the arms that `manifest` names; `manifest` is that of `match`.
    """
    names = arm_names(manifest)
    siblings = arms[0]["pair_id"].to_list() == arms[1]["pair_id"].to_list()
    shown = zip(*(arm.head(num_examples).to_dicts() for arm in arms))
    kind = manifest.notes.get("arms", "pairs")
    design = ARM_DESIGNS[kind]
    places = {cell: number for number, cell in enumerate(design.cells)}
    groups = [[places[cell] for cell in family] for family in design.families] if siblings else [list(range(len(names)))]
    sides = [[one_side(row, name, behaviors) for row, name in zip(block, names, strict=True)] for block in shown]
    return {
        "contrasts": CONTRASTS[kind],
        "dose": manifest.notes.get("dose", 1),
        "dose_note": DOSE,
        "carriers": manifest.notes.get("carriers", {}),
        "filtered": manifest.notes.get("filtered"),
        "siblings": siblings,
        "count": manifest.settings.get("count"),
        "tokenizer": manifest.settings.get("tokenizer"),
        "budget": manifest.settings.get("budget_tokens"),
        "arms": [
            {
                "name": name,
                "examples": arm.height,
                "tokens": int(arm["num_loss_tokens"].sum()),
                "words": sum(num_words(text or "") for text in arm["thoughts"]),
            }
            for name, arm in zip(names, arms, strict=True)
        ],
        "pairs": [[block[place] for place in group] for block in sides for group in groups],
    }


def arm_names(manifest: Manifest) -> list[str]:
    """The arms that `match` made, in order."""
    return manifest.notes.get("arm_names", ["enriched", "control"])


def one_side(row: dict[str, Any], arm: str, behaviors: Sequence[Behavior]) -> dict[str, Any]:
    """One example of one arm."""
    scores = {
        behavior.name: (row.get(f"source_{behavior.name}_score"), row.get(f"rewrite_{behavior.name}_score")) for behavior in behaviors
    }
    texts = {key: cut(row.get(key) or "") for key in ("question", "thoughts", "answer")}
    about = {key: row.get(key) for key in ("pair_id", "cell", "id", "source", "num_loss_tokens")}
    return {**about, **texts, "arm": arm, "words": num_words(row.get("thoughts") or ""), "scores": scores}


def cut(text: str) -> tuple[str, int]:
    """The beginning of a text that may be long, and how many characters are left out."""
    return text[:PAIR_CHARS], max(len(text) - PAIR_CHARS, 0)
