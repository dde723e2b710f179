"""Reads the rows of one file, local or on the hub, Parquet or JSONL, plain or compressed; every row comes out, broken ones with a reason.

datatrove's own readers skip empty texts and unreadable lines with a warning and number only what is left, so a row could neither be
counted nor found again. These use its file layer (`DataFolder`, which also speaks hf://) and number rows as the file does.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

PARQUET = (".parquet",)
JSONL = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
BATCH_ROWS = 256
BLOCK_BYTES = 1 << 20
LARGEST_ZSTD_WINDOW = 1 << 31  # `zstd --long=31`


class BadFile(Exception):
    """A file that cannot be read as what its name says; the message is the reason."""


@dataclass(frozen=True)
class Row:
    """Row `number` of a file: `values` as stored, or `error`."""

    number: int
    values: dict[str, Any]
    error: str | None = None


def file_format(name: str) -> str | None:
    """`parquet`, `jsonl`, or None, by the name."""
    lower = name.lower()
    if lower.endswith(PARQUET):
        return "parquet"
    for ending in COMPRESSED:
        lower = lower.removesuffix(ending)
    return "jsonl" if lower.endswith(JSONL) else None


def count_rows(root: str, path: str) -> int:
    """Rows of a file: from the footer (Parquet) or by one pass over the lines (JSONL). Raises BadFile."""
    with _bad_file(root):
        if file_format(path) == "parquet":
            with _open_parquet(root, path) as table:
                return int(table.metadata.num_rows)
        objects = 0
        lines = 0
        for lines, line in enumerate(_lines(root, path), start=1):  # noqa: B007
            objects += objects < 1 and _parse_line(line)[1] is None
    if lines and not objects:
        raise BadFile("not JSONL: no line is a JSON object")
    return lines


def read_rows(root: str, path: str, wanted: Sequence[tuple[int, int]], columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of the half-open ranges `wanted` (ascending, disjoint), in one pass. Raises BadFile when the file breaks off.

    `columns`: of a Parquet file read only these, where it has them; what nobody needs can then neither cost time nor break.
    """
    with _bad_file(root):
        yield from _read_parquet(root, path, wanted, columns) if file_format(path) == "parquet" else _read_jsonl(root, path, wanted)


def document_error(values: dict[str, Any], text_key: str, max_chars: int) -> str | None:
    """Why a row cannot be read as a document, or None."""
    text = values.get(text_key)
    if text is None:
        return f"no column {text_key!r}" if text_key not in values else f"{text_key} is null"
    if not isinstance(text, str):
        return f"{text_key} is {type(text).__name__}, not text"
    if not text.strip():
        return f"{text_key} is empty"
    if len(text) > max_chars:
        return f"{text_key} has {len(text)} characters, more than --max-chars {max_chars}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{text_key} has a character that is not valid Unicode (a lone surrogate at {error.start})"
    return None


def _read_jsonl(root: str, path: str, wanted: Sequence[tuple[int, int]]) -> Iterator[Row]:
    ranges = iter(wanted)
    start, end = next(ranges, (0, 0))
    for number, line in enumerate(_lines(root, path)):
        while number >= end:
            following = next(ranges, None)
            if following is None:
                return
            start, end = following
        if number >= start:
            values, error = _parse_line(line)
            yield Row(number, values, error)


def _read_parquet(root: str, path: str, wanted: Sequence[tuple[int, int]], columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow as pa

    with _open_parquet(root, path) as table:
        present = table.schema_arrow.names
        # At least one column, so that a row of a file without any of them is still a row.
        chosen = None if columns is None else [name for name in dict.fromkeys(columns) if name in present] or present[:1]
        starts = [0]
        for group in range(table.num_row_groups):
            starts.append(starts[-1] + table.metadata.row_group(group).num_rows)
        for group in range(table.num_row_groups):
            first, last = starts[group], starts[group + 1]
            spans = [(max(start, first), min(end, last)) for start, end in wanted if start < last and end > first]
            if not spans:
                continue
            number = first
            try:
                for batch in table.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=chosen):
                    for start, end in spans:
                        low, high = max(start, number), min(end, number + batch.num_rows)
                        if low < high:
                            yield from _batch_rows(batch.slice(low - number, high - low), low)
                    number += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                if not _of_content(error):
                    raise
                raise BadFile(f"damaged in row group {group}: {_first_line(error)}") from None


