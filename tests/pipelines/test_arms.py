"""Sets of `curate match` beyond the plain ones: four arms, doses, filtered sets beside the primary ones, shards."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from curate.arms import ARM_DESIGNS
from curate.matching import MatchSettings
from curate.records import schemas
from curate.records.errors import UserError
from curate.records.manifest import Manifest, read_manifest
from curate.records.parts import write_json, write_part
from pipelines.match import match
from tests.helpers import conserved, embedded_model, rows_of
from tests.pipelines.test_match_command import made, thoughts

CELLS = {"selected": ("selected", "selected_stripped"), "free": ("free", "free_injected")}


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return str(embedded_model())


def versions(count: int, kinds: tuple[str, ...] = ("selected", "free")) -> list[dict[str, Any]]:
    """`count` documents of each kind, twice each, at nearly the same length."""
    generator = random.Random(7)
    rows = []
    for number in range(count * len(kinds)):
        size = generator.randint(40, 90)
        cells = CELLS[kinds[number % len(kinds)]]
        for cell, length in zip(cells, (size, round(size * generator.uniform(0.93, 1.07))), strict=True):
            target = ["a"] if cell in ("selected", "free_injected") else []
            text = {"question": f"What is {number}?", "thoughts": thoughts(length, generator), "answer": str(number)}
            rows.append({"source_row": number, "cell": cell, "target": target, **text})
    return rows


def judge(folder: Path, qa: Path, wrong: set[tuple[str, str]] = frozenset(), threshold: float = 0.5) -> Path:  # type: ignore[assignment]
    """A folder as verify leaves it: every rewrite shows its target, but for the (pair, cell) in `wrong`, which show the opposite."""
    labels = [
        {
            **{key: row[key] for key in ("file_sha256", "source_file", "source_row", "pair_id", "cell", "target")},
            "a_score": 0.9 if ("a" in row["target"]) != ((row["pair_id"], row["cell"]) in wrong) else 0.1,
            "evidence": [],
        }
        for row in rows_of(qa)
    ]
    extra = [pa.field("pair_id", pa.string()), pa.field("cell", pa.string()), pa.field("target", pa.list_(pa.string()))]
    table = pa.Table.from_pylist(labels, schema=pa.schema([*schemas.labels(["a"]), *extra]))
    write_part(folder / "parts" / "0.parquet", table, {})
    Manifest(stage="verify", settings={}, rows_in=len(labels), rows_out=len(labels)).write(folder)
    write_json(folder / "fidelity.json", {"thresholds": {"a": threshold}, "rows": []})
    return folder


def test_four_arms_are_equal_and_name_their_cells(tmp_path: Path, tokenizer: str) -> None:
    qa = made(tmp_path, versions(20), arms="2x2")
    manifest = match(MatchSettings(qa=qa, out=tmp_path / "sets", budget_tokens=1400, tokenizer=tokenizer, tolerance=0.02, caliper=5.0))
    design = ARM_DESIGNS["2x2"]
    arms = {arm: rows_of(tmp_path / "sets" / arm) for arm in design.arms}
    assert len({len(rows) for rows in arms.values()}) == 1 and len(arms["free"]) > 3
    assert max(manifest.tokens.values()) <= min(manifest.tokens.values()) * 1.021 and list(manifest.tokens) == list(design.arms)
    for family in CELLS.values():
        one, other = (arms[arm] for arm in family)
        assert [row["pair_id"] for row in one] == [row["pair_id"] for row in other]
        assert [row["question"] for row in one] == [row["question"] for row in other]
    assert all({row["cell"] for row in rows} == {arm} for arm, rows in arms.items())
    for arm in arms:
        conserved(tmp_path / "sets" / arm)


@pytest.mark.parametrize(("arms", "carrying"), [("pairs", ["enriched"]), ("2x2", ["selected", "free_injected"])])
def test_a_dose_is_exact_and_the_rest_are_the_siblings(tmp_path: Path, tokenizer: str, arms: str, carrying: list[str]) -> None:
    qa = made(tmp_path, versions(22, ("selected",) if arms == "pairs" else ("selected", "free")), arms=arms)
    settings = {"qa": qa, "budget_tokens": 1400, "tokenizer": tokenizer, "tolerance": 0.02, "caliper": 5.0}
    manifest = match(MatchSettings(out=tmp_path / "sets", dose=0.2, **settings))
    full = match(MatchSettings(out=tmp_path / "full", **settings))
    examples = manifest.notes["examples_per_arm"]
    exact = int(0.2 * examples + 0.5)
    assert manifest.notes["carriers"] == dict.fromkeys(carrying, exact) and manifest.notes["dose"] == 0.2
    assert full.notes["carriers"] == dict.fromkeys(carrying, full.notes["examples_per_arm"])
    assert max(manifest.tokens.values()) <= min(manifest.tokens.values()) * 1.021 and max(manifest.tokens.values()) <= 1400
    design = ARM_DESIGNS[arms]
    for arm in carrying:
        family = next(cells for cells in design.families if design.cells[design.arms.index(arm)] in cells)
        cell = design.cells[design.arms.index(arm)]
        sibling = design.arms[design.cells.index(next(other for other in family if other != cell))]
        rows, others = rows_of(tmp_path / "sets" / arm), rows_of(tmp_path / "sets" / sibling)
        assert sum(row["cell"] == cell for row in rows) == exact
        for row, other in zip(rows, others, strict=True):
            assert row["pair_id"] == other["pair_id"] and (row["cell"] == cell or row["completion"] == other["completion"])
    again = match(MatchSettings(out=tmp_path / "again", dose=0.2, **settings))
    assert again.tokens == manifest.tokens
    assert all(rows_of(tmp_path / "again" / arm) == rows_of(tmp_path / "sets" / arm) for arm in design.arms)


def test_unfiltered_sets_are_primary_and_filtered_ones_lie_beside_them(tmp_path: Path, tokenizer: str) -> None:
    qa = made(tmp_path, versions(12, ("selected",)))
    wrong = {(f"{0:016x}", "selected"), (f"{3:016x}", "selected_stripped"), (f"{3:016x}", "selected")}
    verified = judge(tmp_path / "verified", qa, wrong)
    settings = MatchSettings(qa=qa, verified=verified, out=tmp_path / "sets", budget_tokens=10**6, tokenizer=tokenizer, tolerance=1.0)
    manifest = match(settings)
    assert manifest.notes["filtered"] == "10 examples an arm in filtered/"
    assert {row["source_row"] for row in rows_of(tmp_path / "sets" / "enriched")} == set(range(12))
    for arm in ("enriched", "control"):
        assert {row["source_row"] for row in rows_of(tmp_path / "sets" / "filtered" / arm)} == set(range(12)) - {0, 3}
        conserved(tmp_path / "sets" / "filtered" / arm)
    filtered = read_manifest(tmp_path / "sets" / "filtered")
    assert filtered.dropped == {"does not show what it should, by the judge": 3, "sibling missing": 1}
    assert "does not show what it should, by the judge" not in manifest.dropped
    assert json.loads((tmp_path / "sets" / "filtered" / "balance.json").read_text())["examples"] == 10


@pytest.mark.parametrize("changed", ["labels", "thresholds", "candidates", "evaluation", "tokenizer"])
def test_nothing_that_the_sets_depend_on_changes_unnoticed(tmp_path: Path, tokenizer: str, changed: str) -> None:
    """The second match is refused and leaves the first as it was."""
    qa = made(tmp_path, versions(12, ("selected",)))
    verified = judge(tmp_path / "verified", qa)
    (tmp_path / "evaluation.txt").write_text("a problem of twelve words that nobody here has ever written down before\n")
    own = shutil.copytree(tokenizer, tmp_path / "tokenizer")
    settings = MatchSettings(
        **{"qa": qa, "verified": verified, "out": tmp_path / "sets", "budget_tokens": 10**6, "tokenizer": str(own), "tolerance": 1.0},
        decontaminate=(str(tmp_path / "evaluation.txt"),),
    )
    match(settings)
    before = {path: path.read_bytes() for path in (tmp_path / "sets").rglob("*.*") if path.is_file()}
    match(settings)  # with everything as it was: the same again
    if changed == "labels":
        judge(verified, qa, {(f"{0:016x}", "selected")})
    elif changed == "thresholds":
        judge(verified, qa, threshold=0.95)
    elif changed == "evaluation":
        (tmp_path / "evaluation.txt").write_text("another problem of twelve words that nobody here has ever written down\n")
    elif changed == "tokenizer":
        path = own / "tokenizer.json"
        table = json.loads(path.read_text())
        path.write_text(json.dumps({**table, "normalizer": {"type": "Lowercase"}}))
    else:
        part = next((tmp_path / "candidates" / "parts").glob("*.parquet"))
        frame = pl.read_parquet(part).with_columns(pl.col("notation_density") + 0.1)
        write_part(part, frame.to_arrow().cast(schemas.candidates(["a"])), {})
    with pytest.raises(UserError, match="was made with other settings"):
        match(settings)
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if path.suffix == ".parquet" and before[path] != after[path]} == set()
    assert read_manifest(tmp_path / "sets" / "enriched").notes["hashed"]["thresholds"] == {"a": 0.5}


def test_when_nothing_passes_the_judge_the_primary_sets_are_still_made(
    tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    qa = made(tmp_path, versions(5, ("selected",)))
    verified = judge(tmp_path / "verified", qa, {(f"{number:016x}", "selected") for number in range(5)})
    manifest = match(
        MatchSettings(qa=qa, verified=verified, out=tmp_path / "sets", budget_tokens=10**6, tokenizer=tokenizer, tolerance=1.0)
    )
    assert manifest.notes["examples_per_arm"] == 5 and not (tmp_path / "sets" / "filtered").exists()
    assert "no filtered sets: no pair can be made" in capsys.readouterr().out and manifest.notes["filtered"].startswith("none: no pair")


def test_a_cell_without_a_usable_rewrite_is_named(tmp_path: Path, tokenizer: str) -> None:
    rows = [row | ({"error": "inject: empty <thoughts>"} if row["cell"] == "free_injected" else {}) for row in versions(6)]
    with pytest.raises(UserError, match=r"no usable rewrite in the cell free_injected: all 6 have an error"):
        match(MatchSettings(qa=made(tmp_path, rows, arms="2x2"), out=tmp_path / "sets", budget_tokens=10**6, tokenizer=tokenizer))


def test_shards_hold_what_one_file_would_and_leave_none_of_an_earlier_cut(tmp_path: Path, tokenizer: str) -> None:
    qa = made(tmp_path, versions(10, ("selected",)))
    settings = {"qa": qa, "budget_tokens": 10**6, "tokenizer": tokenizer, "tolerance": 1.0}
    match(MatchSettings(out=tmp_path / "one", **settings))
    match(MatchSettings(out=tmp_path / "many", shard_rows=3, **settings))
    parts = sorted((tmp_path / "many" / "control" / "parts").glob("*"))
    assert [path.name for path in parts] == [f"part-{number:05d}-of-00004.parquet" for number in range(4)]
    assert max(pl.read_parquet(path).height for path in parts) == 3
    assert rows_of(tmp_path / "many" / "control") == rows_of(tmp_path / "one" / "control")
