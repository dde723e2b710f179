"""Files as they are in the wild: every row comes out once, with its values or a reason; a broken file is named and never half-read."""

import bz2
import gzip
import itertools
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from curate.reading import BadFile, Row, count_rows, document_error, file_format, read_rows
from tests.helpers import documents, write_jsonl, write_parquet

LINES = b"".join(json.dumps({"text": f"document {number} {random.Random(number).random()}"}).encode() + b"\n" for number in range(900))


def zstd_frames(data: bytes) -> bytes:
    half = len(data) // 2
    return b"".join(zstandard.ZstdCompressor().compress(piece) for piece in (data[:half], data[half:]))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def everything(path: Path) -> list[Row]:
    return list(read_rows(str(path.parent), path.name, [(0, count_rows(str(path.parent), path.name))]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz", "a.JSONL.zst", "a.jsonl.bz2", "a.jsonl.xz"])
def test_json_lines_are_read_plain_and_compressed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(next((pack for ending, pack in COMPRESSORS.items() if name.endswith(ending)), bytes)(LINES))
    rows = everything(path)
    assert [row.number for row in rows] == list(range(900))
    assert [row.values for row in rows] == [json.loads(line) for line in LINES.splitlines()]


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_archive_is_a_bad_file_and_not_a_short_one(tmp_path: Path, ending: str, share: float) -> None:
    packed = COMPRESSORS[ending](LINES)
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(packed[: int(len(packed) * share)])
    with pytest.raises(BadFile, match="the compressed file is cut off or damaged"):
        count_rows(str(tmp_path), path.name)


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_an_archive_that_is_none_is_a_bad_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(LINES)
    with pytest.raises(BadFile, match="cut off or damaged"):
        count_rows(str(tmp_path), path.name)


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", lambda data: gzip.compress(data[:500]) + gzip.compress(data[500:])), (".zst", zstd_frames)]
)
def test_archives_of_several_members_are_read_to_the_end(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(pack(LINES))
    assert len(everything(path)) == 900


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "caf\xe9"}', "not valid UTF-8"),
        (b"", "the line is empty"),
        (b"   ", "the line is empty"),
        (b'{"text": "cut o', "not JSON"),
        (b'{"text": "a\x00b"}', "not JSON (Invalid control character"),
        (b"\x00\x00\x00", "not"),
        (b'["text"]', "not an object"),
        (b"3", "not an object"),
        (b"null", "not an object"),
        (b"[" * 100_000, "nests too deeply"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "cannot be read"),
    ],
)
def test_a_broken_line_is_a_row_with_a_reason_and_the_rest_keeps_its_numbers(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "before"}, line, {"text": "after"}])
    rows = everything(path)
    assert [row.values.get("text") for row in rows] == ["before", None, "after"]
    assert reason in (rows[1].error or "") and "\n" not in (rows[1].error or "")


def test_a_byte_order_mark_crlf_and_a_last_line_without_an_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b\\u0000"}')
    assert [row.values["text"] for row in everything(path)] == ["a", "b\x00"]


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04 a zip", b"<html>\n</html>\n", json.dumps([{"text": "a"}], indent=1).encode(), b"\xff\xfe\n" * 9]
)
def test_a_file_without_any_json_object_is_not_jsonl(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(BadFile, match="not JSONL: no line is a JSON object"):
        count_rows(str(tmp_path), "a.jsonl")


@given(
    st.lists(st.sampled_from([b'{"text": "x"}', b"", b"broken", b'{"text": 1}']), min_size=1, max_size=30).filter(
        lambda rows: b'{"text": "x"}' in rows
    ),
    st.data(),
)
def test_any_ranges_give_the_same_rows_as_one_pass(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    path = write_jsonl(tmp_path_factory.mktemp("ranges") / "a.jsonl", lines)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(lines)), max_size=6)) | {0, len(lines)})
    spans = list(itertools.pairwise(cuts))[:: data.draw(st.sampled_from([1, 2]))]
    wanted = [row for row in everything(path) if any(start <= row.number < end for start, end in spans)]
    assert list(read_rows(str(path.parent), path.name, spans)) == wanted


