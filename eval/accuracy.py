"""The numbers of one task set, all from its stored responses: accuracy with intervals, pass@k, response budgets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from eval import statistics
from rl.evaluate import wilson

SAMPLED, GREEDY = "sampled", "greedy"
BEHAVIORS = ("attempts", "verification", "backtracking", "subgoal_setting", "backward_chaining")
KS = (1, 2, 4, 8, 16, 32, 64)


def summarise(files: Sequence[Path], samples_per_task: int, budgets: Sequence[int]) -> dict[str, Any]:
    """All numbers of one task set. The names of `files` tell sampled responses from greedy ones."""
    rows = {name: pl.concat([pl.read_parquet(f) for f in files if f"-{name}-" in f.name] or [pl.DataFrame()]) for name in (SAMPLED, GREEDY)}
    sampled = rows[SAMPLED]
    found: dict[str, Any] = {"num_answered": sampled["task"].n_unique(), "samples_per_task": samples_per_task}
    for name, table in rows.items():
        if len(table):
            found[name] = share(table) | {
                "tokens": table["num_tokens"].mean(),
                "truncated": table["truncated"].mean(),
                "reasons": {row["reason"]: row["count"] for row in table["reason"].value_counts(sort=True).iter_rows(named=True)},
                "behaviors": {behavior: table[behavior].mean() for behavior in BEHAVIORS},
            }
    ks = [k for k in KS if k <= samples_per_task]
    found["pass_at_k"] = {k: _pass_at_k(sampled, pl.col("correct"), k) for k in ks}
    counted = sampled.with_columns(pl.col("numbers").list.len().alias("operands"))
    found["by_operands"] = {int(n): share(group) for (n,), group in sorted(counted.group_by("operands"))}
    found["by_budget"] = {budget: sampled.select(right_within(budget).mean()).item() for budget in budgets}
    found["sequential_against_parallel"] = [parallel(sampled, budget, ks) for budget in budgets]
    return found


def share(table: pl.DataFrame) -> dict[str, Any]:
    """Accuracy over all responses, with its interval."""
    tasks = table.group_by("task").agg(pl.col("correct").sum(), pl.len())
    low, high = clustered_wilson(tasks["correct"].to_numpy(), tasks["len"].to_numpy())
    return {"accuracy": float(np.mean(table["correct"].to_numpy())), "low": low, "high": high, "responses": len(table)}


def clustered_wilson(right: np.ndarray, responses: np.ndarray) -> tuple[float, float]:
    """Wilson's interval of a share over tasks, `right` out of `responses` in each, whose responses are not independent.

    The n of Wilson's formula is n / deff: responses over the design effect, the variance of the share between whole tasks over its
    variance if all responses were independent (Kish, Survey Sampling, 1965; with Wilson's interval: Franco, Little, Louis and Slud,
    J. Survey Statistics and Methodology 7, 2019). It is kept between the number of tasks and that of responses. Where no response, or
    every one, is right there is no spread to take deff from, and n is the number of tasks. With one response a task it is Wilson's own.
    """
    total, tasks = float(responses.sum()), len(responses)
    accuracy = float(right.sum()) / total
    independent = accuracy * (1 - accuracy) / total
    effective = float(tasks)
    if independent > 0 and tasks > 1:
        residuals = right - responses * accuracy
        clustered = tasks / (tasks - 1) * float(residuals @ residuals) / total**2
        effective = min(total, max(tasks, total * independent / clustered)) if clustered > 0 else total
    return wilson(accuracy * effective, effective)


def right_within(budget: int) -> pl.Expr:
    """Whether sampling with a limit of `budget` tokens would have been right: the last verdict on a prefix of so many tokens."""
    within = pl.element().filter(pl.element().struct.field("tokens") <= budget)
    return pl.col("verdicts").list.eval(within.struct.field("correct")).list.last().fill_null(False)


def parallel(sampled: pl.DataFrame, budget: int, ks: Sequence[int]) -> dict[str, Any]:
    """Accuracy for `budget` tokens a task, spent on n responses of budget/n each; n = 1 is sequential."""
    return {"budget_tokens": budget} | {f"best_of_{k}": _pass_at_k(sampled, right_within(budget // k), k) for k in ks}


def _pass_at_k(sampled: pl.DataFrame, right: pl.Expr, k: int) -> float:
    by_task = sampled.with_columns(right.alias("right")).group_by("task", maintain_order=True).agg(pl.col("right").sum(), pl.len())
    return float(np.mean([statistics.pass_at_k(c, n, k) for c, n in zip(by_task["right"].to_list(), by_task["len"].to_list())]))
