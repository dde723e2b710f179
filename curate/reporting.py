"""`curate report`: what a run found, on one self-contained HTML page.

Here is what the page says, from manifests and tables already read; `pipelines.report` reads them, `report.html.j2` lays them out.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.engines.models import EMBEDDED, TEST_MODELS
from curate.records.manifest import Manifest
from curate.records.progress import format_seconds
from curate.records.settings import option

if TYPE_CHECKING:
    import polars as pl

NUM_BINS = 20
NICE_AXES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0)
# Control characters as their visible pictures: HTML would drop or change some of them, and offsets must stay right.
VISIBLE = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}
COVARIATES = {
    "origin": "where the source is from",
    "log2_chars": "length of the source, log2 of characters",
    "topic": "topic of the source",
    "difficulty": "difficulty of the source",
    "notation_density": "share of notation in the source",
    "num_windows": "windows of the source",
    "question_words": "words of the question",
    "thoughts_words": "words of the thoughts",
    "num_loss_tokens": "tokens that the loss sees",
}
MOST_FAILED_FILES = 20


@dataclass(frozen=True)
class ReportSettings:
    """Which run is shown, and how many examples."""

    run: Path | None = option(
        None, "Folder of a `curate run` (labels, frequencies, topics, candidates, qa, verified, sets in it).", hashed=False
    )
    out: Path | None = option(None, "HTML file to write; default report.html in the run's folder.", hashed=False)
    examples: int = option(3, "Documents shown for each behavior, and pairs shown side by side.")


@dataclass(frozen=True)
class Stage:
    """One row of the flow: the stage's command, its folder in a run, what it does in plain words, and what became of it."""

    name: str
    folder: str
    about: str
    manifest: Manifest | None = None
    state: str = "not run"


STAGES = (
    Stage("classify", "labels", "A language model reads every document and gives the probability of each behavior."),
    Stage("frequencies", "frequencies", "The labels are summed up: how common is each behavior?"),
    Stage("topics", "topics", "Every document gets a topic and a difficulty, so that alike ones can be matched."),
    Stage("select", "candidates", "Documents that clearly show a behavior, and documents that clearly show none, are chosen."),
    Stage("rewrite", "qa", "Chosen documents are rewritten as question, thoughts and answer."),
    Stage("verify", "verified", "Every rewrite is labelled again and held against what it should show."),
    Stage("match", "sets", "Two sets of equal size are made of the rewrites."),
)


def banners(stages: Sequence[Stage]) -> list[str]:
    """What must be known before any number is read: the model is a stand-in, or no model at all."""
    models = {stage.manifest.model or "" for stage in stages if stage.manifest}
    lines = []
    if any(EMBEDDED in model.lower() for model in models):
        lines.append(
            f"Stand-in model {EMBEDDED}: 135M parameters, de-quantised from 4 bits. "
            "It shows the machinery; its numbers mean nothing about mathematics."
        )
    if models & set(TEST_MODELS):
        lines.append(
            "Test engine: the answers on this page were scripted, no language model gave them. "
            "They show the machinery; the numbers mean nothing about mathematics."
        )
    return lines


