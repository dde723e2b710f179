"""`curate distill`: labelled windows in, a student with its figures and its card out."""

import importlib.metadata
import time

from curate.behaviors import load_behaviors
from curate.records.command import require
from curate.records.manifest import Manifest
from curate.records.parts import write_json
from curate.records.settings import to_dict
from curate.student.settings import DistillSettings
from pipelines.stage import refuse_other

FIGURES_FILE = "figures.json"
CARD_FILE = "CARD.md"


def distill(settings: DistillSettings) -> Manifest:
    """Make a student of labelled windows: a classifier on the CPU that gives one calibrated probability a behavior.

    The output folder holds `student.safetensors`, which `--student` takes, `figures.json` and `CARD.md`: F1, average precision,
    calibration, and precision and recall by threshold, cross-validated by document and with each source left out. The same windows and
    seed give the same student.
    """
    from curate.student import distillation, evaluation
    from curate.student.card import write_card
    from curate.student.model import FILE_NAME
    from curate.student.tables import labelled_windows, read_windows

    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    names = [behavior.name for behavior in load_behaviors(settings.behaviors)]
    frame, files = read_windows(settings, names)
    hashed = {**to_dict(settings, hashed_only=True), "inputs": sorted(file.sha256 for file in files)}
    refuse_other(out, "distill", hashed)
    windows = labelled_windows(frame, names)
    print(f"{len(windows)} windows, {len(windows.sentences.text_of)} sentences", flush=True)
    about = {"version": importlib.metadata.version("fourhabits"), "seed": settings.seed, "windows": len(windows)}
    student = distillation.distill(windows, settings.folds, settings.seed, about)
    student.save(out / FILE_NAME)
    print(f"{out / FILE_NAME} is written", flush=True)
    notes = {"behaviors": names, "hashed": hashed}
    if settings.evaluate != "none":
        scores: list[evaluation.Scores] = []
        for what in ("document", "source")[: 1 + (settings.evaluate == "source")]:
            scores.append(evaluation.cross_validated(windows, what, settings.folds, settings.seed))
            found = evaluation.figures(windows, scores, settings.seed)
            write_json(out / FIGURES_FILE, found)
            write_card(out / CARD_FILE, found, student, windows)
        for name in names:
            row = found[name]["by_document"]
            print(f"{name}: F1 {row['f1_labelled']['value']:.2f} as labelled, {row['f1_natural']['value']:.2f} at the natural prevalence")
    manifest = Manifest(
        stage="distill",
        settings=to_dict(settings),
        inputs=files,
        rows_in=frame.height,
        rows_out=frame.height,
        seed=settings.seed,
        seconds=round(time.monotonic() - started, 3),
        notes=notes,
    )
    manifest.write(out)
    return manifest
