"""One JSON line a step, in a file that a resumed run cuts back to its checkpoint; pictures are derived from it.

Keys: `step` (updates so far), `epoch`, `loss` (mean over the step's targets), `heldout_loss` (where measured), `learning_rate`,
`grad_norm` (before clipping), `tokens`, `loss_tokens` (of this step), `tokens_total`, `seconds`, `tokens_per_second`, `mfu` (null where
the peak is unknown: see `train.flops`), `memory_gb` (largest so far), `skipped` (updates so far without a finite gradient).
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from curate.records.errors import output_error
from curate.records.progress import format_seconds

FILE_NAME = "metrics.jsonl"
LINE_EVERY_SECONDS = 10.0


class Tracker(Protocol):
    """Something that reports metrics lines elsewhere."""

    def log(self, step: int, line: dict[str, Any]) -> None:
        """Report one line of metrics.jsonl."""

    def close(self) -> None:
        """Called once, also after an error."""


class MetricsFile:
    """Append-only JSONL. `offset` goes into the checkpoint; opening at an offset drops the lines after it."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115
            self.file.truncate(offset)
            self.file.seek(offset)
        except OSError as error:
            raise output_error(path, error) from error

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, flushed."""
        try:
            self.file.write(json.dumps(line).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise output_error(self.path, error) from error

    @property
    def offset(self) -> int:
        """Bytes written, made durable."""
        os.fsync(self.file.fileno())
        return self.file.tell()


class Live:
    """The run on one line: rewritten in place on a terminal, every ten seconds in a log file."""

    def __init__(self, num_steps: int, first_step: int) -> None:
        self.num_steps, self.first, self.started, self.last = num_steps, first_step, time.monotonic(), 0.0

    def show(self, line: dict[str, Any]) -> None:
        """Show the metrics of one step."""
        now = time.monotonic()
        terminal, step = sys.stderr.isatty(), line["step"]
        if not terminal and now - self.last < LINE_EVERY_SECONDS and step < self.num_steps:
            return
        self.last = now
        left = (now - self.started) / max(step - self.first, 1) * (self.num_steps - step)
        heldout = f", held-out {line['heldout_loss']:.4f}" if line.get("heldout_loss") is not None else ""
        mfu = f", MFU {line['mfu']:.1%}" if line["mfu"] is not None else ""
        norm = f"{line['grad_norm']:.3g}" if line["grad_norm"] is not None else "not finite"
        text = (
            f"step {step}/{self.num_steps}: loss {line['loss']:.4f}{heldout}, lr {line['learning_rate']:.2e}, grad norm {norm}, "
            f"{line['tokens_per_second']:,.0f} tokens/s{mfu}, {line['memory_gb']:.1f} GB, {format_seconds(left)} left"
        )
        print(f"\r\033[K{text}" if terminal else text, end="" if terminal and step < self.num_steps else "\n", file=sys.stderr, flush=True)


def peak_memory_gb() -> float:
    """Largest memory so far in GB: allocated on the GPU, or resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def make_trackers(out: Path, tensorboard: bool, wandb: str | None, settings: dict[str, Any], first_step: int = 0) -> list[Tracker]:
    """The optional reports that were asked for. Raises UserError when a package is absent."""
    trackers: list[Tracker] = []
    if tensorboard:
        from train.tensorboard_log import TensorBoardLog

        trackers.append(TensorBoardLog(out, first_step))
    if wandb:
        from train.wandb_log import WandbLog

        trackers.append(WandbLog(out, wandb, settings))
    return trackers
