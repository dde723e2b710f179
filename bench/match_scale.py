"""From 6.3 million label rows to matched candidates for two arms of 8.3 million tokens: how long, and in how much memory?

The labels are made here (real columns, distributions as in OpenWebMath), once, in a folder that later runs use again. Ours is
`curate select --matched` as a user calls it, topics and the hash of every input part included. The peer is the same thing in plain
pandas: read the columns, filter, cut into bins, sample equally from each stratum (no caliper, no nearest neighbour: an easier task).
Each runs in a process of its own, whose peak memory is taken. An example has 290 tokens (8.3M tokens and 28,300 examples in the
published set), so 8.3M tokens are 28,600 examples; 40,000 pairs of candidates leave room for rewrites that fail.
Goal: ours under 30 s and 2 GB on two cores.

    python bench/match_scale.py [--rows 6300000] [--pairs 40000] [--folder DIR]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

BEHAVIORS = {"verification": 0.015, "backtracking": 0.017, "subgoal_setting": 0.066, "backward_chaining": 0.007}
FILE_ROWS, HOSTS, TOPICS = 55_000, 40_000, 32
TOKENS_PER_EXAMPLE, ARM_TOKENS = 290, 8_300_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6_300_000)
    parser.add_argument("--pairs", type=int, default=40_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fourhabits-match-scale")
    parser.add_argument("--side", choices=("make", "ours", "pandas"), help="Run one side alone, in this process.")
    options = parser.parse_args()
    if options.side:
        {"make": make, "ours": ours, "pandas": with_pandas}[options.side](options.folder, options.rows, options.pairs)
        return
    if not (options.folder / f"done-{options.rows}").exists():
        run("make", options)
    results = {side: run(side, options) for side in ("ours", "pandas")}
    found = {f"{side}_{key}": value for side, result in results.items() for key, value in result.items()}
    capacity = results["ours"]["pairs"] * TOKENS_PER_EXAMPLE
    print(json.dumps({"rows": options.rows, "arm_tokens": ARM_TOKENS, "tokens_of_candidates": capacity, "cores": os.cpu_count(), **found}))
    print(f"ratio: {results['pandas']['seconds'] / results['ours']['seconds']:.2f}")


def run(side: str, options: argparse.Namespace) -> dict[str, float]:
    """Run one side in a process of its own; what it printed last, as JSON."""
    command = [sys.executable, __file__, "--side", side, "--rows", options.rows, "--pairs", options.pairs, "--folder", options.folder]
    done = subprocess.run([str(item) for item in command], check=True, capture_output=True, text=True)
    print(f"{side}: {done.stdout.strip()}", flush=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(started: float, **values: float) -> None:
    """The JSON line of a side: seconds since `started`, those of processors (all threads), and the highest memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = {"seconds": round(time.monotonic() - started, 2), "cpu_seconds": round(time.process_time(), 2)}
    print(json.dumps({**seconds, "peak_gb": round(peak, 3), **values}))


def ours(folder: Path, rows: int, pairs: int) -> None:
    started = time.monotonic()
    from curate.selection import SelectSettings
    from pipelines.select import select

    with tempfile.TemporaryDirectory() as out:
        settings = SelectSettings(labels=folder / "labels", topics=folder / "topics", out=Path(out), matched=True, limit=pairs)
        manifest = select(settings)
        matched = manifest.notes["matching"]["pairs"]
        seconds = time.monotonic()
        import polars as pl

        from curate.balance import compare

        chosen = pl.read_parquet(Path(out) / "parts" / "part.parquet", columns=COVARIATES)
        sides = tuple(chosen.filter(pl.col("cell") == cell) for cell in ("selected", "free"))
        table = compare(sides, sides, ("selected", "free"), settings.match_on)
        worst = max(abs(row["smd"]) for row in table if row["kind"] == "matched")
    report(started + time.monotonic() - seconds, pairs=matched, largest_matched_smd=round(worst, 4))


COVARIATES = ["cell", "source", "source_file", "url", "num_chars", "topic", "notation_density", "difficulty", "license", "num_windows"]


