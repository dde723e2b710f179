"""The model card: what `figures.json` holds, as a page to read."""

from pathlib import Path
from typing import Any

from curate.records.parts import atomic_file
from curate.student.distillation import Windows
from curate.student.evaluation import TARGET_PRECISION, TARGET_RECALL, mean_f1
from curate.student.model import Student

INTRODUCTION = """# Student

A classifier on the CPU that gives each window of a document the probability that it shows {behaviors}, that it states a problem, and that
it contains (part of) a solution. Made by `curate distill` (seed {seed}) from {windows:,} labelled windows of
{documents:,} documents of {sources} sources.

How it works: sentences are scored by logistic regressions on hashed word patterns and on cues (`cues.py`) of the sentence and its
neighbours, trained on the sentences that annotators quoted; the best sentences, the words of the whole window and the counts of
the cues go into a logistic regression and a forest, whose mean is calibrated. Documents: 1 - prod(1 - p) over windows.

**Two numbers in one.** Calibrated at the natural prevalence, a behavior that 5 % of windows show seldom has a probability over .5, and a
cut there would miss most of it. So the published score is the calibrated probability with its log-odds moved by a constant, such that the
cut at .5 is where the cross-validated F1 (mean of as-labelled and natural) is largest: {shifts}. Subtract it for
the probability, as `curate frequencies` and `curate audit` do.

**What the figures are.** Every window was scored by a student that saw no window of its document (or, left out, of its source), distilled
anew with everything inside. Intervals are 95 %, over documents drawn with replacement. *As labelled*: the windows as they are,
in which behaviors are frequent because most were drawn by cue or model. *Natural*: weighted to the corpus they were drawn from.
"""


def write_card(path: Path, found: dict[str, Any], student: Student, windows: Windows) -> None:
    """Write the card."""
    behaviors = list(windows.behaviors)
    shift = {name: float(student.weights["shift"][column]) for column, name in enumerate(student.targets)}
    text = INTRODUCTION.format(
        behaviors=", ".join(name.replace("_", " ") for name in behaviors),
        seed=student.about.get("seed"),
        windows=len(windows),
        documents=len(set(windows.group)),
        sources=len(set(windows.source)),
        shifts=", ".join(f"{name} {value:+.2f}" for name, value in shift.items()),
    )
    sections = [text, quality(found, behaviors), sources(found, behaviors), thresholds(found, behaviors), calibration(found, behaviors)]
    with atomic_file(path) as file:
        file.write("\n".join([*sections, cascade(found, behaviors)]).encode())


def quality(found: dict[str, Any], behaviors: list[str]) -> str:
    header = ["", "windows that show it", "F1 as labelled", "F1 natural", "AP as labelled", "AP natural", "Brier", "ECE"]
    header += ["F1, source left out", "F1 natural, source left out"]
    rows = []
    for name in (*behaviors, "problem", "solution"):
        one, other = found[name]["by_document"], found[name]["by_source"]
        row = [name, f"{found[name]['showing']} of {found[name]['windows']}", ranged(one["f1_labelled"]), ranged(one["f1_natural"])]
        row += [f"{one['average_precision_labelled']:.2f}", f"{one['average_precision_natural']:.2f}", f"{one['brier']:.3f}"]
        row.append(f"{found[name]['calibration']['ece']:.3f}")
        row += [f"{other[kind]['value']:.2f}" for kind in ("f1_labelled", "f1_natural")] if other else ["not measured"] * 2
        rows.append(row)
    schemes = [scheme for scheme in ("by_document", "by_source") if found[behaviors[0]][scheme]]
    means = [f"{mean_f1(found, behaviors, scheme, kind):.3f}" for scheme in schemes for kind in ("labelled", "natural")]
    mean = f"\nMean F1 of the {len(behaviors)} behaviors: {means[0]} as labelled, {means[1]} natural"
    mean += f"; with the source left out {means[2]} and {means[3]}.\n" if len(means) > 2 else ".\n"
    return "## F1 at a score of 0.5\n\n" + table(header, rows) + mean


def sources(found: dict[str, Any], behaviors: list[str]) -> str:
    rows = []
    for number, entry in enumerate(found[behaviors[0]]["sources"]):
        row = [entry["source"], str(entry["windows"])]
        for name in behaviors:
            one = found[name]["sources"][number]
            row.append(f"{one['f1']:.2f} / {left_out(one)} ({one['showing']})" if one["showing"] else "none shows it")
        rows.append(row)
    intro = "## By source\n\nF1 as labelled, cross-validated by document / with the whole source left out (windows that show it).\n\n"
    return intro + table(["source", "windows", *behaviors], rows)


def thresholds(found: dict[str, Any], behaviors: list[str]) -> str:
    lines = [
        "## Selecting: precision and recall at the natural prevalence\n\n"
        f"Goal: precision {TARGET_PRECISION:.2f} at recall {TARGET_RECALL:.2f}.\n"
    ]
    for name in behaviors:
        rows = [threshold_row(entry) for entry in found[name]["thresholds"]]
        choice = found[name]["selecting"]
        for label, entry in (("precision .90", choice["at_precision"]), ("recall .40", choice["at_recall"])):
            rows.append(
                [f"{entry['threshold']:.3f} ({label})", *threshold_row(entry)[1:]] if entry else [f"{label}: never reached", "", "", ""]
            )
        lines.append(f"### {name}\n\n" + table(["score from", "windows flagged", "precision", "recall"], rows))
    count = found[behaviors[0]]["selecting"]["labels_for_3_points"]
    lines.append(
        f"The intervals are wide because few flagged windows are random draws with a large weight. {count} gold labels of windows drawn at "
        "random from those that the student flags would bring the interval of a precision of .90 to ± .03 (`curate audit`). A threshold "
        "chosen on these windows is flattered by the choice.\n"
    )
    return "\n".join(lines)


def threshold_row(entry: dict[str, Any]) -> list[str]:
    return [f"{entry['threshold']:.2f}", str(entry["flagged"]), ranged(entry["precision"]), ranged(entry["recall"])]


def calibration(found: dict[str, Any], behaviors: list[str]) -> str:
    rows = []
    for name in behaviors:
        for entry in found[name]["calibration"]["bins"]:
            rows.append([name, f"{entry['from']:.1f}", str(entry["windows"]), f"{entry['said']:.2f}", f"{entry['shown']:.2f}"])
    intro = "## Calibration of the probabilities (natural prevalence, before the shift)\n\n"
    return intro + table(["behavior", "probability from", "windows", "said", "shown"], rows)


def cascade(found: dict[str, Any], behaviors: list[str]) -> str:
    rows = [
        [f"{entry['below']:.2f}", f"{entry['asked']:.0%}", *[f"{entry['reached'][name]:.0%}" for name in behaviors]]
        for entry in found["cascade"]
    ]
    intro = "## Cascade\n\nShare of windows that go to the language model, and of those with each behavior that are among them "
    intro += "(natural prevalence).\n\n"
    return intro + table(["--cascade-below", "asked", *behaviors], rows)


def left_out(entry: dict[str, Any]) -> str:
    return "–" if entry["f1_left_out"] is None else f"{entry['f1_left_out']:.2f}"


def ranged(entry: dict[str, float]) -> str:
    return f"{entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines) + "\n"
