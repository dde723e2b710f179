"""Pushes a folder to a dataset repository on the Hugging Face hub: in batches, and from where it stopped."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.reading import hub_errors
from curate.records.errors import EngineError, UserError
from curate.records.manifest import file_sha256

BATCH_FILES = 50  # a commit each: the hub allows 128 an hour
BATCH_BYTES = 2 << 30
ASKED_AT_ONCE = 500
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repository(name: str) -> None:
    """Raise UserError for a name that cannot be one of a repository."""
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"--push-to-hub {name!r} is not of the form user/name")


@dataclass(frozen=True)
class Pushed:
    """How many files were sent, how many were there already, and where they are."""

    sent: int
    there: int
    url: str


def push_folder(repository: str, folder: Path, files: Sequence[str], private: bool, api: Any = None) -> Pushed:
    """Send `files` (paths below `folder`, the card last) to the dataset `repository`, made when it does not exist.

    A file that is there with the same content is not sent again, so the same call goes on after an interruption. Raises EngineError
    with one line when the hub cannot be reached or refuses; what was committed stays, and nothing local is touched.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = api or HfApi()
    left = len(files)
    refused: tuple[type[BaseException], ...] = (*hub_errors(), ValueError, RuntimeError)
    try:
        url = str(api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True))
        there = _remote(api, repository, files)
        missing = [path for path in files if not _same(folder / path, there.get(path))]
        left = len(missing)
        for batch in batches(folder, missing):
            operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(folder / path)) for path in batch]
            api.create_commit(repository, operations, commit_message=f"{len(batch)} files of fourhabits", repo_type="dataset")
            left -= len(batch)
            print(f"pushed {len(files) - left} of {len(files)} files to {repository}", flush=True)
    except refused as error:
        raise EngineError(
            f"the hub did not take {repository} ({reason(error)}): {left} of {len(files)} files are missing there; "
            f"{folder} is complete, and the same command goes on"
        ) from None
    return Pushed(len(missing), len(files) - len(missing), url)


def batches(folder: Path, files: Sequence[str]) -> Iterator[list[str]]:
    """Cut files into commits, in their order, of at most BATCH_FILES files and, unless one alone is larger, BATCH_BYTES bytes."""
    batch: list[str] = []
    size = 0
    for path in files:
        more = (folder / path).stat().st_size
        if batch and (len(batch) == BATCH_FILES or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += more
    if batch:
        yield batch


def reason(error: BaseException) -> str:
    """One line that says what went wrong, and what to do where that is known."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    ways = {401: "; log in with `hf auth login` or set HF_TOKEN", 403: "; the token may not write there", 429: "; wait a while"}
    return line + ways.get(status or 0, "")


def _remote(api: Any, repository: str, files: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for start in range(0, len(files), ASKED_AT_ONCE):
        for item in api.get_paths_info(repository, list(files[start : start + ASKED_AT_ONCE]), repo_type="dataset"):
            found[item.path] = item
    return found


def _same(path: Path, there: Any) -> bool:
    """Whether the hub's file has our content: by SHA-256 in large-file storage, else by git's hash."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == file_sha256(path))
    data = path.read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
