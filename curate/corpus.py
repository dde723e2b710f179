"""How a corpus is found: by its name on the hub, or by path; every file is identified by the hash of its content."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from curate.reading import COMPRESSED, JSONL, PARQUET, BadFile, count_rows, file_format, hub_errors
from curate.records.errors import UserError
from curate.records.manifest import InputFile, file_sha256
from curate.records.settings import did_you_mean


@dataclass(frozen=True)
class HubCorpus:
    """A corpus on the hub: repository, the files that belong to it, and what it is."""

    repository: str
    pattern: str
    about: str
    license: str = "ODC-BY"


DATASETS = {
    "openwebmath": HubCorpus("open-web-math/open-web-math", "data/*.parquet", "6.3 million mathematical web pages, 14.7B tokens, ODC-BY"),
    "finemath-3plus": HubCorpus("HuggingFaceTB/finemath", "finemath-3plus/*.parquet", "21.4 million pages, 34B tokens, ODC-BY"),
    "finemath-4plus": HubCorpus("HuggingFaceTB/finemath", "finemath-4plus/*.parquet", "6.7 million pages, 9.6B tokens, ODC-BY"),
}
SAMPLE = "sample"
SAMPLE_ABOUT = "60 documents written for this project, each with its behaviors and their spans as ground truth"


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
    if name and path.is_dir():
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

    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(corpus.repository, revision=revision, files_metadata=True)
    except hub_errors() as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot list {corpus.repository} on the hub: {reason} (needs a connection; local files go in as paths)") from None
    root = f"hf://datasets/{corpus.repository}@{info.sha}"
    listing: list[tuple[str, str, int, str | None]] = []
    for item in sorted(info.siblings or [], key=lambda item: item.rfilename):
        if fnmatch(item.rfilename, corpus.pattern):
            digest = item.lfs.sha256 if item.lfs else f"{item.blob_id}:{info.sha}"
            listing.append((root, item.rfilename, item.size or 0, digest))
    if not listing:
        raise UserError(f"{corpus.repository} at {info.sha} has no file {corpus.pattern}")
    return listing
