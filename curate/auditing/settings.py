"""Settings of `curate audit`."""

from dataclasses import dataclass
from pathlib import Path

from curate.records.settings import option

ACTIONS = ("label", "export", "import", "report")


@dataclass(frozen=True)
class AuditSettings:
    """What is drawn, who answers, and how. The sample is drawn once, by the first action on a folder; what describes it is hashed."""

    action: str = option(
        "label",
        "label: the terminal page; export: an HTML page to label in; import: read such a page's answers; report: agreement so far.",
        hashed=False,
        choices=ACTIONS,
    )
    labels: Path | None = option(None, "Output folder of `curate classify`; needed once, to draw the sample.", hashed=False)
    out: Path | None = option(None, "Folder of the audit: sample, answers, annotations, report.", hashed=False)
    annotator: str | None = option(None, "Who answers: letters, digits and . _ - (label, export).", hashed=False)
    items: int = option(200, "Documents to draw.", at_least=1)
    bands: str = option("0.2,0.5,0.8", "Where the bands of a behavior's score begin; strata are made of them.")
    seed: int = option(0, "Seed of the draw and of its order.", at_least=0)
    text_key: str = option("text", "Column of the corpus that holds the text.")
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors, as the labels were made with.")
    threshold: float = option(0.5, "From this probability on the labels say that a behavior is shown (report).", hashed=False)
    page: Path | None = option(None, "HTML file to write (export); default OUT/label-ANNOTATOR.html.", hashed=False)
    answers: tuple[Path, ...] = option((), "JSON files that the HTML page saved (import), repeatable.", hashed=False)
