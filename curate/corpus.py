"""How a corpus is found and read: local or hub, Parquet or JSONL, plain or compressed; every row accounted for.

datatrove's own readers skip empty texts and unreadable lines with a warning and number only what is left, so a row could neither be
counted nor found again. These use its file layer (`DataFolder`, which also speaks hf://), and return every row, broken ones with a reason.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from curate.records.errors import UserError
from curate.records.manifest import InputFile, file_sha256
from curate.records.settings import did_you_mean

PARQUET = (".parquet",)
JSONL = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
# The hub's reading errors, a broken archive and a broken Parquet file have no common base below Exception.
MAX_ROW_GROUP_BATCH = 256


@dataclass(frozen=True)
class HubCorpus:
    """A corpus on the hub: repository, the files that belong to it, and what it is."""

    repository: str
    pattern: str
    about: str


DATASETS = {
    "openwebmath": HubCorpus("open-web-math/open-web-math", "data/*.parquet", "6.3 million mathematical web pages, 14.7B tokens, ODC-BY"),
    "finemath-3plus": HubCorpus("HuggingFaceTB/finemath", "finemath-3plus/*.parquet", "21.4 million pages, 34B tokens, ODC-BY"),
    "finemath-4plus": HubCorpus("HuggingFaceTB/finemath", "finemath-4plus/*.parquet", "6.7 million pages, 9.6B tokens, ODC-BY"),
}
SAMPLE = "sample"
SAMPLE_ABOUT = "60 documents written for this project, each with its behaviors and their spans as ground truth"


class BadFile(Exception):
    """A file that cannot be read as what its name says; the message is the reason."""


@dataclass(frozen=True)
class Row:
    """Row `number` of a file: `values` as stored, or `error`."""

    number: int
    values: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class FoundFiles:
    """What a dataset argument stands for: files to read, broken ones with the reason, and copies of a file already listed."""

    files: list[InputFile]
    failed: dict[str, str]
    copies: list[str]


def find_files(datasets: Sequence[str], revision: str | None = None) -> FoundFiles:
    """List, hash and count the files behind names of corpora, paths, folders and globs. Broken files are listed, not raised.

    Raises UserError when a name is unknown, nothing matches, or the hub cannot be reached.
    """
    found, failed, copies = [], {}, []
    seen: dict[str, str] = {}
    for name in datasets:
        listing = _find_hub(DATASETS[name], revision) if name in DATASETS else _find_local(name)
        for root, path, size, known_hash in listing:
            try:
                digest = known_hash or file_sha256(Path(root) / path)
                if digest in seen:
                    copies.append(path)
                    continue
                found.append(InputFile(path, digest, count_rows(root, path), size, root))
                seen[digest] = path
            except BadFile as error:
                failed[f"{root}/{path}"] = str(error)
            except OSError as error:
                failed[f"{root}/{path}"] = error.strerror or str(error)
    if not found and not failed:
        raise UserError(f"no Parquet or JSONL file in {', '.join(datasets)}")
    return FoundFiles(found, failed, copies)


def _find_local(name: str) -> list[tuple[str, str, int, str | None]]:
    if name == SAMPLE:
        path = Path(str(files("curate").joinpath("sample/documents.jsonl")))
        return [(str(path.parent), path.name, path.stat().st_size, None)]
    path = Path(name)
    if path.is_dir():
        root, names = path, sorted(item for item in path.rglob("*") if item.is_file() and file_format(item.name))
        if not names:
            raise UserError(f"the folder {name} holds no Parquet or JSONL file")
    elif path.is_file():
        if not file_format(path.name):
            raise UserError(
                f"{name} is neither Parquet nor JSONL by its name ({', '.join(PARQUET + JSONL)}, JSONL also {', '.join(COMPRESSED)})"
            )
        root, names = path.parent, [path]
    elif any(mark in name for mark in "*?["):
        root = (
            Path(name[: min(name.index(mark) for mark in "*?[" if mark in name)]).parent if not name.startswith(("*", "?", "[")) else Path()
        )
        root = root if root.is_dir() else root.parent
        names = sorted(item for item in root.glob(str(Path(name).relative_to(root))) if item.is_file() and file_format(item.name))
        if not names:
            raise UserError(f"no Parquet or JSONL file matches {name}")
    else:
        known = [*DATASETS, SAMPLE]
        raise UserError(f"unknown dataset {name!r}{did_you_mean(name, known)}: neither a file or folder nor one of {', '.join(known)}")
    return [(str(root.resolve()), str(item.relative_to(root)), item.stat().st_size, None) for item in names]


def _find_hub(corpus: HubCorpus, revision: str | None) -> list[tuple[str, str, int, str | None]]:
    from fnmatch import fnmatch

    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().dataset_info(corpus.repository, revision=revision, files_metadata=True)
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot list {corpus.repository} on the hub: {reason} (needs a connection; local files go in as paths)") from None
    root = f"hf://datasets/{corpus.repository}@{info.sha}"
    listing = []
    for item in sorted(info.siblings or [], key=lambda item: item.rfilename):
        if fnmatch(item.rfilename, corpus.pattern):
            digest = item.lfs.sha256 if item.lfs else f"{info.sha}:{item.blob_id}"
            listing.append((root, item.rfilename, item.size or 0, digest))
    if not listing:
        raise UserError(f"{corpus.repository} at {info.sha} has no file {corpus.pattern}")
    return listing


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


def read_rows(root: str, path: str, wanted: Sequence[tuple[int, int]]) -> Iterator[Row]:
    """Rows of the half-open ranges `wanted` (ascending, disjoint), in one pass. Raises BadFile when the file breaks off."""
    if file_format(path) == "parquet":
        yield from _read_parquet(root, path, wanted)
        return
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


def _read_parquet(root: str, path: str, wanted: Sequence[tuple[int, int]]) -> Iterator[Row]:
    with _open_parquet(root, path) as table:
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
                for batch in table.iter_batches(batch_size=MAX_ROW_GROUP_BATCH, row_groups=[group]):
                    for start, end in spans:
                        low, high = max(start, number), min(end, number + batch.num_rows)
                        if low < high:
                            yield from _batch_rows(batch.slice(low - number, high - low), low)
                    number += batch.num_rows
            except OSError as error:
                raise BadFile(f"damaged in row group {group}: {str(error).splitlines()[0]}") from None


def _batch_rows(batch: Any, first: int) -> Iterator[Row]:
    try:
        for offset, values in enumerate(batch.to_pylist()):
            yield Row(first + offset, values)
    except UnicodeDecodeError:
        # One cell that is not UTF-8 fails the whole batch: take the rows one at a time to find it.
        for offset in range(batch.num_rows):
            try:
                yield Row(first + offset, batch.slice(offset, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                yield Row(first + offset, {}, f"the row is not valid UTF-8 ({error.reason} at byte {error.start})")


def _open_parquet(root: str, path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datatrove.io import get_datafolder

    try:
        return pq.ParquetFile(get_datafolder(root).open(path, "rb"), pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise BadFile(f"not a Parquet file, or cut off: {str(error).splitlines()[0]}") from None


def _lines(root: str, path: str) -> Iterator[bytes]:
    import zlib

    from datatrove.io import get_datafolder

    try:
        with get_datafolder(root).open(path, "rb", compression="infer") as file:
            yield from file
    except (EOFError, zlib.error) as error:
        raise BadFile(f"the compressed file is cut off or damaged: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise BadFile(f"cannot be decompressed: {error}") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("zstandard", "lzma", "_lzma"):
            raise BadFile(f"the compressed file is cut off or damaged: {error}") from None
        raise


def _parse_line(line: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        values = json.loads(line)
    except UnicodeDecodeError as error:
        return {}, f"the line is not valid UTF-8 ({error.reason} at byte {error.start})"
    except json.JSONDecodeError as error:
        return {}, "the line is empty" if not line.strip() else f"the line is not JSON ({error.msg} at character {error.pos})"
    except RecursionError:
        return {}, "the line nests too deeply"
    return (values, None) if isinstance(values, dict) else ({}, "the line is JSON, but not an object")


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
