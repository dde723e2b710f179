"""TensorBoard events of a run; the only file that imports tensorboard."""

from pathlib import Path
from typing import Any

from curate.records.errors import UserError


class TensorBoardLog:
    """Every number of a metrics line as a scalar under its key, in `out/tensorboard`."""

    def __init__(self, out: Path, first_step: int) -> None:
        """`first_step`: events of a killed run from this step on are hidden. Raises UserError without the package."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=first_step)

    def log(self, step: int, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        for key, value in line.items():
            if isinstance(value, (int, float)) and key != "step":
                self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        """Everything on disk."""
        self.writer.close()
