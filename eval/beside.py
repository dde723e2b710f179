"""What the page of `evals report` shows beside the curves: the results of `evals compare`, and the sets of `curate match`."""

import json
from pathlib import Path
from typing import Any

from curate.records.errors import UserError
from curate.records.manifest import FILE_NAME
from eval import compare
from eval.experiment import Experiment


def comparison_of(path: Path, experiment: Experiment, how: str, last: int) -> dict[str, Any]:
    """The results of a comparison in words (`rows`), and in which ways it is not about what the page shows (`notes`).

    `path` is the output folder of `evals compare` or its summary. Raises UserError when it is neither.
    """
    path = path / compare.SUMMARY if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [row | {"text": compare.sentence(row)} for row in found["contrasts"] if row["measure"] == "end"]
        gains = {(row["a"], row["b"]): row for row in found["contrasts"] if row["measure"] == "gain" and row["low"] is not None}
        seeds = {name: condition["seeds"] for name, condition in found["conditions"].items()}
        made_how, made_last = found["how"], found["last_evaluations"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not the {compare.SUMMARY} of this version's `evals compare`; run it (again)") from None
    for row in rows:
        gain = gains.get((row["a"], row["b"])) if row["kind"] == "difference" else None
        row["gain_text"] = None if gain is None else compare.gain_sentence(gain)
    notes = []
    if (made_how, made_last) != (how, last):
        made, shown = (f"{one} evaluations, the mean of the last {number}" for one, number in ((made_how, made_last), (how, last)))
        notes.append(f"the comparisons are of {made}; the rest of this page shows {shown}")
    if seeds != {name: list(curves) for name, curves in experiment.items()}:
        notes.append("the comparisons were made of other runs than this page shows: run `evals compare` again")
    return {"rows": rows, "notes": notes}


def sets_of(path: Path) -> dict[str, Any]:
    """Balance, fidelity and manifest of a folder of sets, as far as there are any; `missing` says where fidelity was looked for in vain.

    Fidelity is written by `curate verify` in a folder of its own: the one that the sets' manifest names, or `verified` beside the sets.
    Raises UserError when the folder is not one of sets, or a file is damaged.
    """
    found: dict[str, Any] = {"path": str(path), "missing": None}
    for name in ("balance.json", FILE_NAME):
        if (path / name).is_file():
            found[name.removesuffix(".json")] = _read(path / name)
    manifest = found.get("manifest", {})
    if len(found) == 2 or manifest.get("stage", "match") != "match":
        raise UserError(f"{path} has no balance.json and no {FILE_NAME} of sets: is it the output of `curate match`?")
    beside = path.resolve().parent
    if named := manifest.get("settings", {}).get("verified"):
        # As it was given to `curate match`; or, when the whole run has moved, beside the sets (or beside those that hold `filtered/`).
        places = [Path(named), beside / Path(named).name, beside.parent / Path(named).name]
    else:
        places = [beside / "verified"]
    for place in places:
        if (place / _FIDELITY).is_file():
            return found | {"fidelity": _read(place / _FIDELITY), "verified": str(place)}
    if named:
        found["missing"] = f"no {_FIDELITY} in {named}, which the sets of {path} name, nor beside them: has `curate verify` finished?"
    return found


_FIDELITY = "fidelity.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object")
    return found