def summary(stages: Sequence[Stage], title: str) -> str:
    """One paragraph in plain words: what was read, by which model, what came out."""
    done = {stage.name: stage.manifest for stage in stages if stage.manifest}
    sentences = []
    if labels := done.get("classify"):
        behaviors = ", ".join(spoken(name) for name in labels.notes.get("behaviors", [])) or "the behaviors"
        failed = sum(labels.errors.values())
        unreadable = f"; {counted(failed, 'of them has', 'of them have')} no label because of an error" if failed else ""
        were = counted(labels.rows_out, f"document of {title} was", f"documents of {title} were")
        sentences.append(
            f"{were} read by the model {labels.model} "
            f"(engine {labels.engine}), which was asked how likely each one shows {behaviors}{unreadable}."
        )
    if selected := done.get("select"):
        cells = selected.notes.get("cells", {})
        sentences.append(
            f"By these labels {cells.get('selected', 0):,} of those that state and solve a problem were selected as showing a chosen "
            f"behavior, and {cells.get('free', 0):,} as showing none."
        )
    if rewrites := done.get("rewrite"):
        failed = sum(rewrites.errors.values())
        unusable = f", {failed:,} of which cannot be used" if failed else ""
        if rewrites.engine == "extract":
            sentences.append(f"Their own questions and answers were taken as they are: {counted(rewrites.rows_out, 'row')}{unusable}.")
        else:
            sentences.append(f"From these the model {rewrites.model} wrote {counted(rewrites.rows_out, 'rewrite')}{unusable}.")
    if judged := done.get("verify"):
        sentences.append(f"Each was read again by the model {judged.model}, to see whether it shows what it should.")
    if sets := done.get("match"):
        tokens = " and ".join(f"{count:,} tokens ({arm})" for arm, count in sets.tokens.items())
        examples = sets.notes.get("examples_per_arm", sets.rows_out // 2)
        sentences.append(f"What came out are {len(sets.tokens) or 2} sets of {counted(examples, 'example')} each, with {tokens}.")
    missing = [stage.name for stage in stages if not stage.manifest]
    if missing:
        sentences.append(f"Not finished: {', '.join(missing)}.")
    return " ".join(sentences)


def warnings(stages: Sequence[Stage]) -> list[str]:
    """Everything in the manifests that a reader must know: the stages' own warnings, failed files, copies, rows that do not add up."""
    lines = []
    for stage in stages:
        if stage.manifest is None:
            continue
        manifest, notes = stage.manifest, stage.manifest.notes
        lines += [f"{stage.name}: {warning}" for warning in notes.get("warnings", [])]
        failed = list(manifest.failed_files.items())
        lines += [f"{stage.name}: the file {path} failed: {reason}" for path, reason in failed[:MOST_FAILED_FILES]]
        if len(failed) > MOST_FAILED_FILES:
            lines.append(f"{stage.name}: {counted(len(failed) - MOST_FAILED_FILES, 'more file')} failed; the manifest names them")
        if unsupported := notes.get("unsupported"):
            listed = ", ".join(f"{spoken(name)} {count:,}" for name, count in unsupported.items())
            lines.append(f"{stage.name}: labels whose quotes do not stand in their document: {listed}")
        if copies := notes.get("copies_skipped"):
            lines.append(f"{stage.name}: {counted(len(copies), 'file')} skipped as exact copies: {', '.join(copies[:10])}")
        gap = manifest.rows_in + manifest.rows_made - manifest.rows_out - sum(manifest.dropped.values())
        if gap:
            lines.append(f"{stage.name}: {abs(gap):,} rows are {'unaccounted for' if gap > 0 else 'too many'} by its own manifest")
    return lines


def prevalence(frequencies: "pl.DataFrame") -> dict[str, Any]:
    """Rows of the prevalence chart, one a behavior with its best estimate (`share`: corrected for the judge's errors where it could be)
    and its `mean` score, and the chart's common end (`axis`)."""
    rows: dict[str, dict[str, Any]] = {}
    for row in frequencies.iter_rows(named=True):
        estimates = rows.setdefault(row["behavior"], {"behavior": row["behavior"], "documents": row["documents"]})
        if row["estimate"] == "mean" or row["value"] is not None or "share" not in estimates:
            estimates["mean" if row["estimate"] == "mean" else "share"] = row  # the table has naive first, then corrected ones
    shown = [row for row in rows.values() if "share" in row]
    highest = max((row["share"]["high"] for row in shown), default=1.0)
    first = frequencies.row(0, named=True)
    return {
        "rows": shown,
        "axis": next(end for end in NICE_AXES if end >= min(highest, 1.0)),
        "threshold": first.get("threshold"),
        "corrected": bool(shown) and all(row["share"].get("corrected") for row in shown),
    }


def histogram(scores: "pl.Series") -> dict[str, Any]:
    """Counts of scores in NUM_BINS equal bins of [0, 1], with the highest count and quantiles."""
    import numpy as np

    values = np.clip(scores.drop_nulls().drop_nans().to_numpy().astype(np.float64), 0, 1)
    counts = np.histogram(values, bins=NUM_BINS, range=(0, 1))[0].tolist()
    quantiles = {
        name: float(np.quantile(values, q)) if len(values) else None for name, q in (("median", 0.5), ("90th", 0.9), ("99th", 0.99))
    }
    return {"counts": counts, "highest": max(counts), "documents": len(values), "quantiles": quantiles}


def tiles(stages: Sequence[Stage]) -> list[tuple[int, str]]:
    """The run in a few numbers: (count, what it counts)."""
    done = {stage.name: stage.manifest for stage in stages if stage.manifest}
    found: list[tuple[int, str]] = []
    if labels := done.get("classify"):
        found.append((labels.rows_out - sum(labels.errors.values()), "documents labelled"))
    if selected := done.get("select"):
        cells = selected.notes.get("cells", {})
        found += [(cells.get("selected", 0), "selected: show a behavior"), (cells.get("free", 0), "free: show none")]
    if rewrites := done.get("rewrite"):
        found.append((rewrites.rows_out - sum(rewrites.errors.values()), "usable rewrites"))
    if sets := done.get("match"):
        found.append((sets.notes.get("examples_per_arm", sets.rows_out // 2), "examples in each set"))
        found += [(count, f"tokens, {arm} set") for arm, count in sets.tokens.items()]
    return found


def spoken(name: str) -> str:
    """`backward_chaining` -> `backward chaining`."""
    return name.replace("_", " ")


def covariate(name: str) -> str:
    """What a row of the balance table is about, in words."""
    for whose in ("source", "rewrite"):
        if name.startswith(f"{whose}_") and name.endswith("_score"):
            return f"score of the {whose}: {spoken(name.removeprefix(f'{whose}_').removesuffix('_score'))}"
    return COVARIATES.get(name, spoken(name))


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 document`, `2 documents`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def decimal(value: float | None, digits: int = 2) -> str:
    """`0.126` -> `0.13`; a dash for a value that does not exist."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """`0.126` -> `12.6 %`."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def interval(row: Mapping[str, Any], name: str) -> str:
    """`93 % (88 % to 96 %)` of a share under `name`; a dash where there is nothing to divide by, or an older run did not write it."""
    if row.get(name) is None:
        return "–"
    return f"{percent(row[name], 0)} ({percent(row[f'{name}_low'], 0)} to {percent(row[f'{name}_high'], 0)})"


def render(page: Mapping[str, Any]) -> str:
    """The HTML of the page; every value is escaped, and control characters in it are made visible.

    A policy in the page forbids scripts and any loading: its only permission is the style block, named by its hash.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "spoken": spoken,
        "number": lambda value: "–" if value is None else f"{value:,}",
        "decimal": decimal,
        "compact": lambda value: "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}",
        "covariate": covariate,
        "percent": percent,
        "seconds": lambda value: f"{value:.2g} s" if value < 10 else format_seconds(value),
        "shown": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        "csp_hash": lambda style: "sha256-" + base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode(),
    }
    environment.globals |= {"counted": counted, "interval": interval}
    template = environment.from_string(files("curate").joinpath("report.html.j2").read_text(encoding="utf-8"))
    html = template.render(page).translate(VISIBLE)
    # A bare carriage return in a file would be read as a line feed; a lone surrogate cannot be written at all.
    return html.replace("\r", "&#13;").encode("utf-8", errors="replace").decode()
