"""`curate report`: what a run found, on one self-contained HTML page."""

from dataclasses import dataclass
from pathlib import Path

from curate.records.settings import option


@dataclass(frozen=True)
class ReportSettings:
    """Which run is shown, and how many examples."""

    run: Path | None = option(None, "Folder of a `curate run` (labels, frequencies, candidates, qa, verified, sets in it).", hashed=False)
    out: Path | None = option(None, "HTML file to write; default report.html in the run's folder.", hashed=False)
    examples: int = option(3, "Documents shown for each behavior, and pairs shown side by side.")