def with_pandas(folder: Path, rows: int, pairs: int) -> None:
    started = time.monotonic()
    import pandas as pd

    scores = [f"{name}_score" for name in BEHAVIORS]
    columns = ["file_sha256", "source_row", "url", "num_chars", "notation_density", "problem_score", "solution_score", "error", *scores]
    labels = pd.concat([pd.read_parquet(path, columns=columns) for path in sorted((folder / "labels" / "parts").glob("*.parquet"))])
    topics = pd.concat([pd.read_parquet(path) for path in sorted((folder / "topics" / "parts").glob("*.parquet"))])
    labels = labels[labels["error"].isna() & (labels["problem_score"] >= 0.5) & (labels["solution_score"] >= 0.5)]
    labels["cell"] = np.where((labels[scores] >= 0.5).any(axis=1), "selected", np.where((labels[scores] < 0.2).all(axis=1), "free", ""))
    labels = labels[labels["cell"] != ""].merge(
        topics[["file_sha256", "source_row", "topic", "difficulty"]], on=["file_sha256", "source_row"]
    )
    labels["host"] = labels["url"].str.extract(r"^[a-z]+://(?:www\.)?([^/:?#]+)", expand=False)
    common = labels["host"].value_counts()
    labels.loc[labels["host"].map(common) < 20, "host"] = "rare hosts"
    labels["length"] = np.floor(np.log2(labels["num_chars"])).astype(int)
    for name in ("notation_density", "difficulty"):
        labels[f"{name}_bin"] = pd.qcut(labels[name], 4, labels=False, duplicates="drop")
    strata = ["host", "length", "topic", "notation_density_bin", "difficulty_bin"]
    labels = labels.sample(frac=1, random_state=0)
    counts = labels.groupby([*strata, "cell"]).size().unstack(fill_value=0).min(axis=1).rename("count").reset_index()
    labels = labels.merge(counts, on=strata)
    matched = labels[labels.groupby([*strata, "cell"]).cumcount() < labels["count"]]
    chosen = matched.groupby("cell").head(pairs)
    gaps = []
    for name in ("num_chars", "notation_density", "difficulty"):
        values = np.log2(chosen[name]) if name == "num_chars" else chosen[name]
        sides = [values[chosen["cell"] == cell] for cell in ("selected", "free")]
        gaps.append(abs(sides[0].mean() - sides[1].mean()) / np.sqrt((sides[0].var() + sides[1].var()) / 2))
    report(started, pairs=int((chosen["cell"] == "selected").sum()), largest_matched_smd=round(float(max(gaps)), 4))


def make(folder: Path, rows: int, pairs: int) -> None:
    """Write labels and topics of `rows` documents in files of FILE_ROWS, with manifests."""
    from curate.records import schemas
    from curate.records.manifest import Manifest
    from curate.records.parts import write_part
    from pipelines.topics import TABLE

    started = time.monotonic()
    generator = np.random.default_rng(0)
    popularity = 1 / np.arange(1, HOSTS + 1)
    popularity /= popularity.sum()
    names = list(BEHAVIORS)
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - first)
        file = f"data/train-{number:05d}-of-00114.parquet"
        labels, topics = columns_of(generator, popularity, count, file)
        for stage, schema, values in (("labels", schemas.labels(names), labels), ("topics", TABLE, topics)):
            arrays = [pa.array(values[item.name], item.type) if item.name in values else pa.nulls(count, item.type) for item in schema]
            write_part(
                folder / stage / "parts" / f"{number:05d}.parquet", pa.Table.from_arrays(arrays, schema=schema), {"settings_hash": "made"}
            )
    for stage, name in (("labels", "classify"), ("topics", "topics")):
        Manifest(name, {"text_key": "text"}, rows_in=rows, rows_out=rows, model="made").write(folder / stage)
    (folder / f"done-{rows}").touch()
    report(started)


def columns_of(generator: np.random.Generator, popularity: np.ndarray, count: int, file: str) -> tuple[dict, dict]:
    """The columns of one file of labels, and of its topics: longer pages show more behavior, hosts have their topics."""
    host = generator.choice(len(popularity), count, p=popularity)
    topic = np.where(generator.random(count) < 0.6, host % TOPICS, generator.integers(0, TOPICS, count))
    chars = np.clip(np.exp(generator.normal(8.4, 1.0, count)), 200, 400_000).astype(np.int64)
    density = generator.beta(2, 18, count) + 0.05 * (topic % 4 == 0)
    difficulty = generator.normal(9 + topic % 5, 3, count)
    digits = generator.bytes(32 * count).hex()
    file_digest = generator.bytes(32).hex()
    length = (np.log(chars) - 8.4)[:, None]
    shown = generator.random((count, 4)) < np.array(list(BEHAVIORS.values())) * np.exp(0.5 * length)
    scores = np.where(shown, generator.beta(6, 2, (count, 4)), generator.beta(1, 14, (count, 4))).astype(np.float32)
    problem = generator.random(count) < 0.4
    solution = problem & (generator.random(count) < 0.7)
    marks = shown.sum(axis=1)
    spans = [{"behavior": "verification", "start": 10, "end": 200, "score": 0.8}]
    rows = np.arange(count)
    identity = {
        "file_sha256": [file_digest] * count,
        "source_file": [file] * count,
        "source_row": rows,
        "source": [file] * count,
    }
    labels = {
        **identity,
        "url": [
            f"https://www.host{name}.org/questions/{number}/some-page" for name, number in zip(host.tolist(), rows.tolist(), strict=True)
        ],
        "text_sha256": [digits[64 * place : 64 * place + 64] for place in range(count)],
        "num_chars": chars,
        "num_windows": 1 + chars // 2400,
        **{f"{name}_score": scores[:, place] for place, name in enumerate(BEHAVIORS)},
        "evidence": [spans * int(mark) for mark in marks],
        "label_mass": generator.beta(40, 1, count),
        "problem_score": np.where(problem, generator.beta(8, 2, count), generator.beta(2, 8, count)),
        "solution_score": np.where(solution, generator.beta(8, 2, count), generator.beta(2, 8, count)),
        "notation_density": density,
        "error": [None if value > 1e-4 else "the document is empty" for value in generator.random(count)],
    }
    return labels, {**identity, "topic": [f"{name:02d} topic" for name in topic.tolist()], "difficulty": difficulty}


if __name__ == "__main__":
    main()
