"""How many documents a second does mode `score` label, against the published layout with its rationale?

One engine (SmolLM2-135M as the stand-in), the same documents, a uniform draw from a folder of corpora, rounds in turn, prefix cache empty
before each. Times are those of `curate classify` from the call to the manifest; `cpu_seconds` are what this process and its engine
computed, which other work on the machine changes less. The published layout (`--preset four-habits`) asks four
prompts a document and may write 96 tokens of rationale; `score` asks six questions of every window (the behaviors, problem, solution).
Goals: ratio (documents a second, median over rounds) at least 5; prompt tokens that the engine did not find in its cache (its own
count) at most 1.25 times the tokens of the documents.

    python bench/label_cost.py $FOURHABITS_TEST_DATA/corpus [--documents 24] [--rounds 1]
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import polars as pl
import psutil

from curate.classification import ClassifySettings
from curate.engines.settings import EngineSettings, keep_engines, make_engine
from curate.records.manifest import Manifest
from pipelines.classify import classify

WAYS = {"score": {}, "rationale": {"preset": "four-habits", "rationale_tokens": 96}}


def cpu_seconds() -> float:
    """Processor time so far of this process and all that it started."""
    me = psutil.Process()
    times = [process.cpu_times() for process in [me, *me.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of Parquet files with a column text")
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another setting of classify, for trying designs")
    options = parser.parse_args()
    texts = pl.concat([pl.read_parquet(path, columns=["text"]) for path in sorted(options.corpus.glob("*.parquet"))])
    texts = texts.sample(options.documents, seed=options.seed)
    tried = {name: json.loads(value) for name, value in (item.split("=", 1) for item in options.set)}
    base = dataclasses.replace(ClassifySettings(model="smollm2-135m", max_model_tokens=4096), **tried)
    own = EngineSettings(**{item.name: getattr(base, item.name) for item in dataclasses.fields(EngineSettings)})
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    worked: dict[str, list[float]] = {way: [] for way in WAYS}
    made: dict[str, Manifest] = {}
    with tempfile.TemporaryDirectory() as folder, keep_engines(), make_engine(own) as engine:
        root = Path(folder)
        texts.write_parquet(root / "documents.parquet")
        texts.head(1).write_parquet(root / "few.parquet")
        own_tokens = sum(len(engine._renderer.plain(text)) for text in texts["text"])  # type: ignore[attr-defined]
        for number in range(options.rounds + 1):  # the first round warms the engine on one document
            for way, what in WAYS.items():
                engine._threads.run(engine._llm.reset_prefix_cache())  # type: ignore[attr-defined]
                read = str(root / ("documents.parquet" if number else "few.parquet"))
                started, before = time.perf_counter(), cpu_seconds()
                made[way] = classify(dataclasses.replace(base, dataset=(read,), out=root / f"{way}-{number}", **what))
                if number:
                    seconds[way].append(time.perf_counter() - started)
                    worked[way].append(cpu_seconds() - before)
                    print(f"round {number}: {way} {seconds[way][-1]:.2f} s, processor {worked[way][-1]:.2f} s", flush=True)
    parts: dict[str, object] = {"documents": options.documents, "document_tokens": own_tokens, "settings": tried}
    for way, manifest in made.items():
        tokens = manifest.tokens
        uncached = tokens["prompt_tokens"] - tokens["cached_tokens"]
        parts[way] = {
            "seconds": seconds[way],
            "cpu_seconds": worked[way],
            "documents_per_second": options.documents / statistics.median(seconds[way]),
            "requests": manifest.notes["requests"],
            **tokens,
            "uncached_prompt_tokens": uncached,
            "uncached_over_document": uncached / own_tokens,
            "errors": sum(manifest.errors.values()),
        }
    ratios = [slow / fast for slow, fast in zip(seconds["rationale"], seconds["score"], strict=True)]
    cpu_ratios = [slow / fast for slow, fast in zip(worked["rationale"], worked["score"], strict=True)]
    print(json.dumps(parts | {"ratios": ratios, "cpu_ratios": cpu_ratios}))
    print(f"ratio: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
