"""`curate calibrate` as a command: labels and gold labels in, labels with calibrated probabilities out."""

import dataclasses
import time
from typing import Any

import polars as pl

from curate.calibration import CalibrateSettings, Curve, best_windows, calibrate_behavior, calibrated, warnings
from curate.gold import read_gold
from curate.prevalence import match_gold
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import Manifest, json_sha256, read_manifest
from curate.records.parts import write_part
from curate.records.settings import to_dict
from pipelines.frequencies import gold_files
from pipelines.stage import read_table, refuse_other


def calibrate(settings: CalibrateSettings) -> Manifest:
    """Turn scores into probabilities of documents, by gold labels of documents (of an audit, or a file).

    For each behavior a curve on the score of the best window and the number of windows is fitted, and judged on documents that it has not
    seen. The output is a label folder like that of `curate classify`, which every later stage reads; its manifest has the curves.
    """
    started = time.monotonic()
    out = require(settings.out, "out", "the folder to write to")
    folder = require(settings.labels, "labels", "the output of `curate classify`")
    gold_path = require(settings.gold, "gold", "gold labels: the folder of `curate audit`, or a file")
    manifest = read_manifest(folder)
    if manifest.settings.get("preset") or manifest.settings.get("mode") == "rationale":
        raise UserError(f"the labels in {folder} are a judge's yes and no: only the probabilities of mode score can be calibrated")
    if "calibration" in manifest.notes:
        raise UserError(f"{folder} is calibrated already; calibrate the labels that it was made of")
    labels, files = read_table(folder, "classify")
    behaviors = schemas.behaviors_in(labels.to_arrow().schema)
    gold = read_gold(gold_path, behaviors)
    if out.resolve() == folder.resolve():
        raise UserError("--out must be another folder than --labels: both are kept")
    hashed = to_dict(settings, hashed_only=True) | {"inputs": sorted(file.sha256 for file in [*files, *gold_files(gold_path)])}
    refuse_other(out, "classify", hashed)
    curves: dict[str, Curve] = {}
    abouts = []
    for name in behaviors:
        table = labels.with_columns(best_windows(labels, name))
        curve, about = calibrate_behavior(name, match_gold(gold, table, behaviors, ("best", "num_windows")), settings.seed)
        abouts.append(about)
        if curve is not None:
            curves[name] = curve
    if not curves:
        raise UserError(f"nothing can be calibrated: {'; '.join(warnings(abouts))}")
    table = calibrated(labels, curves).to_arrow().cast(schemas.labels(behaviors, "cascade" in labels.columns))
    write_part(out / "parts" / "part.parquet", table, {"stage": "classify", "settings_hash": json_sha256(hashed)})
    show(abouts)
    notes = {**manifest.notes, "calibration": abouts, "calibrated_from": str(folder), "hashed": hashed}
    # a curve gives a probability: what the student had added to its log-odds is gone
    notes["score_shift"] = {name: added for name, added in manifest.notes.get("score_shift", {}).items() if name not in curves}
    notes["warnings"] = [*manifest.notes.get("warnings", []), *warnings(abouts)]
    for line in warnings(abouts):
        print(f"warning: {line}")
    made = dataclasses.replace(manifest, notes=notes, seconds=round(manifest.seconds + time.monotonic() - started, 3))
    made.write(out)
    return made


def show(abouts: list[dict[str, Any]]) -> None:
    """The table for a terminal."""
    columns = ("gold", "positive", "true", "said_before", "said", "log_loss_before", "log_loss")
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, tbl_width_chars=140, float_precision=3, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True
    ):
        print(pl.DataFrame([{"behavior": about["behavior"], **{key: about.get(key) for key in columns}} for about in abouts]))
    print("said, log_loss: of curves on documents they were not fitted to")
