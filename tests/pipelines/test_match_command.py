"""The two sets: equal in examples and in tokens, whole pairs only, every row that is left out counted, the same for the same seed."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from curate.matching import MatchSettings, load_tokenizer
from curate.records import schemas
from curate.records.errors import UserError
from curate.records.manifest import Manifest, read_manifest
from curate.records.parts import write_part
from curate.selection import SelectSettings
from pipelines.match import match
from pipelines.stage import part_files, write_table
from tests.helpers import conserved, embedded_model, rows_of

WORDS = ["sum", "prime", "factor", "of", "the", "x", "we", "then", "so", "by", "is", "equal", "to", "two", "three", "four", "root", "line"]


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return str(embedded_model())


def thoughts(count: int, generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=count))


def made(tmp_path: Path, rows: list[dict[str, Any]], arms: str = "pairs", parts: int = 1, engine: str = "vllm") -> Path:
    """Folders as select and rewrite leave them, for QA rows that name their source by `source_row`."""
    generator = random.Random(1)
    sources = sorted({row["source_row"] for row in rows})
    identity = {"file_sha256": "f" * 64, "source_file": "f.jsonl", "source": "made", "license": "CC0", "url": None}
    candidates = [
        {
            **identity,
            "source_row": number,
            "id": str(number),
            "num_chars": 300 + number,
            "num_windows": 1,
            "notation_density": 0.1,
            "a_score": 0.9,
        }
        for number in sources
    ]
    table = pa.Table.from_pylist(candidates, schema=schemas.candidates(["a"]))
    write_table(tmp_path / "candidates", "select", SelectSettings(), table, [], len(sources), {}, 0.0)
    qa = tmp_path / "qa"
    generator.shuffle(rows)
    filled = [{**identity, "id": None, "pair_id": f"{row['source_row']:016x}", "attempts": 1, **row} for row in rows]
    for number in range(parts):
        write_part(
            qa / "parts" / f"{number}.parquet", pa.Table.from_pylist(filled[number::parts], schema=schemas.QA), {"settings_hash": "h"}
        )
    inputs = part_files(tmp_path / "candidates")
    Manifest(stage="rewrite", settings={"arms": arms}, inputs=inputs, rows_in=len(rows), rows_out=len(rows), engine=engine).write(qa)
    return qa


def pair_rows(count: int, seed: int = 0, bias: float = 1.0) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        size = generator.randint(40, 200)
        other = round(size * bias * generator.uniform(0.93, 1.07))
        for cell, length in (("selected", size), ("selected_stripped", other)):
            text = {"question": f"What is {number}?", "thoughts": thoughts(length, generator), "answer": str(number)}
            rows.append({"source_row": number, "cell": cell, **text})
    return rows


def sets(folder: Path) -> list[list[dict[str, Any]]]:
    return [rows_of(folder / arm) for arm in ("enriched", "control")]


@pytest.mark.parametrize(("budget", "bias"), [(8000, 1.0), (8000, 0.97), (1_000_000, 1.0)])
def test_the_arms_hold_the_same_examples_and_tokens_within_a_thousandth(tmp_path: Path, tokenizer: str, budget: int, bias: float) -> None:
    qa = made(tmp_path, pair_rows(120, bias=bias))
    match(MatchSettings(qa=qa, out=tmp_path / "sets", budget_tokens=budget, tokenizer=tokenizer))
    enriched, control = sets(tmp_path / "sets")
    assert [row["pair_id"] for row in enriched] == [row["pair_id"] for row in control]
    assert {row["cell"] for row in enriched} == {"selected"} and {row["cell"] for row in control} == {"selected_stripped"}
    tokens = [sum(row["num_loss_tokens"] for row in arm) for arm in (enriched, control)]
    assert abs(tokens[0] - tokens[1]) <= 0.001 * max(tokens) and max(tokens) <= budget
    if budget == 8000:
        assert min(tokens) >= 0.96 * budget
    manifest = conserved(tmp_path / "sets" / "enriched")
    conserved(tmp_path / "sets" / "control")
    both = read_manifest(tmp_path / "sets")
    both.check()
    assert both.tokens == {"enriched": tokens[0], "control": tokens[1]} and manifest.notes["num_loss_tokens"] == tokens[0]
    balance = json.loads((tmp_path / "sets" / "balance.json").read_text())
    assert balance["examples"] == len(enriched) and balance["tokens"] == both.tokens


def test_tokens_are_those_of_the_completion_and_one_end_of_text(tmp_path: Path, tokenizer: str) -> None:
    qa = made(tmp_path, pair_rows(6))
    loaded = load_tokenizer(tokenizer)
    match(MatchSettings(qa=qa, out=tmp_path / "completion", budget_tokens=10_000, tokenizer=tokenizer))
    match(MatchSettings(qa=qa, out=tmp_path / "all", budget_tokens=10_000, tokenizer=tokenizer, count="all"))
    for row in rows_of(tmp_path / "completion" / "control"):
        assert row["completion"] == f"\n{row['thoughts']}\n</think>\n<answer>{row['answer']}</answer>"
        assert row["question"] in row["prompt"]
        assert row["num_loss_tokens"] == len(loaded.encode(row["completion"], add_special_tokens=False)) + 1
    for row in rows_of(tmp_path / "all" / "control"):
        assert row["num_loss_tokens"] == sum(len(loaded.encode(row[key], add_special_tokens=False)) for key in ("prompt", "completion")) + 1


def test_pairs_that_are_not_whole_leave_both_arms_and_are_counted(tmp_path: Path, tokenizer: str) -> None:
    rows = pair_rows(10)
    generator = random.Random(3)
    rows = [row for row in rows if not (row["source_row"] == 0 and row["cell"] == "selected")]
    for row in rows:
        if row["source_row"] == 1 and row["cell"] == "selected_stripped":
            row |= {"error": "strip: missing <thoughts>", "thoughts": None}
        if row["source_row"] == 2:
            row["thoughts"] = thoughts(100 if row["cell"] == "selected" else 111, generator)
        if row["source_row"] == 3:
            row["thoughts"] = thoughts(100 if row["cell"] == "selected" else 110, generator)
    match(MatchSettings(qa=made(tmp_path, rows), out=tmp_path / "sets", budget_tokens=10_000, tokenizer=tokenizer, tolerance=1.0))
    manifest = read_manifest(tmp_path / "sets")
    assert manifest.dropped == {"rewrite error": 1, "sibling missing": 2, "length outside": 2}
    kept = [{row["source_row"] for row in arm} for arm in sets(tmp_path / "sets")]
    assert kept[0] == kept[1] == set(range(3, 10))


def test_the_same_seed_gives_the_same_sets_whatever_the_order_of_files(tmp_path: Path, tokenizer: str) -> None:
    outputs = []
    for name, parts, seed in (("a", 1, 0), ("b", 5, 0), ("c", 1, 1)):
        rows = pair_rows(60)
        random.Random(name).shuffle(rows)
        folder = tmp_path / name
        match(MatchSettings(qa=made(folder, rows, parts=parts), out=folder / "sets", budget_tokens=3000, tokenizer=tokenizer, seed=seed))
        outputs.append(sets(folder / "sets"))
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_shortfall_is_said_and_stands_in_the_manifest(tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = match(MatchSettings(qa=made(tmp_path, pair_rows(10)), out=tmp_path / "sets", budget_tokens=1_000_000, tokenizer=tokenizer))
    warning = manifest.notes["warnings"][0]
    assert warning in capsys.readouterr().out
    assert (
        "examples each" in warning
        and "of the budget of 1,000,000: 998,849 are missing; about" in warning
        and "usable pairs would fill it" in warning
    )


def test_arms_that_cannot_be_evened_are_said_to_be_uneven(tmp_path: Path, tokenizer: str) -> None:
    manifest = match(
        MatchSettings(qa=made(tmp_path, pair_rows(1, bias=0.95)), out=tmp_path / "sets", budget_tokens=300, tokenizer=tokenizer)
    )
    assert any("more than --tolerance 0.10%: too few pairs to even them out" in warning for warning in manifest.notes["warnings"])


def test_arms_of_different_documents_are_paired_inside_strata(tmp_path: Path, tokenizer: str) -> None:
    generator = random.Random(0)
    rows = [
        {
            "source_row": number,
            "cell": "paper_enriched" if number % 3 else "paper_control",
            "question": "q",
            "thoughts": thoughts(generator.randint(40, 80), generator),
            "answer": "a",
        }
        for number in range(60)
    ]
    match(MatchSettings(qa=made(tmp_path, rows, arms="paper"), out=tmp_path / "sets", budget_tokens=100_000, tokenizer=tokenizer))
    enriched, control = sets(tmp_path / "sets")
    assert 15 <= len(enriched) == len(control) <= 20
    manifest = read_manifest(tmp_path / "sets")
    assert manifest.dropped["not needed: the other arm has fewer alike (paper_enriched)"] == 20
    assert manifest.notes["matching"]["pairs"] == 20
    assert [row["block_id"] for row in enriched] == [row["block_id"] for row in control] == [row["pair_id"] for row in enriched]
    assert {row["cell"] for row in control} == {"paper_control"}


@pytest.mark.parametrize(
    ("rows", "budget", "message"),
    [
        ([{**row, "error": "frame: broken"} for row in pair_rows(3)], 1000, "no rewrite in .* is usable: 6 rows, all with an error"),
        ([row for row in pair_rows(3) if row["cell"] == "selected"], 1000, r"no pair can be made of the 3 rewrites \(3 sibling missing\)"),
        (pair_rows(3), 5, r"no pair fits into --budget-tokens 5: the shortest has \d+ tokens"),
    ],
)
def test_an_empty_arm_is_one_line_with_the_reason(
    tmp_path: Path, tokenizer: str, rows: list[dict[str, Any]], budget: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        match(MatchSettings(qa=made(tmp_path, rows), out=tmp_path / "sets", budget_tokens=budget, tokenizer=tokenizer))
    assert not (tmp_path / "sets").exists()


def test_labels_of_the_rewrites_join_their_rows(tmp_path: Path, tokenizer: str) -> None:
    qa = made(tmp_path, pair_rows(5))
    labels = [
        {
            "file_sha256": "f" * 64,
            "source_file": "f",
            "source_row": row["source_row"],
            "pair_id": row["pair_id"],
            "cell": row["cell"],
            "a_score": score,
        }
        for row in rows_of(qa)
        for score in [0.8 if row["cell"] == "selected" else 0.1]
    ]
    schema = pa.schema([*schemas.labels(["a"]), pa.field("pair_id", pa.string()), pa.field("cell", pa.string())])
    write_part(tmp_path / "verified" / "parts" / "0.parquet", pa.Table.from_pylist(labels, schema=schema), {})
    Manifest(stage="verify", settings={}, rows_in=10, rows_out=10).write(tmp_path / "verified")
    settings = MatchSettings(qa=qa, verified=tmp_path / "verified", out=tmp_path / "sets", budget_tokens=10_000, tokenizer=tokenizer)
    match(settings)
    for arm, score in zip(sets(tmp_path / "sets"), (0.8, 0.1), strict=True):
        assert pl.DataFrame(arm)["rewrite_a_score"].to_list() == pytest.approx([score] * len(arm))
        assert pl.DataFrame(arm)["source_a_score"].to_list() == pytest.approx([0.9] * len(arm))
