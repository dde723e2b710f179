"""`curate distill`: settings."""

from dataclasses import dataclass
from pathlib import Path

from curate.records.settings import option

SHIPPED = "shipped"


@dataclass(frozen=True)
class DistillSettings:
    """Which labelled windows the student learns from, and how it is judged."""

    windows: tuple[str, ...] = option(
        (SHIPPED,),
        "Parquet files of labelled windows (text, doc, source, a column for each behavior, problem, solution; evidence, weight if there "
        "are any); shipped: the labels that come with the project, whose texts are in --corpus.",
        hashed=False,
    )
    corpus: tuple[str, ...] = option((), "Documents of windows without text: Parquet or JSONL files, folders, globs.", hashed=False)
    out: Path | None = option(None, "Folder to write to: the student, its figures and its card.", hashed=False)
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors.")
    folds: int = option(5, "Parts that documents are divided into for cross-fitting and cross-validation.", at_least=2)
    seed: int = option(0, "Seed of everything random in this stage.", at_least=0)
    evaluate: str = option(
        "source",
        "How the student is judged: by cross-validation by document, also with each source left out, or not at all.",
        choices=("none", "document", "source"),
        hashed=False,
    )
    text_key: str = option("text", "Column of the corpus that holds the text.")
    id_key: str = option("id", "Column of the corpus that holds the document's id.")
