"""Every row belongs to exactly one chunk, whatever the chunking; a folder takes only the work that it was begun for."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.records.errors import UserError
from curate.records.manifest import InputFile
from curate.records.parts import write_part
from pipelines.ledger import Chunk, Ledger, load_ledger, make_chunks, sum_footers
from pipelines.stage import part_files

FILES = st.lists(st.integers(0, 60), min_size=1, max_size=6).map(
    lambda counts: [InputFile(f"f{number}.parquet", f"{number}" * 64, rows) for number, rows in enumerate(counts)]
)
SIZES = st.integers(1, 25)


def covered(chunks: list[Chunk]) -> list[tuple[str, int]]:
    return [(chunk.file.path, row) for chunk in chunks for start, end in chunk.ranges() for row in range(start, end)]


def all_rows(files: list[InputFile]) -> list[tuple[str, int]]:
    return [(file.path, row) for file in files for row in range(file.rows)]


@given(FILES, SIZES)
def test_every_row_is_in_one_chunk(files: list[InputFile], chunk_rows: int) -> None:
    chunks = make_chunks(files, chunk_rows)
    assert covered(chunks) == all_rows(files)
    assert all(0 < chunk.num_rows <= chunk_rows for chunk in chunks)
    assert len({chunk.name for chunk in chunks}) == len(chunks)


@given(FILES, SIZES, st.integers(1, 200))
def test_a_limit_keeps_the_first_rows(files: list[InputFile], chunk_rows: int, limit: int) -> None:
    assert covered(make_chunks(files, chunk_rows, limit=limit)) == all_rows(files)[:limit]


@given(FILES, SIZES, SIZES, st.integers(1, 200), st.integers(0, 5))
def test_a_sample_is_the_same_rows_for_any_chunking(files: list[InputFile], chunk_rows: int, other: int, sample: int, seed: int) -> None:
    rows = covered(make_chunks(files, chunk_rows, sample=sample, seed=seed))
    assert rows == covered(make_chunks(files, other, sample=sample, seed=seed))
    assert len(rows) == len(set(rows)) == min(sample, sum(file.rows for file in files))
    assert set(rows) <= set(all_rows(files))


def test_another_seed_draws_another_sample_and_limit_and_sample_exclude_each_other() -> None:
    files = [InputFile("a", "0" * 64, 1000)]
    assert covered(make_chunks(files, 10, sample=20, seed=0)) != covered(make_chunks(files, 10, sample=20, seed=1))
    with pytest.raises(UserError, match="exclude each other"):
        make_chunks(files, 10, limit=1, sample=1)


def test_hub_files_without_an_lfs_hash_have_chunks_of_their_own() -> None:
    files = [InputFile(f"{name}.parquet", f"{name * 40}:{'c' * 40}", 5) for name in "ab"]  # blob : commit
    assert len({chunk.name for chunk in make_chunks(files, 5)}) == 2


def ledger(folder: Path, rows: tuple[int, ...] = (5, 5), settings: dict | None = None) -> Ledger:
    files = [InputFile(f"f{number}", f"{number}" * 64, count) for number, count in enumerate(rows)]
    return Ledger(folder, "classify", settings or {"seed": 0}, make_chunks(files, 5))


def write(made: Ledger, chunk: Chunk) -> None:
    footer = {
        "settings_hash": made.settings_hash,
        "rows_in": 5,
        "rows_made": 1,
        "dropped": {"x": 2},
        "errors": {"e": 1},
        "usage": {"requests": 3},
    }
    write_part(made.part(chunk), pa.table({"a": range(4)}), footer)


def test_a_plan_says_all_that_is_needed_to_go_on(tmp_path: Path) -> None:
    made = ledger(tmp_path)
    made.open()
    made.open()
    assert load_ledger(tmp_path) == made
    write(made, made.chunks[0])
    assert load_ledger(tmp_path).missing() == made.chunks[1:]
    assert sum_footers([made.part(made.chunks[0])]) == {
        "rows_in": 5,
        "rows_made": 1,
        "rows_out": 4,
        "dropped": {"x": 2},
        "errors": {"e": 1},
        "usage": {"requests": 3},
    }


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    ledger(tmp_path).open()
    with pytest.raises(UserError, match="begun with other settings \\(seed: 0 -> 1\\)"):
        ledger(tmp_path, settings={"seed": 1}).open()


def test_other_files_are_refused_but_more_of_them_go_on(tmp_path: Path) -> None:
    made = ledger(tmp_path)
    made.open()
    write(made, made.chunks[0])
    with pytest.raises(UserError, match="begun on other input files"):
        ledger(tmp_path, rows=(5,)).open()
    with pytest.raises(UserError, match="begun on other input files"):
        ledger(tmp_path, rows=(5, 4)).open()
    more = ledger(tmp_path, rows=(5, 5, 3))
    more.open()
    assert load_ledger(tmp_path).missing() == more.chunks[1:]


def test_parts_that_do_not_belong_are_named(tmp_path: Path) -> None:
    made = ledger(tmp_path)
    made.open()
    stray = tmp_path / "parts" / "stray.parquet"
    write_part(stray, pa.table({"a": [1]}))
    with pytest.raises(UserError, match=r"stray.parquet is no chunk of this stage"):
        made.open()
    stray.rename(made.part(made.chunks[0]))
    with pytest.raises(UserError, match="was made with other settings"):
        made.open()
    made.part(made.chunks[0]).write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match="is damaged"):
        made.open()
    (tmp_path / "plan.json").unlink()
    with pytest.raises(UserError, match=r"holds parts but no plan.json"):
        made.open()


def test_leftovers_of_a_killed_writer_are_never_read(tmp_path: Path) -> None:
    made = ledger(tmp_path)
    made.open()
    for name in (f"{made.chunks[0].name}.parquet.123.tmp", "x.tmp"):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / name).write_bytes(b"half")
    made.open()
    assert made.missing() == made.chunks


def test_a_stage_that_lost_a_part_after_it_was_finished_is_not_read(tmp_path: Path) -> None:
    write_part(tmp_path / "parts" / "a.parquet", pa.table({"a": [1, 2]}))
    manifest = {"stage": "select", "settings": {}, "rows_in": 3, "rows_out": 3}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="holds 2 rows but its manifest says 3"):
        part_files(tmp_path, "select")
    with pytest.raises(UserError, match="the output of `classify` is needed"):
        part_files(tmp_path, "classify")


@pytest.mark.parametrize("text", ["", "{", "[1, 2"])
def test_a_garbled_plan_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match="is not valid JSON"):
        load_ledger(tmp_path)
