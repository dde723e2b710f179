"""Manifests that do not add up are never written; files exist completely or not at all."""

import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from curate.records import parts
from curate.records.errors import OutputError, UserError, output_error
from curate.records.manifest import InputFile, Manifest, file_sha256, json_sha256, read_manifest
from curate.records.parts import atomic_file, read_footer, write_json, write_part


def test_a_manifest_with_missing_rows_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="10 rows in"):
        Manifest(stage="select", settings={}, rows_in=10, rows_out=8, dropped={"no problem": 1}).write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    Manifest(stage="rewrite", settings={}, rows_in=10, rows_made=10, rows_out=19, dropped={"lost": 1}).write(tmp_path)


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = Manifest(stage="select", settings={"seed": 1}, inputs=[InputFile("a", "h", 3, 9, "/x")], rows_in=3, rows_out=3)
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert {"python", "pyarrow"} <= set(manifest.versions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("{", "not valid JSON"),
        ('{"format_version": 99}', "upgrade fourhabits"),
        ('{"stage": "x", "settings": {}, "strange": 1}', "not a manifest of ours"),
        ('{"inputs": [{"a": 1}]}', "not a manifest of ours"),
        ("[1]", "not a manifest of ours"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)


def test_hashes_do_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    assert json_sha256({"a": 1, "b": [2]}) == json_sha256({"b": [2], "a": 1}) != json_sha256({"a": 1, "b": [3]})
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_nothing_and_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    path = tmp_path / "folder" / "part.json"
    write_json(path, {"old": True})

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(parts.os, call, refuse)
        with pytest.raises(OutputError, match="cannot write") as caught:
            write_json(path, {"new": True})
    assert caught.value.exit_code == 4
    assert json.loads(path.read_text()) == {"old": True}
    assert [item.name for item in path.parent.iterdir()] == ["part.json"]


def test_an_error_while_writing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "part") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_every_disk_error_has_a_line_with_what_to_do() -> None:
    assert "the disk is full; free some space" in str(output_error("x", OSError(errno.ENOSPC, "")))
    assert "read-only; choose another --out" in str(output_error("x", OSError(errno.EROFS, "")))
    assert "a file, not a folder" in str(output_error("x", OSError(errno.ENOTDIR, "")))
    assert str(output_error("x", OSError(errno.EIO, "Input/output error"))) == "cannot write x: Input/output error"


def test_a_footer_is_read_back_and_a_damaged_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    write_part(path, pa.table({"a": [1]}), {"settings_hash": "h", "rows_in": 1})
    assert read_footer(path) == {"settings_hash": "h", "rows_in": 1}
    write_part(path, pa.table({"a": [1]}))
    assert read_footer(path) == {}
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"part.parquet is damaged .*: remove it"):
        read_footer(path)
