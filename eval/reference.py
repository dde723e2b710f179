"""The study's published curves (CSV files with condition, step, accuracy, mean counts), to be drawn beside one's own."""

import csv
from pathlib import Path

from curate.records.errors import UserError

COLUMNS = {
    "accuracy": "accuracy",
    "tokens": "response_length",
    "verification": "avg_verifications",
    "backtracking": "avg_backtracking",
    "subgoal_setting": "avg_subgoals",
    "backward_chaining": "avg_backwards",
}
Reference = dict[str, dict[str, list[tuple[float, float]]]]


def read_reference(folder: Path) -> Reference:
    """Measure → `file: condition` → points (step, value) in order of steps. Files without `condition` and `step` are passed over.

    Raises UserError when no file can be used.
    """
    found: Reference = {measure: {} for measure in COLUMNS}
    used = 0
    for path in sorted(folder.glob("*.csv")):
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"cannot read {path}: {error}") from None
        if not rows or not {"condition", "step"} <= set(rows[0]):
            continue
        used += 1
        for measure, column in COLUMNS.items():
            if column not in rows[0]:
                continue
            for row in rows:
                try:
                    point = (float(row["step"]), float(row[column]))
                except (TypeError, ValueError):
                    continue
                found[measure].setdefault(f"{path.stem.removesuffix('_results')}: {row['condition']}", []).append(point)
    if not used:
        raise UserError(f"{folder} has no CSV file with columns condition and step; the study's results/ folder is meant")
    for lines in found.values():
        for points in lines.values():
            points.sort()
    return found
