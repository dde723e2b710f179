"""Weights & Biases for a run; the only file that imports wandb."""

import secrets
from pathlib import Path
from typing import Any

from curate.records.errors import UserError
from curate.records.parts import atomic_file

ID_FILE = "wandb-run-id"


class WandbLog:
    """Every metrics line under its keys, in one W&B run that a resumed training run continues (`out/wandb-run-id` names it).

    W&B ignores a step that it already has; on the CPU a resumed run repeats those bit for bit.
    """

    def __init__(self, out: Path, project: str, settings: dict[str, Any]) -> None:
        """`settings` becomes the W&B run's configuration. Raises UserError without the package."""
        try:
            import wandb
        except ImportError:
            raise UserError("--wandb needs the package wandb: pip install wandb") from None
        id_file = out / ID_FILE
        if not id_file.is_file():
            with atomic_file(id_file) as file:
                file.write(secrets.token_hex(8).encode())
        self.run = wandb.init(project=project, dir=str(out), name=out.name, id=id_file.read_text().strip(), resume="allow", config=settings)

    def log(self, step: int, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        self.run.log({key: value for key, value in line.items() if value is not None}, step=step)

    def close(self) -> None:
        """Everything sent."""
        self.run.finish()
