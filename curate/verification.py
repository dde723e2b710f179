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

FIDELITY_FILE = "fidelity.json"
# What a cell should show: the behaviors of its source, none, or those that were injected. Each row names its own in `target`.
TARGETS = {
    "selected": "source",
    "free": "none",
    "selected_stripped": "none",
    "free_injected": "injected",
    "paper_enriched": "source",
    "paper_control": "none",
}


@dataclass(frozen=True)
class VerifySettings(EngineSettings):
    """Which rewrites are judged, by whom (`--model` is the judge), and in what windows."""

    qa: Path | None = option(None, "Output folder of `curate rewrite`.", hashed=False)
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors.")
    window_chars: int | None = option(None, "Longest window in characters (default 7200; student 2400).", at_least=1)
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
            kept = ("file_sha256", "source_file", "source_row", "id", "source", "url", "license", "pair_id", "cell", "target")
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

    `labels` are those of the rewrites, with `target`; `sources` those of their documents. A behavior is shown from its `present`
    threshold on. Shares have Wilson's 95 % interval: `kept_share` of the sources that show it, `gained_share` of those that do not,
    `agreement` of all rewrites, which are in agreement when they show the behavior exactly if their `target` names it.
    """
    import polars as pl

    rows = []
    joined = labels.filter(pl.col("error").is_null()).join(sources, on=["file_sha256", "source_row"], how="inner", suffix="_source")
    for (cell,), group in sorted(joined.group_by("cell"), key=lambda item: str(item[0])):
        for name in behaviors:
            before = (group[f"{name}_score_source"] >= present[name]).fill_null(False)
            after = group[f"{name}_score"] >= present[name]
            target = group["target"].list.contains(name).fill_null(False)
            counts = {
                "rewrites": group.height,
                "source_shows": int(before.sum()),
                "should_show": int(target.sum()),
                "shows": int(after.sum()),
                "kept": int((before & after).sum()),
                "lost": int((before & ~after).sum()),
                "gained": int((~before & after).sum()),
            }
            shares = {
                **share("kept_share", counts["kept"], counts["source_shows"]),
                **share("gained_share", counts["gained"], group.height - counts["source_shows"]),
                **share("agreement", int((after == target).sum()), group.height),
            }
            rows.append({"cell": cell, "behavior": name, **counts, "target": TARGETS[str(cell)], **shares})
    return rows


def fidelity_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of `fidelity` as text, a line for each cell and behavior; shares in percent with their intervals."""
    if not rows:
        return ["no rewrite could be judged: nothing is known of what was kept, lost or gained"]

    def percent(row: Mapping[str, Any], name: str) -> str:
        if row[name] is None:
            return "–"
        return f"{100 * row[name]:.0f} ({100 * row[f'{name}_low']:.0f}-{100 * row[f'{name}_high']:.0f})"

    head = ["cell", "behavior", "rewrites", "kept", "lost", "gained", "kept %", "gained %", "as it should be %"]
    body = [
        [row["cell"], row["behavior"], *(f"{row[name]:,}" for name in ("rewrites", "kept", "lost", "gained"))]
        + [percent(row, name) for name in ("kept_share", "gained_share", "agreement")]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in [head, *body]]
    return ["before anything is dropped, of the sources' behaviors, with 95 % intervals:", *lines]


def share(name: str, successes: int, trials: int) -> dict[str, float | None]:
    """A share and its interval under `name`, `name_low`, `name_high`; None for no trials."""
    low, high = wilson(successes, trials)
    return {name: successes / trials if trials else None, f"{name}_low": low, f"{name}_high": high}


def faithful(behaviors: Sequence[str], present: Mapping[str, float]) -> "pl.Expr":
    """Whether a rewrite shows the behaviors of its `target` and no others, by `rewrite_<b>_score`; one without labels does not."""
    import polars as pl

    shows = [(pl.col(f"rewrite_{name}_score") >= present[name], pl.col("target").list.contains(name)) for name in behaviors]
    return pl.all_horizontal(*[(found == wanted).fill_null(False) for found, wanted in shows])


def against_gold(labels: "pl.DataFrame", behaviors: Sequence[str], present: Mapping[str, float]) -> list[dict[str, Any]]:
    """Precision and recall of the judge where the truth is known, a row for each cell and behavior and one over all cells.

    `labels` are those of the rewrites with a column `gold_<b>` (does the rewrite show it); rows where it is null are left out.
    """
    import polars as pl

    rows = []
    good = labels.filter(pl.col("error").is_null())
    for name in behaviors:
        known = good.filter(pl.col(f"gold_{name}").is_not_null())
        groups = [(str(cell), group) for (cell,), group in known.group_by("cell")]
        for cell, group in [*sorted(groups, key=lambda item: item[0]), ("all", known)]:
            truth, found = group[f"gold_{name}"], group[f"{name}_score"] >= present[name]
            right, shows, finds = int((truth & found).sum()), int(truth.sum()), int(found.sum())
            rows.append(
                {
                    "cell": cell,
                    "behavior": name,
                    "rewrites": group.height,
                    "gold_shows": shows,
                    "judge_finds": finds,
                    "both": right,
                    **share("precision", right, finds),
                    **share("recall", right, shows),
                    **share("false_alarms", finds - right, group.height - shows),
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
