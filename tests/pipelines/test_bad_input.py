"""Every bad input is one clear line or a row with a reason; the rest is done, and the exit code tells a script what happened.

Exit codes: 0 done, 2 settings or input wrong, 3 some files failed, 4 the machine or the endpoint cannot.
"""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard

from curate.records.manifest import read_manifest
from tests.endpoint import Endpoint
from tests.helpers import ROOT, classify, conserved, curate, documents, error_line, rows_of, write_jsonl, write_parquet


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.engines.openai.FIRST_WAIT_SECONDS", 0.01)


def fails(result: Any, code: int, *parts: str) -> None:
    """The command left with `code` and one line that holds all `parts`."""
    assert result.exit_code == code, (result.stdout, result.stderr)
    line = error_line(result)
    assert all(part in line for part in parts), line


def test_one_bad_file_among_good_ones_is_named_and_the_others_are_done(server: Endpoint, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_jsonl(corpus / "a.jsonl", documents(3))
    (corpus / "b.parquet").write_bytes(b"this is no Parquet file")
    good = write_parquet(corpus / "c.parquet", {"text": [row["text"] for row in documents(4, 10)]}).read_bytes()
    (corpus / "d.parquet").write_bytes(good[:-40])
    packed = gzip.compress((corpus / "a.jsonl").read_bytes() * 50)
    (corpus / "e.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    packed = zstandard.ZstdCompressor().compress((corpus / "a.jsonl").read_bytes() * 50)
    (corpus / "f.jsonl.zst").write_bytes(packed[: len(packed) // 2])
    (corpus / "g.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = classify(server.url, tmp_path / "out", "--dataset", corpus)
    fails(result, 3, "5 file(s) failed", *(f"{name}: " for name in ("b.parquet", "d.parquet", "e.jsonl.gz", "f.jsonl.zst", "g.jsonl")))
    manifest = conserved(tmp_path / "out")
    assert (manifest.rows_in, manifest.rows_out, manifest.errors) == (7, 7, {})
    assert sorted(Path(path).name for path in manifest.failed_files) == ["b.parquet", "d.parquet", "e.jsonl.gz", "f.jsonl.zst", "g.jsonl"]

    (corpus / "e.jsonl.gz").write_bytes(gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in documents(2, 50))))
    before = len(server.bodies)
    fails(classify(server.url, tmp_path / "out", "--dataset", corpus), 3, "4 file(s) failed")
    assert conserved(tmp_path / "out").rows_out == 9  # the mended file was added to what was done
    assert len(server.bodies) - before == 2 * 6


def test_a_file_that_breaks_off_while_it_is_read_fails_alone(server: Endpoint, tmp_path: Path) -> None:
    columns = {"text": [f"What is {number}? x = {number} {'filler ' * 30}" for number in range(60)]}
    data = bytearray(write_parquet(tmp_path / "c" / "bad.parquet", columns, row_group_size=20, compression="zstd").read_bytes())
    group = len(data) // 3 + 40
    data[group : group + 30] = bytes(30)  # inside a later row group; the footer is whole, so the rows can be counted
    (tmp_path / "c" / "bad.parquet").write_bytes(data)
    write_jsonl(tmp_path / "c" / "good.jsonl", documents(2))
    result = classify(server.url, tmp_path / "out", "--dataset", tmp_path / "c", "--chunk-rows", 10)
    fails(result, 3, "bad.parquet: damaged in row group")
    manifest = conserved(tmp_path / "out")
    assert manifest.rows_out % 10 == 2 and 2 <= manifest.rows_out < 62  # whole chunks only
    assert not list((tmp_path / "out").rglob("*.tmp"))


ODD_ROWS: list[tuple[Any, str | None]] = [
    ({"id": "same", "text": "What is 1?"}, None),
    ({"id": "same", "text": "What is 2?"}, None),
    ({"id": None, "text": "NUL \x00 inside = 1"}, None),
    ({"id": 7, "text": "a number as id"}, None),
    ({"id": "half \ud83d", "text": "half an emoji as id", "url": "\udc00"}, None),
    ({"id": {"a": 1}, "text": "an object as id", "source": ["x"]}, None),
    ({"text": "no id"}, None),
    ({"id": "a"}, "no column 'text'"),
    ({"id": "b", "text": None}, "text is null"),
    ({"id": "c", "text": 5}, "text is int, not text"),
    ({"id": "d", "text": {"a": "b"}}, "text is dict, not text"),
    ({"id": "e", "text": ""}, "text is empty"),
    ({"id": "f", "text": " \n "}, "text is empty"),
    ({"id": "g", "text": "half \ud83d"}, "not valid Unicode"),
    ({"id": "h", "text": "five million " * 400_000}, "more than --max-chars 1000000"),
    (b"", "the line is empty"),
    (b'{"text": "caf\xe9"}', "not valid UTF-8"),
    (b'{"text": "a', "not JSON"),
    (b"[1, 2]", "not an object"),
    (b'{"text": "raw \x00 NUL"}', "not JSON"),
]


def test_every_odd_row_is_labelled_or_says_why_and_none_is_lost(server: Endpoint, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "odd.jsonl", [row for row, _ in ODD_ROWS])
    result = classify(server.url, tmp_path / "out", "--dataset", tmp_path / "odd.jsonl", "--chunk-rows", 7)
    assert result.exit_code == 0, result.stderr
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: row["source_row"])
    assert [row["source_row"] for row in rows] == list(range(len(ODD_ROWS)))
    for row, (_, reason) in zip(rows, ODD_ROWS, strict=True):
        assert (reason is None and row["error"] is None) or reason in row["error"]
        assert (row["verification_score"] is None) == (reason is not None)
    assert [row["id"] for row in rows[:6]] == ["same", "same", None, "7", "half \\ud83d", "{'a': 1}"]
    assert sum(conserved(tmp_path / "out").errors.values()) == sum(reason is not None for _, reason in ODD_ROWS)


def test_parquet_with_bytes_that_are_no_text_fails_those_rows_alone(server: Endpoint, tmp_path: Path) -> None:
    values = pa.Array.from_buffers(pa.string(), 3, pa.array([b"fine = 1", b"caf\xe9", None], pa.binary()).buffers())
    write_parquet(tmp_path / "a.parquet", {"text": values, "id": ["x", "x", "x"]})
    write_parquet(tmp_path / "b.parquet", {"text": [b"bytes", b"bytes"]})
    result = classify(server.url, tmp_path / "out", "--dataset", tmp_path / "a.parquet", "--dataset", tmp_path / "b.parquet")
    assert result.exit_code == 0, result.stderr
    errors = [row["error"] for row in rows_of(tmp_path / "out")]
    assert sorted(error or "" for error in errors) == sorted(
        ["", "the row is not valid UTF-8 (unexpected end of data at byte 3)", "text is null", *["text is bytes, not text"] * 2]
    )


def test_five_megabytes_are_read_whole_when_asked_for(server: Endpoint, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "big.jsonl", [{"text": "What is it?\n\n" + "words " * 900_000}])
    options = ("--max-chars", 10_000_000, "--window-chars", 1_000_000)
    before = len(server.bodies)
    assert classify(server.url, tmp_path / "out", "--dataset", tmp_path / "big.jsonl", *options).exit_code == 0
    (row,) = rows_of(tmp_path / "out")
    assert row["num_windows"] == 6 and row["num_chars"] == 5_400_013 and row["error"] is None
    passages = [body["messages"][0]["content"].rpartition("<<<\n")[2].rpartition("\n>>>")[0] for body in server.bodies[before:]]
    assert len(passages) == 6 * 6 and sum(map(len, passages)) == 6 * 5_400_013


def test_copies_of_a_file_are_read_once_and_an_empty_one_is_no_mistake(server: Endpoint, tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / "c" / name, documents(2))
    (tmp_path / "c" / "empty.jsonl").touch()
    assert classify(server.url, tmp_path / "out", "--dataset", tmp_path / "c").exit_code == 0
    assert len(rows_of(tmp_path / "out")) == 2
    assert read_manifest(tmp_path / "out").notes["copies_skipped"] == ["b.jsonl"]


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        ("sampel", ("unknown dataset 'sampel' (did you mean 'sample'?)", "openwebmath")),
        ("openwebmaths", ("did you mean 'openwebmath'?",)),
        ("", ("unknown dataset ''",)),
        ("{tmp}/notes.txt", ("is neither Parquet nor JSONL by its name",)),
        ("{tmp}/nothing/*.parquet", ("no Parquet or JSONL file matches",)),
        ("{tmp}", ("holds no Parquet or JSONL file",)),
    ],
)
def test_a_dataset_that_is_none_is_refused(server: Endpoint, tmp_path: Path, dataset: str, parts: tuple[str, ...]) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    fails(classify(server.url, tmp_path / "out", "--dataset", dataset.format(tmp=tmp_path)), 2, *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--model", "smolm2-135m"), 2, ("unknown model 'smolm2-135m' (did you mean 'smollm2-135m'?)",)),
        (("--model", "Qwen/Qwen2.5-32B-Instruct"), 4, ("needs a GPU", "--model smollm2-135m", "--engine openai")),
        (("--model", "{tmp}"), 2, ("has no config.json",)),
        (("--limit", "0"), 2, ("limit = 0 is less than 1",)),
        (("--chunk-rows", "0", "--seed", "-1"), 2, ("chunk_rows = 0 is less than 1", "seed = -1 is less than 0")),
        (("--limit", "3", "--sample", "3", "--engine", "openai"), 2, ("exclude each other",)),
        (("--engine", "vlm"), 2, ("engine = 'vlm' is not one of vllm, openai, student, cascade (did you mean 'vllm'?)",)),
        (("--behaviors", "{tmp}/none.toml", "--engine", "openai"), 2, ("cannot read the behaviors file",)),
        (("--config", "{tmp}/none.toml"), 2, ("cannot read the settings file",)),
        (("--engine", "openai"), 2, ("--engine openai needs --base-url",)),
        (("--engine", "openai", "--base-url", "localhost:1"), 2, ("is not an address",)),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    monkeypatch.setattr("curate.engines.models.has_gpu", lambda: False)
    given = [item.format(tmp=tmp_path) for item in arguments]
    fails(curate("classify", "--dataset", "sample", "--out", tmp_path / "out", *given), code, *parts)


def test_a_missing_out_and_an_unknown_option_are_told_before_anything_runs(tmp_path: Path) -> None:
    fails(curate("classify", "--dataset", "sample"), 2, "--out is needed: the folder to write to")
    result = curate("classify", "--datset", "sample")
    assert result.exit_code == 2 and "No such option: --datset" in result.stderr
    (tmp_path / "settings.toml").write_text('[classify]\nmodle = "x"\nlimit = "many"\n')
    fails(
        curate("classify", "--config", tmp_path / "settings.toml"),
        2,
        "unknown setting 'modle' (did you mean 'model'?)",
        "limit = 'many' is not a",
    )


@pytest.mark.parametrize("command", ["frequencies", "select", "rewrite", "verify", "match"])
def test_a_stage_without_its_input_says_which(tmp_path: Path, command: str) -> None:
    option = {"frequencies": "labels", "select": "labels", "rewrite": "candidates", "verify": "qa", "match": "qa"}[command]
    engine = ("--engine", "openai", "--base-url", "http://localhost:1/v1") if command in ("rewrite", "verify") else ()
    extra = ("--tokenizer", "smollm2-135m") if command == "match" else ()
    if command != "frequencies":  # without labels it makes them
        fails(curate(command, "--out", tmp_path / "out", *engine), 2, f"--{option} is needed")
    (tmp_path / "empty").mkdir()
    for given in (tmp_path / "empty", tmp_path / "gone"):
        fails(curate(command, f"--{option}", given, "--out", tmp_path / "out", *engine, *extra), 2, "manifest.json does not exist")


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (lambda number, body: (401, {}, b'{"error": {"message": "no such key"}}'), ("answered 401 (no such key)", "$OPENAI_API_KEY")),
        (lambda number, body: (500, {}, b""), ("HTTP 500", "after 2 tries; finished chunks are kept, run again when it answers")),
        (lambda number, body: (429, {"Retry-After": "0.01"}, b""), ("HTTP 429",)),
        (lambda number, body: 5.0, ("no answer within 0.3 s",)),
        (lambda number, body: (200, {"Content-Length": "50", "Connection": "close"}, b"{"), ("RemoteProtocolError",)),
    ],
)
def test_an_endpoint_that_fails_for_good_ends_with_4_and_keeps_what_is_done(fault: Any, parts: tuple[str, ...], tmp_path: Path) -> None:
    broken = False
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(6))
    arguments = ("--dataset", corpus, "--chunk-rows", 2, "--timeout-seconds", 0.3, "--max-in-flight", 4)
    with Endpoint(lambda number, body: fault(number, body) if broken or number >= 30 else None) as server:
        fails(classify(server.url, tmp_path / "out", *arguments), 4, *parts)
        done = len(list((tmp_path / "out" / "parts").glob("*.parquet")))
        assert 1 <= done < 3
        assert not (tmp_path / "out" / "manifest.json").exists()
        status = curate("status", tmp_path / "out")
        assert f"{done}/3 chunks" in status.stdout and "unfinished: run the same command again" in status.stdout
    with Endpoint() as server:
        assert classify(server.url, tmp_path / "out", *arguments).exit_code == 0
        assert len(server.bodies) == (3 - done) * 2 * 6
    assert sorted(row["source_row"] for row in rows_of(tmp_path / "out")) == list(range(6))
    conserved(tmp_path / "out")


