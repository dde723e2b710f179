"""`curate adopt`: rewrites that were made elsewhere become the folder that `verify` and `match` read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.arms import ARM_DESIGNS
from curate.parsing import is_blank
from curate.records.errors import UserError
from curate.records.manifest import InputFile
from curate.records.settings import did_you_mean, option
from curate.rewriting import ARMS, CARRYING_CELLS

SHOWN = 0.5  # share of annotators, or probability, from which a behavior counts as shown
KNOWN_CELLS = tuple(dict.fromkeys(cell for kind in ARMS for cell in ARM_DESIGNS[kind].cells))
OF_ROW = ("file_sha256", "source_file", "source_row", "id", "source", "url", "license", "prompt_hash", "model", "revision")


@dataclass(frozen=True)
class AdoptSettings:
    """Which table is adopted, and how its columns are read."""

    table: Path | None = option(
        None,
        "Parquet or JSONL: cell, question, thoughts, answer, --pair-key; and where known injected or target (lists of behaviors), "
        "source_NAME and NAME (does the source, does the rewrite show this behavior), source, license, url.",
        hashed=False,
    )
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    arms: str | None = option(None, "Arms that the cells belong to (default: those whose cells the table has).", choices=ARMS)
    pair_key: str = option("pair_id", "Column that is the same in all versions of one document.")
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors.")


@dataclass(frozen=True)
class Adopted:
    """Rows of the qa table with `source_<b>_score` and `gold_<b>`, the arms they are for, rows left out by reason, and notes."""

    rows: list[dict[str, Any]]
    arms: str
    dropped: dict[str, int]
    notes: list[str]


def adopt_rows(values: Iterable[tuple[int, dict[str, Any]]], file: InputFile, behaviors: Sequence[str], settings: AdoptSettings) -> Adopted:
    """Read (row number, values) of a table of rewrites.

    A row that cannot be used keeps its identity and says why in `error`; rows of cells that the arms do not have are left out and
    counted. Raises UserError for a missing column or a cell that does not exist.
    """
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for number, found in values:
        for column in ("cell", settings.pair_key, "question", "thoughts", "answer"):
            if column not in found:
                have = ", ".join(sorted(found))
                hint = " (--pair-key names it)" if column == settings.pair_key else did_you_mean(column, found)
                raise UserError(f"{file.path}, row {number}: no column {column!r}{hint}; it has {have}")
        cell, pair = str(found["cell"]), str(found[settings.pair_key])
        if cell not in KNOWN_CELLS:
            known = ", ".join(KNOWN_CELLS)
            raise UserError(f"{file.path}, row {number}: unknown cell {cell!r}{did_you_mean(cell, KNOWN_CELLS)}; cells are {known}")
        rows.append({"cell": cell, "pair_id": pair, **adopted_row(number, found, file, behaviors)})
        if (pair, cell) in seen:
            rows[-1]["error"] = f"the pair has two rows of the cell {cell}"
        seen.add((pair, cell))
    cells = {row["cell"] for row in rows}
    arms = settings.arms or next((kind for kind in ARMS if cells <= set(ARM_DESIGNS[kind].cells)), "2x2")
    wanted = ARM_DESIGNS[arms].cells
    if empty := [cell for cell in wanted if cell not in cells]:
        raise UserError(f"{file.path} has no row of the cell {empty[0]}, which the arms {arms} need; it has {', '.join(sorted(cells))}")
    kept = [row for row in rows if row["cell"] in wanted]
    dropped = {f"not wanted by the arms {arms}": len(rows) - len(kept)} if len(kept) < len(rows) else {}
    return Adopted(kept, arms, dropped, missing_sides(kept, arms))


def adopted_row(number: int, found: dict[str, Any], file: InputFile, behaviors: Sequence[str]) -> dict[str, Any]:
    """One row: its identity is the corpus's where the table has it, else its own place in the table."""
    own = found.get("file_sha256") is not None and found.get("source_row") is not None
    identity = {key: found.get(key) for key in OF_ROW}
    if not own:
        identity |= {"file_sha256": file.sha256, "source_file": file.path, "source_row": number}
    identity["source"] = identity["source"] or file.path
    texts = {key: found[key] if isinstance(found[key], str) else "" for key in ("question", "thoughts", "answer")}
    blank = [key for key, text in texts.items() if is_blank(text)]
    before = {name: found.get(f"source_{name}") for name in behaviors}
    gold = {name: found.get(name) for name in behaviors}
    return {
        **identity,
        **texts,
        "target": target_of(str(found["cell"]), found, before),
        "attempts": 0,
        "error": f"{blank[0]} is empty" if blank else found.get("error"),
        **{f"source_{name}_score": None if value is None else float(value) for name, value in before.items()},
        **{f"gold_{name}": None if value is None else value >= SHOWN for name, value in gold.items()},
    }


def target_of(cell: str, found: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The behaviors that a rewrite should show: as the table says, else what was injected, else what its source shows."""
    if found.get("target") is not None:
        return list(found["target"])
    if cell not in CARRYING_CELLS:
        return []
    if cell == "free_injected":
        return list(found.get("injected") or ())
    return [name for name, value in before.items() if value is not None and value >= SHOWN]


def missing_sides(rows: Sequence[dict[str, Any]], arms: str) -> list[str]:
    """What to say of documents that lack one of their versions; `match` leaves such pairs out."""
    notes = []
    for family in ARM_DESIGNS[arms].families:
        pairs = [{row["pair_id"] for row in rows if row["cell"] == cell} for cell in family]
        lonely = set.union(*pairs) - set.intersection(*pairs)
        if lonely:
            notes.append(f"{len(lonely)} of {len(set.union(*pairs))} documents lack one of {', '.join(family)}; match leaves them out")
    return notes
