"""`curate report` as a command: reads the folders of a run and draws the page. A stage that has not run is shown as such."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from curate.behaviors import Behavior, load_behaviors
from curate.corpus import SAMPLE
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import FILE_NAME, Manifest, read_manifest
from curate.records.parts import atomic_file
from curate.report_balance import balance_page
from curate.report_examples import arm_names, examples, side_by_side
from curate.reporting import (
    STAGES,
    ReportSettings,
    Stage,
    banners,
    histogram,
    prevalence,
    render,
    summary,
    tiles,
    warnings,
)
from curate.verification import FIDELITY_FILE
from pipelines.ledger import PLAN_FILE, load_ledger
from pipelines.match import BALANCE_FILE
from pipelines.stage import read_table

REPORT_FILE = "report.html"
SPOKEN_NUMBERS = {2: "two", 4: "four"}


def report(settings: ReportSettings) -> Path:
    """Draw a run on one self-contained HTML page: prevalence, examples with their evidence, rows, the two sets side by side.

    Works on any part of a run; what has not run is shown as such. The page loads nothing and runs no script, so it can be mailed
    or printed. Returns where it is.
    """
    folder = require(settings.run, "run", "the folder of a run")
    if settings.examples < 0:
        raise UserError(f"--examples {settings.examples} is negative")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the --out of a `curate run`")
    stages = [find_stage(folder, stage) for stage in STAGES]
    if all(stage.state == "not run" for stage in stages):
        raise UserError(f"no stage was begun in {folder}: it has none of the folders {', '.join(stage.folder for stage in STAGES)}")
    out = settings.out or folder / REPORT_FILE
    html = render(collect(folder, stages, settings.examples))
    with atomic_file(out) as file:
        file.write(html.encode())
    print(f"report: {out}")
    return out


def find_stage(folder: Path, stage: Stage) -> Stage:
    """`stage` with its manifest, or how far it is. Raises UserError when its folder holds the output of another stage."""
    path = folder / stage.folder
    if (path / FILE_NAME).exists():
        manifest = read_manifest(path)
        if manifest.stage != stage.name:
            raise UserError(f"{path} was written by `{manifest.stage}`; in a run it holds the output of `{stage.name}`")
        return replace(stage, manifest=manifest, state="done")
    if (path / PLAN_FILE).exists():
        ledger = load_ledger(path)
        done = sum(ledger.is_done(chunk) for chunk in ledger.chunks)
        return replace(stage, state=f"unfinished: {done} of {len(ledger.chunks)} chunks")
    return stage


def collect(folder: Path, stages: list[Stage], num_examples: int) -> dict[str, Any]:
    """Everything the template lays out."""
    made = {stage.name: stage.manifest for stage in stages if stage.manifest}
    rows = {name: manifest.rows_out for name, manifest in made.items()}
    labels = read_table(folder / "labels", "classify")[0] if rows.get("classify") else None
    shares = read_table(folder / "frequencies", "frequencies")[0] if rows.get("frequencies") else None
    arms = [read_table(folder / "sets" / arm, "match")[0] for arm in arm_names(made["match"])] if rows.get("match") else None
    behaviors = behaviors_of(made.get("classify"), labels)
    present, absent = (made["select"].notes.get(key, {}) if "select" in made else {} for key in ("present", "absent"))
    title = title_of(made.get("classify"))
    return {
        "title": title,
        "heading": f"From {title} to {SPOKEN_NUMBERS[len(arms)]} matched sets" if arms else f"What was found in {title}",
        "version": version("fourhabits"),
        "summary": summary(stages, title),
        "tiles": tiles(stages),
        "banners": banners(stages),
        "warnings": warnings(stages),
        "stages": stages,
        "behaviors": behaviors,
        "classes": {behavior.name: f"b{number % 8}" for number, behavior in enumerate(behaviors)},
        "prevalence": None if shares is None else prevalence(shares),
        "distributions": None if labels is None else distributions(labels, behaviors, present, absent),
        "examples": None if labels is None else examples(labels, made["classify"], behaviors, present, num_examples),
        "sets": None if arms is None else side_by_side(arms, made["match"], behaviors, num_examples),
        "balance": balance_page(json_of(folder / "sets" / BALANCE_FILE)) if "match" in made else None,
        "fidelity": json_of(folder / "verified" / FIDELITY_FILE) if "verify" in made else None,
        "versions": versions_of(stages),
    }


def title_of(labelled: Manifest | None) -> str:
    """The name of what was read."""
    names = labelled.settings.get("dataset") if labelled else None
    if not isinstance(names, list) or not names:
        return "the corpus"
    shown = ["the bundled sample" if name == SAMPLE else Path(str(name)).name for name in names]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def json_of(path: Path) -> dict[str, Any] | None:
    """A JSON file of a stage, or None where the stage did not get to writing it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); run the stage again") from None


def behaviors_of(labelled: Manifest | None, labels: pl.DataFrame | None) -> list[Behavior]:
    """The behaviors that were labelled, with their definitions where the file that defined them is still there."""
    extra = labelled.settings.get("behaviors") if labelled else None
    try:
        known = {behavior.name: behavior for behavior in load_behaviors(Path(extra) if extra else None)}
    except UserError:
        known = {behavior.name: behavior for behavior in load_behaviors()}
    names = list(known) if labels is None else schemas.behaviors_in(labels.to_arrow().schema)
    return [known.get(name) or Behavior(name, "", "", "") for name in names]


def distributions(
    labels: pl.DataFrame, behaviors: list[Behavior], present: dict[str, float], absent: dict[str, float]
) -> list[dict[str, Any]]:
    """The distribution of each behavior's score over the documents that have one, and the thresholds of the selection."""
    good = labels.filter(pl.col("error").is_null())
    return [
        {
            "behavior": behavior.name,
            **histogram(good[f"{behavior.name}_score"]),
            "present": present.get(behavior.name),
            "absent": absent.get(behavior.name),
        }
        for behavior in behaviors
    ]


def versions_of(stages: list[Stage]) -> dict[str, str]:
    """Package versions of the run; where stages differ, all of them."""
    found: dict[str, dict[str, None]] = {}
    for stage in stages:
        for name, number in (stage.manifest.versions if stage.manifest else {}).items():
            found.setdefault(name, {})[number] = None
    return {name: ", ".join(numbers) for name, numbers in found.items()}
