"""`evals report`: a whole experiment on one self-contained HTML page."""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.parts import atomic_file
from curate.records.settings import option, same
from eval import compare
from eval.beside import comparison_of, sets_of
from eval.contrasts import describe
from eval.curves import BEHAVIORS, HOW, Curve, responses_of
from eval.experiment import Experiment, read_experiment, run_settings
from eval.pictures import CHART_STYLE, HUES, HUES_DARK, HUES_LIGHT, Line, chart, picture
from eval.reference import Reference, read_reference
from eval.statistics import half_width
from rl import traces

MEASURES = {
    "accuracy": "Accuracy",
    "tokens": "Tokens of a response",
    "verification": "Explicit checks a response",
    "implicit_verification": "Implicit checks a response",
    "backtracking": "Abandoned tries a response",
    "subgoal_setting": "Stated subgoals a response",
    "backward_chaining": "Steps from the target a response",
    "truncated": "Share of responses cut off",
}
LONGEST_SHOWN = 1_500


@dataclass(frozen=True)
class ReportSettings:
    """Settings of `evals report`."""

    experiment: Path | None = option(None, "Folder with CONDITION/seed-N/ runs of `rl ppo`")
    out: Path | None = option(None, "HTML file to write; default report.html in the experiment's folder")
    picture: Path | None = option(None, "Also write the curves of accuracy as an SVG file")
    comparison: Path | None = option(None, "Output of `evals compare`, whose results are shown")
    sets: tuple[Path, ...] = option((), "Folders of `curate match`, whose balance and fidelity are shown; repeat")
    reference: Path | None = option(None, "Folder with the study's CSV files, drawn dashed beside")
    reference_conditions: tuple[str, ...] = option((), "Which of them, as `file: condition`; repeat; left out: all of accuracy's")
    how: str = option("sampled", "Evaluations at T=1, or greedy", choices=HOW)
    last_evaluations: int = option(3, "The end of a run is the mean of this many last evaluations", at_least=1)
    leave_out_unfinished: bool = same(compare.CompareSettings, "leave_out_unfinished")
    examples: int = option(2, "Responses shown for each condition, before and after", at_least=0)


def run(settings: ReportSettings) -> None:
    """Accuracy, length and behaviors by step with bands over seeds, comparisons, the sets, traces highlighted, every setting."""
    folder = require(settings.experiment, "experiment")
    experiment = read_experiment(folder, settings.how, leave_out_unfinished=settings.leave_out_unfinished)
    reference = read_reference(settings.reference) if settings.reference else None
    if reference and (unknown := [name for name in settings.reference_conditions if name not in reference["accuracy"]]):
        raise UserError(f"the reference has no {unknown[0]!r}; it has {', '.join(reference['accuracy'])}")
    comparison: dict[str, Any] = {"rows": [], "notes": []}
    if settings.comparison:
        comparison = comparison_of(settings.comparison, experiment, settings.how, settings.last_evaluations)
    sets = [sets_of(path) for path in settings.sets]
    colours = {name: f"c{place % len(HUES)}" for place, name in enumerate(experiment)}
    page = {
        "title": folder.resolve().name,
        "how": "sampled at T=1" if settings.how == "sampled" else "greedy",
        "last": settings.last_evaluations,
        "num_tasks": next(iter(next(iter(experiment.values())).values())).num_tasks,
        "conditions": [condition(name, list(seeds.values()), colours[name], settings) for name, seeds in experiment.items()],
        "charts": charts(experiment, colours, reference, settings.reference_conditions),
        "comparison": comparison,
        "sets": sets,
        "examples": [
            {"name": name, "css": colours[name], "pairs": examples(next(iter(seeds.values())), settings)}
            for name, seeds in experiment.items()
        ],
        "settings": settings_table(experiment),
        "behaviors": BEHAVIORS,
        "reference": bool(reference),
        "hues_light": HUES_LIGHT,
        "hues_dark": HUES_DARK,
        "chart_style": CHART_STYLE,
    }
    out = settings.out or folder / "report.html"
    with atomic_file(out) as file:
        file.write(render(page).encode())
    print(f"the report: {out}")
    for note in (*comparison["notes"], *(item["missing"] for item in sets if item["missing"])):
        print(f"note: {note}")
    if settings.picture:
        with atomic_file(settings.picture) as file:
            file.write(picture(lines_of(experiment, "accuracy", colours), MEASURES["accuracy"]).encode())
        print(f"the picture: {settings.picture}")