@pytest.mark.parametrize("spans", [[(0, 1)], [(7, 13), (99, 100)], [(3, 4), (4, 5), (50, 950)], [(999, 1000)]])
def test_parquet_ranges_cross_row_groups(tmp_path: Path, spans: list[tuple[int, int]]) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": [str(number) for number in range(1000)]}, row_group_size=97)
    rows = list(read_rows(str(tmp_path), path.name, spans))
    assert [row.number for row in rows] == [number for start, end in spans for number in range(start, end)]
    assert all(row.values["text"] == str(row.number) for row in rows)


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
def test_damaged_parquet_never_raises_anything_but_bad_file(tmp_path: Path, codec: str) -> None:
    columns = {"id": [str(number) for number in range(300)], "text": [f"text {number} " * 5 for number in range(300)]}
    good = write_parquet(tmp_path / "good.parquet", columns, row_group_size=100, compression=codec).read_bytes()
    generator = random.Random(0)
    bad = 0
    for number in range(120):
        data = bytearray(good)
        if number % 2:
            del data[generator.randrange(len(data)) :]
        else:
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        (tmp_path / "bad.parquet").write_bytes(data)
        try:
            everything(tmp_path / "bad.parquet")
        except BadFile as error:
            bad += 1
            assert str(error) and "\n" not in str(error)
    assert bad >= 60  # at least every truncated one


def test_text_that_is_no_utf8_fails_its_row_alone(tmp_path: Path) -> None:
    texts = [b"fine", b"caf\xe9", b"fine too"] * 200
    column = pa.Array.from_buffers(pa.string(), 600, pa.array(texts, pa.binary()).buffers())
    write_parquet(tmp_path / "a.parquet", {"text": column})
    rows = everything(tmp_path / "a.parquet")
    assert [row.error is None for row in rows] == [True, False, True] * 200
    assert rows[1].error == "the row is not valid UTF-8 (unexpected end of data at byte 3)"


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text_column_is_text(tmp_path: Path, kind: Any) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": pa.array(["a", None, "b"], kind)})
    assert [row.values["text"] for row in everything(tmp_path / "a.parquet")] == ["a", None, "b"]


def test_a_column_that_nobody_needs_cannot_break_a_row(tmp_path: Path) -> None:
    columns = {"text": ["a", "b"], "date": pa.array([0, 10**15], pa.timestamp("ms"))}  # the second lies beyond the year 9999
    write_parquet(tmp_path / "a.parquet", columns)
    assert [row.error for row in read_rows(str(tmp_path), "a.parquet", [(0, 2)], ["text"])] == [None, None]
    rows = list(read_rows(str(tmp_path), "a.parquet", [(0, 2)]))
    assert rows[0].error is None and "cannot be read" in (rows[1].error or "")


def test_a_file_without_the_wanted_columns_still_has_its_rows(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"body": ["a", "b"]})
    assert [(row.number, row.error) for row in read_rows(str(tmp_path), "a.parquet", [(0, 2)], ["text"])] == [(0, None), (1, None)]


def test_empty_files_have_no_rows_and_missing_ones_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    write_parquet(tmp_path / "b.parquet", {"text": pa.array([], pa.string())})
    assert count_rows(str(tmp_path), "a.jsonl") == count_rows(str(tmp_path), "b.parquet") == 0
    (tmp_path / "c.parquet").touch()
    with pytest.raises(BadFile, match="not a Parquet file"):
        count_rows(str(tmp_path), "c.parquet")
    with pytest.raises(BadFile, match="No such file"):
        count_rows(str(tmp_path), "gone.jsonl")


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({}, "no column 'text'"),
        ({"text": None}, "text is null"),
        ({"text": 3}, "text is int, not text"),
        ({"text": ["a"]}, "text is list, not text"),
        ({"text": b"a"}, "text is bytes, not text"),
        ({"text": ""}, "text is empty"),
        ({"text": " \n\t"}, "text is empty"),
        ({"text": "x" * 101}, "text has 101 characters, more than --max-chars 100"),
        ({"text": "a\ud800"}, "text has a character that is not valid Unicode (a lone surrogate at 1)"),
        ({"text": "a\x00b"}, None),
        ({"text": "x" * 100}, None),
    ],
)
def test_what_is_no_document_says_why(values: dict[str, Any], error: str | None) -> None:
    assert document_error(values, "text", 100) == error


def test_the_format_is_told_by_the_name() -> None:
    assert [file_format(name) for name in ("a.parquet", "B.PARQUET", "c.jsonl.zst", "d.json.gz", "e.txt", "f.parquet.gz", "g.gz")] == [
        *["parquet"] * 2,
        *["jsonl"] * 2,
        *[None] * 3,
    ]


def test_parquet_and_jsonl_of_the_same_rows_read_alike(tmp_path: Path) -> None:
    rows = documents(20)
    write_jsonl(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert everything(tmp_path / "a.jsonl") == everything(tmp_path / "a.parquet")
