"""A run made without a model: labels that a test dictates, then the project's own stages and writers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.corpus import find_files
from curate.prevalence import FrequenciesSettings
from curate.records import schemas
from curate.records.manifest import Manifest, file_sha256
from curate.records.parts import write_json, write_part
from curate.selection import SelectSettings
from curate.windows import split_windows
from pipelines.frequencies import frequencies
from pipelines.select import select

BEHAVIORS = ("verification", "backtracking", "subgoal_setting", "backward_chaining")
WINDOW_CHARS = 2_400


def make_labels(run: Path, documents: list[dict[str, Any]], model: str = "judge", **manifest: Any) -> None:
    """Write a corpus of `documents` (rows with `text`) beside the run, and its labels.

    A document's `_scores` gives the score of a behavior (0.1 without), `_windows` the spans that are its evidence for all of them
    (every window without), `_error` makes it a row with an error. Keys with an underscore stay out of the corpus.
    """
    corpus = run / "corpus" / "documents.jsonl"
    corpus.parent.mkdir(parents=True)
    rows = [{key: value for key, value in document.items() if not key.startswith("_")} for document in documents]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = find_files([str(corpus)]).files[0]
    labels = []
    for number, document in enumerate(documents):
        text, error = document["text"], document.get("_error")
        spans = document.get("_windows") or split_windows(text, WINDOW_CHARS)
        scores = {name: None if error else document.get("_scores", {}).get(name, 0.1) for name in BEHAVIORS}
        labels.append(
            {
                "file_sha256": file.sha256,
                "source_file": file.path,
                "source_row": number,
                **{key: document.get(key) for key in ("id", "source", "url", "license")},
                "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "num_chars": len(text),
                "num_windows": len(spans),
                **{f"{name}_score": score for name, score in scores.items()},
                "evidence": []
                if error
                else [{"behavior": name, "start": a, "end": b, "score": scores[name]} for name in BEHAVIORS for a, b in spans],
                "label_mass": 0.9,
                "problem_score": None if error else 0.9,
                "solution_score": None if error else 0.9,
                "notation_density": 0.1,
                "error": error,
            }
        )
    write_part(run / "labels" / "parts" / "0.parquet", pa.Table.from_pylist(labels, schema=schemas.labels(BEHAVIORS)))
    errors = sum(row["error"] is not None for row in labels)
    Manifest(
        stage="classify",
        settings={"dataset": [str(corpus)], "text_key": "text", "window_chars": WINDOW_CHARS, "behaviors": None},
        inputs=[file],
        rows_in=len(labels),
        rows_out=len(labels),
        errors={"the text is empty": errors} if errors else {},
        model=model,
        engine="openai",
        notes={"behaviors": list(BEHAVIORS)},
        **manifest,
    ).write(run / "labels")


def make_selection(run: Path) -> None:
    """Run the stages that need no model."""
    frequencies(FrequenciesSettings(labels=run / "labels", out=run / "frequencies"))
    select(SelectSettings(labels=run / "labels", out=run / "candidates"))


def make_sets(run: Path, pairs: list[dict[str, tuple[str, str]]], siblings: bool = True) -> None:
    """Write two sets: each pair gives the `question`, `thoughts` and `answer` of both arms. Balance and fidelity come with them."""
    frames = []
    for number, arm in enumerate(("enriched", "control")):
        rows = [
            {
                "pair_id": f"{index:04d}" if siblings else f"{number}{index:03d}",
                "cell": ("selected", "selected_stripped")[number],
                "id": f"document {index}",
                "source": "made",
                **{key: texts[number] for key, texts in pair.items()},
                "num_loss_tokens": len(pair["thoughts"][number].split()),
                "source_verification_score": 0.9,
                "rewrite_verification_score": (0.8, 0.2)[number],
            }
            for index, pair in enumerate(pairs)
        ]
        frames.append(pa.Table.from_pylist(rows))
        write_part(run / "sets" / arm / "parts" / "part.parquet", frames[-1])
        total = len(rows)
        Manifest("match", {}, rows_in=2 * total, rows_out=total, dropped={"other arm": total}).write(run / "sets" / arm)
    tokens = {arm: sum(frame["num_loss_tokens"].to_pylist()) for arm, frame in zip(("enriched", "control"), frames, strict=True)}
    settings = {"budget_tokens": 1000, "count": "completion", "tokenizer": "words"}
    notes = {"examples_per_arm": len(pairs), "warnings": ["the arms are small"]}
    Manifest("match", settings, rows_in=2 * len(pairs), rows_out=2 * len(pairs), tokens=tokens, notes=notes).write(run / "sets")
    row = {"covariate": "log2_chars", "kind": "matched", "enriched": 10.5, "control": 10.25, "category": None}
    row |= {"smd_before": 0.75, "smd": 0.25, "ks_before": 0.5, "ks": 0.125}
    nothing = dict.fromkeys(("enriched", "control", "smd_before", "smd", "ks_before", "ks", "category"))
    empty = {"covariate": "source_verification_score", "kind": "behavior", **nothing}
    auc = {"masked": {"auc": 0.61, "low": 0.52, "high": 0.70, "blocks": 40, "folds": 5}, "subject": None, "unmasked": None}
    contrast = {"first": "enriched", "second": "control", "rows": [row, empty], "auc": auc}
    rates = {arm: {"verification": rate} for arm, rate in (("enriched", 4.5), ("control", 0.25))}
    made = {"instances_per_1000_tokens": rates, "instances_counted_by": "evidence", "contrasts": [contrast]}
    write_json(run / "sets" / "balance.json", {"examples": len(pairs), "tokens": tokens, **made})
    write_part(run / "verified" / "parts" / "0.parquet", frames[0])
    Manifest("verify", {}, rows_in=len(pairs), rows_out=len(pairs), model="judge", engine="openai").write(run / "verified")
    fidelity = {"cell": "selected_stripped", "behavior": "verification", "rewrites": 20, "source_shows": 13, "kept": 2, "lost": 11}
    fidelity |= {"gained": 3, "target": "none", "agreement": 0.75, "agreement_low": 0.53, "agreement_high": 0.89}
    write_json(run / "verified" / "fidelity.json", {"thresholds": {}, "judged": 20, "errors": 0, "rows": [fidelity]})


def part_hash(run: Path) -> str:
    """Hash of the labels' part: for checks that a report changes nothing."""
    return file_sha256(run / "labels" / "parts" / "0.parquet")