def lines_of(experiment: Experiment, measure: str, colours: dict[str, str]) -> list[Line]:
    """A line a condition."""
    made = []
    for name, seeds in experiment.items():
        curves = list(seeds.values())
        made.append(Line(name, curves[0].steps, np.stack([curve.values[measure] for curve in curves]), colours[name]))
    return made


def condition(name: str, curves: Sequence[Curve], css: str, settings: ReportSettings) -> dict[str, Any]:
    """One row of the first table: start, end with its interval over seeds, gain, behaviors at both ends."""
    ends = [curve.last_mean("accuracy", settings.last_evaluations) for curve in curves]
    found = describe(curves, settings.last_evaluations)
    half = half_width(ends) if len(ends) > 1 else None
    return found | {"name": name, "css": css, "half_width": half, "lead": compare.lead_words(found)}


def charts(experiment: Experiment, colours: dict[str, str], reference: Reference | None, chosen: Sequence[str]) -> list[dict[str, str]]:
    """One picture a measure that is not zero everywhere."""
    made = []
    for measure, label in MEASURES.items():
        lines = lines_of(experiment, measure, colours)
        if not any(line.values_ST.any() for line in lines):
            continue
        longest = max(max(line.steps) for line in lines)
        for name, points in (reference or {}).get(measure, {}).items():
            kept = [point for point in points if point[0] <= longest]
            if kept and (not chosen or name in chosen):
                lines.append(Line(name, [step for step, _ in kept], np.array([[value for _, value in kept]]), "dashed", reference=True))
        made.append({"label": label, "svg": chart(lines, label)})
    return made


def examples(curve: Curve, settings: ReportSettings) -> list[dict[str, Any]]:
    """Responses to the same tasks before the first step and after the last, with behaviors marked. The first tasks: not picked."""
    shown: list[dict[str, Any]] = []
    for step in (curve.steps[0], curve.steps[-1 - curve.num_held]):
        path = responses_of(curve.folder, step, settings.how)
        for row in pq.read_table(path, columns=["numbers", "target", "response", "correct"]).slice(0, settings.examples).to_pylist():
            _, text, spans = traces.read(row["response"], row["numbers"], row["target"])
            answer = re.search(r"<answer>(.*?)</answer>", row["response"], re.DOTALL)
            cut = text[:LONGEST_SHOWN]
            shown.append(
                {
                    "step": step,
                    "numbers": ", ".join(map(str, row["numbers"])),
                    "target": row["target"],
                    "correct": row["correct"],
                    "pieces": pieces(cut, spans),
                    "left_out": len(text) - len(cut),
                    "answer": answer[1].strip() if answer else None,
                }
            )
    return shown


def pieces(text: str, spans: Sequence[traces.Span]) -> list[tuple[str, str]]:
    """The text cut at every border of a span: (piece, behaviors over it). Where several overlap, all are named."""
    borders = sorted({0, len(text), *(min(edge, len(text)) for span in spans for edge in (span.start, span.end))})
    cut = []
    for start, end in itertools.pairwise(borders):
        over = [name for name in BEHAVIORS if any(s.behavior == name and s.start <= start and end <= s.end for s in spans)]
        cut.append((text[start:end], " ".join(over)))
    return cut


def settings_table(experiment: Experiment) -> dict[str, Any]:
    """Settings that all runs share, and those that differ, by run. A run without settings.json (made elsewhere) has none."""
    runs = {}
    for name, seeds in experiment.items():
        for seed, curve in seeds.items():
            runs[f"{name}, seed {seed}"] = run_settings(curve.folder)
    keys = list(dict.fromkeys(key for values in runs.values() for key in values))
    differing = [key for key in keys if len({json.dumps(values.get(key)) for values in runs.values()}) > 1]
    first = next(iter(runs.values()))
    return {"common": {key: first[key] for key in keys if key not in differing}, "differing": differing, "runs": runs}


def render(page: dict[str, Any]) -> str:
    """The HTML: every value escaped, no script, nothing loaded; the style is named by its hash in the page's policy."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "shown": lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
        "spoken": lambda name: name.replace("_", " "),
        "csp_hash": lambda style: "sha256-" + base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode(),
    }
    template = environment.from_string(files("eval").joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(page)