def test_garbage_from_the_endpoint_is_rows_with_an_error_and_exit_code_0(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(4))
    with Endpoint(lambda number, body: (200, {}, b"garbage") if "2 + 1" in json.dumps(body) else None) as server:
        assert classify(server.url, tmp_path / "out", "--dataset", corpus).exit_code == 0
    rows = rows_of(tmp_path / "out")
    assert [row["error"] is None for row in rows] == [True, True, False, True]
    assert "6 of 6 questions failed: the answer is not the JSON of a completion: 'garbage'" in rows[2]["error"]
    assert sum(conserved(tmp_path / "out").errors.values()) == 1


def test_budgets_end_a_run_with_4_and_it_goes_on_from_there(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(6))
    arguments = ("--dataset", corpus, "--chunk-rows", 2, "--max-in-flight", 2)
    fails(
        classify(server.url, tmp_path / "out", *arguments, "--max-requests", 16),
        4,
        "the budget of 16 requests is used up",
        "--max-requests",
    )
    money = ("--max-dollars", 0.15, "--price-in", 100)
    fails(classify(server.url, tmp_path / "out", *arguments, *money), 4, "the budget of $0.15 is used up")
    assert classify(server.url, tmp_path / "out", *arguments, "--max-requests", 20).exit_code == 0
    assert conserved(tmp_path / "out").rows_out == 6


