"""`curate verify`: every rewrite is labelled again and held against what its cell should show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from curate.engines.settings import EngineSettings
from curate.records.settings import option

if TYPE_CHECKING:
    import polars as pl

# What a cell should show: the behaviors of its source, none, or all that were asked for.
TARGETS = {"selected": "source", "free": "source", "selected_stripped": "none", "paper_enriched": "source", "paper_control": "none"}


@dataclass(frozen=True)
class VerifySettings(EngineSettings):
    """Which rewrites are judged, by whom (`--model` is the judge), and in what windows."""

    qa: Path | None = option(None, "Output folder of `curate rewrite`.", hashed=False)
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors.")
    window_chars: int = option(2400, "Longest window in characters.", at_least=1)
    limit: int | None = option(None, "Judge only the first N rewrites.", at_least=1)
    chunk_rows: int = option(256, "Rewrites per chunk: the unit that is done or not done.", at_least=1)
    executor: str = option("local", "Where tasks run.", choices=("local", "slurm"), hashed=False)
    tasks: int = option(1, "Tasks that share the work; each drives one engine.", hashed=False, at_least=1)
    slurm: tuple[str, ...] = option((), "Slurm settings as name=value.", hashed=False)


class AsPassage(PipelineStep):
    """Makes a rewrite a passage to judge: its question, thoughts and answer, without tags that would give the rewriter away."""

    type = "READER"
    name = "rewrites"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            row = document.metadata["row"]
            if document.metadata["error"] is None:
                document.text = passage(row)
            kept = ("file_sha256", "source_file", "source_row", "id", "source", "url", "license", "pair_id", "cell")
            document.metadata["row"] = {key: row.get(key) for key in kept}
            yield document


def passage(row: Mapping[str, Any]) -> str:
    """The text of a rewrite as a reader sees it."""
    return f"{row['question']}\n\n{row['thoughts']}\n\n{row['answer']}"


def family(model: str | None) -> str:
    """`Qwen/Qwen2.5-32B-Instruct` -> `qwen`: who made a model, for judging whether judge and rewriter are related."""
    name = (model or "").rstrip("/").rpartition("/")[2].lower()
    return "".join(character for character in name.split("-")[0] if character.isalpha())


def fidelity(
    labels: "pl.DataFrame", sources: "pl.DataFrame", behaviors: Sequence[str], present: Mapping[str, float]
) -> list[dict[str, Any]]:
    """For each cell and behavior: how many sources showed it, and how many rewrites kept, lost or gained it.

    `labels` are those of the rewrites, `sources` those of their documents; a behavior is shown from its `present` threshold on.
    `agreement` is the share of rewrites in the state that the cell should have, with its Wilson interval.
    """
    import polars as pl

    rows = []
    joined = labels.filter(pl.col("error").is_null()).join(sources, on=["file_sha256", "source_row"], how="inner", suffix="_source")
    for (cell,), group in sorted(joined.group_by("cell"), key=lambda item: str(item[0])):
        for name in behaviors:
            before = group[f"{name}_score_source"] >= present[name]
            after = group[f"{name}_score"] >= present[name]
            target = before if TARGETS[str(cell)] == "source" else before & False
            agree = int((after == target).sum())
            low, high = wilson(agree, group.height)
            rows.append(
                {
                    "cell": cell,
                    "behavior": name,
                    "rewrites": group.height,
                    "source_shows": int(before.sum()),
                    "kept": int((before & after).sum()),
                    "lost": int((before & ~after).sum()),
                    "gained": int((~before & after).sum()),
                    "target": TARGETS[str(cell)],
                    "agreement": agree / group.height,
                    "agreement_low": low,
                    "agreement_high": high,
                }
            )
    return rows


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share. No trials: (0, 1)."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(centre - half, 0.0), min(centre + half, 1.0)
