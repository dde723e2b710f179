"""What `curate match` takes out before it matches: evaluation problems, tasks of the game, near-duplicates."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from curate.cleaning import CleaningSettings, connect, contains_task, contaminated, near_duplicates, read_evaluation, read_tasks
from curate.selection import keep
from curate.verification import passage

TEXTS = ("question", "thoughts", "answer")


@dataclass
class Log:
    """What happens to rows, and what the user must know; both end up in the manifest."""

    dropped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def drop(self, reason: str, rows: int) -> None:
        if rows:
            self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def reasons(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "nothing left out"


def clean(frame: pl.DataFrame, settings: CleaningSettings, log: Log) -> pl.DataFrame:
    """Take out evaluation problems, tasks of the game, and all but one of near-duplicates; always all versions of a document.

    Which of several near-duplicates stays is drawn by content and seed, whatever their arms.
    """
    if settings.decontaminate:
        evaluations = [read_evaluation(path) for path in settings.decontaminate]
        texts, questions = [passage(row) for row in frame.select(TEXTS).iter_rows(named=True)], frame["question"].to_list()
        result = contaminated(texts, questions, evaluations, settings.decontaminate_words)
        by_name = Counter(result.found.values())
        for name, indexed in result.indexed.items():
            print(
                f"decontamination against {name}: {indexed['texts']:,} texts, {indexed['n_grams']:,} n-grams of "
                f"{settings.decontaminate_words} words ({indexed['matched_whole']:,} shorter texts are matched whole): "
                f"{by_name[name]} of {frame.height} rows matched"
            )
        log.notes["decontamination"] = {name: {**indexed, "rows_matched": by_name[name]} for name, indexed in result.indexed.items()}
        frame = without(frame, [number in result.found for number in range(frame.height)], "evaluation problem", log)
    if settings.countdown_tasks:
        index = read_tasks(settings.countdown_tasks)
        hits = [contains_task(f"{row['question']}\n{row['answer']}", index.tasks) for row in frame.select(TEXTS).iter_rows(named=True)]
        print(
            f"Countdown tasks: {index.rows:,} rows, {len(index.tasks):,} different tasks, {index.duplicates:,} duplicates; "
            f"{sum(hits)} of {frame.height} rows matched"
        )
        log.notes["countdown"] = {"rows": index.rows, "tasks": len(index.tasks), "duplicates": index.duplicates, "rows_matched": sum(hits)}
        frame = without(frame, hits, "Countdown task", log)
    if settings.similarity > 0 and frame.height:
        texts = [passage(row) for row in frame.select(TEXTS).iter_rows(named=True)]
        units = frame["pair_id"].to_list()
        pairs = near_duplicates(texts, units, settings.similarity)
        names = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
        roots = connect(len(names), {(names[units[a]], names[units[b]]) for a, b in pairs})
        cluster = pl.Series("_cluster", [roots[names[unit]] for unit in units], dtype=pl.Int64)
        ordered = frame.with_columns(cluster).with_row_index("_row").sort("_key", "pair_id")
        stays = ordered.unique("_cluster", keep="first", maintain_order=True)["pair_id"]
        gone = [unit not in kept for kept in [set(stays)] for unit in units]
        documents = len({unit for unit, leaves in zip(units, gone, strict=True) if leaves})
        print(f"near-duplicates: {documents} of {len(names)} documents repeat another (similarity {settings.similarity:g} or more)")
        log.notes["near_duplicates"] = {"documents": len(names), "removed": documents, "similar_pairs_of_rows": len(pairs)}
        frame = without(frame, gone, "near-duplicate", log)
    return frame


def without(frame: pl.DataFrame, hits: Sequence[bool], reason: str, log: Log) -> pl.DataFrame:
    """`frame` without the documents of the rows that `hits` marks: the other versions of a document leave with it."""
    found = frame.filter(pl.Series(hits, dtype=pl.Boolean))["pair_id"].unique().to_list()
    return keep(frame, ~pl.col("pair_id").is_in(found), reason, log.dropped)