def test_an_out_folder_that_is_a_file_or_holds_something_else_is_refused(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(6))
    (tmp_path / "file").write_text("")
    fails(classify(server.url, tmp_path / "file", "--dataset", corpus), 4, "cannot write", "choose another --out")
    fails(classify(server.url, tmp_path / "file" / "below", "--dataset", corpus), 4, "cannot write")
    assert classify(server.url, tmp_path / "out", "--dataset", corpus).exit_code == 0
    fails(classify(server.url, tmp_path / "out", "--dataset", corpus, "--window-chars", 99), 2, "window_chars: 7200 -> 99", "another --out")
    fails(curate("select", "--labels", tmp_path / "out", "--out", tmp_path / "out"), 2, "holds the output of `classify`")
    write_jsonl(corpus, documents(3))
    fails(classify(server.url, tmp_path / "out", "--dataset", corpus), 2, "was begun on other input files")


def test_a_damaged_part_is_named_by_the_stage_that_reads_it(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(2))
    assert classify(server.url, tmp_path / "out", "--dataset", corpus).exit_code == 0
    part = next((tmp_path / "out" / "parts").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    for command in (("select", "--labels", tmp_path / "out", "--out", tmp_path / "o"), ("status", tmp_path / "out")):
        fails(curate(*command), 2, part.name, "is damaged", "remove it and run the same command again")
    part.unlink()
    assert classify(server.url, tmp_path / "out", "--dataset", corpus).exit_code == 0
    conserved(tmp_path / "out")


def test_the_key_stands_in_no_file_of_the_run(server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(1))
    assert classify(server.url, tmp_path / "out", "--dataset", corpus, "--api-key-env", "MY_KEY").exit_code == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 3 and not any(b"sk-very-secret" in path.read_bytes() for path in files)


def test_a_real_process_leaves_with_the_code_and_no_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from pipelines.main import main; main()",
        "classify",
        "--engine",
        "openai",
        "--dataset",
        "sampel",
        "--out",
        "o",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown dataset 'sampel'") and done.stderr.count("\n") == 1