def _batch_rows(batch: Any, first: int) -> Iterator[Row]:
    try:
        values = batch.to_pylist()
    except (ValueError, OverflowError):
        # One cell that is not UTF-8, or a date beyond Python's, fails the whole batch: take the rows one at a time to find it.
        for offset in range(batch.num_rows):
            yield _single_row(batch.slice(offset, 1), first + offset)
        return
    for offset, row in enumerate(values):
        yield Row(first + offset, row)


def _single_row(batch: Any, number: int) -> Row:
    try:
        return Row(number, batch.to_pylist()[0])
    except UnicodeDecodeError as error:
        return Row(number, {}, f"the row is not valid UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, OverflowError) as error:
        return Row(number, {}, f"the row holds a value that cannot be read: {_first_line(error)}")


def _open_parquet(root: str, path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datatrove.io import get_datafolder

    # The hub's default cache reads 5 MB ahead at every jump, which costs twice the file; without it, and with the columns of a row group
    # fetched together, what is asked for are the footer and the row groups that hold wanted rows.
    on_hub = root.startswith("hf://")
    file = get_datafolder(root).open(path, "rb", **({"cache_type": "none"} if on_hub else {}))
    try:
        return pq.ParquetFile(file, pre_buffer=on_hub)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if not _of_content(error):
            raise
        raise BadFile(f"not a Parquet file, or cut off: {_first_line(error)}") from None


def _of_content(error: BaseException) -> bool:
    """Whether Arrow complains about what it read, and not the disk or the hub (whose errors have a number or a type of their own)."""
    return type(error) is OSError and error.errno is None if isinstance(error, OSError) else True


def _lines(root: str, path: str) -> Iterator[bytes]:
    from datatrove.io import get_datafolder

    zstd = path.lower().endswith(".zst")
    with get_datafolder(root).open(path, "rb", compression=None if zstd else "infer") as file:
        yield from _split_lines(_zstd_blocks(file)) if zstd else file


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    """The content of a .zst file, all its frames; the readers at hand stop without a word after the first, or where one breaks off."""
    import zstandard

    frame = None
    while block := file.read(BLOCK_BYTES):
        while block:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=LARGEST_ZSTD_WINDOW).decompressobj()
            yield frame.decompress(block)
            block = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("it ends inside a frame")


def _split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    for block in blocks:
        *ended, rest = block.split(b"\n")
        for line in ended:
            yield b"".join([*pieces, line, b"\n"])
            pieces = []
        pieces.append(rest)
    if last := b"".join(pieces):
        yield last


def _parse_line(line: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        values = json.loads(line)
    except UnicodeDecodeError as error:
        return {}, f"the line is not valid UTF-8 ({error.reason} at byte {error.start})"
    except json.JSONDecodeError as error:
        return {}, "the line is empty" if not line.strip() else f"the line is not JSON ({error.msg} at character {error.pos})"
    except ValueError as error:  # a number of more digits than Python reads
        return {}, f"the line holds a value that cannot be read: {_first_line(error)}"
    except RecursionError:
        return {}, "the line nests too deeply"
    return (values, None) if isinstance(values, dict) else ({}, "the line is JSON, but not an object")


def hub_errors() -> tuple[type[BaseException], ...]:
    """What using the hub may raise: OSError and the base of the HTTP library that the installed huggingface_hub is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__


@contextmanager
def _bad_file(root: str) -> Iterator[None]:
    """What files raise when they are broken or out of reach has no common base: here it becomes BadFile, with one line."""
    try:
        yield
    except (EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise BadFile(error.strerror or _first_line(error)) from None
        if root.startswith("hf://") and isinstance(error, OSError):
            raise BadFile(f"the hub did not deliver it: {_first_line(error)}") from None
        raise BadFile(f"the compressed file is cut off or damaged: {_first_line(error)}") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("zlib", "zstandard", "lzma", "_lzma"):
            raise BadFile(f"the compressed file is cut off or damaged: {_first_line(error)}") from None
        if root.startswith("hf://") and isinstance(error, hub_errors()):
            raise BadFile(f"the hub did not deliver it: {_first_line(error)}") from None
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()[:200]
