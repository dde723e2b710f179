"""How much slower is the classify pipeline than a bare `LLM.generate` on the same prompts?

Both engines are started and warmed first; then they take turns on the same documents with an empty prefix cache. The pipeline's time
is that of `curate classify` from the call to the manifest: hashing, reading, windows, tokenising, scoring, writing.
Goal: ratio (pipeline / bare, median over rounds) at most 1.05.

    python bench/classify_overhead.py [--documents 24] [--rounds 3]
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

from curate.behaviors import load_behaviors
from curate.classification import ClassifySettings
from curate.corpus import find_files
from curate.engines.models import embedded_model
from curate.engines.settings import EngineSettings, keep_engines, make_engine
from curate.prompts import ScoringPrompts
from curate.reading import read_rows
from curate.windows import split_windows
from pipelines.classify import classify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from vllm import LLM, SamplingParams

    settings = ClassifySettings(model="smollm2-135m", limit=options.documents, max_model_tokens=4096).resolved()
    own = EngineSettings(**{item.name: getattr(settings, item.name) for item in dataclasses.fields(EngineSettings)})
    file = find_files(["sample"]).files[0]
    texts = [row.values["text"] for row in read_rows(file.root, file.path, [(0, options.documents)])]
    with keep_engines(), make_engine(own) as engine:
        prompts = ScoringPrompts(load_behaviors())
        renderer = engine._renderer  # type: ignore[attr-defined]  # the same token ids for both sides
        requests = [
            {"prompt_token_ids": renderer.encode(prompts.prompt(text[start:end], name))}
            for text in texts
            for start, end in split_windows(text, settings.window_chars)
            for name in prompts.questions
        ]
        ids = renderer.label_ids("Answer:")
        parameters = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=[*ids["yes"], *ids["no"]], detokenize=False)
        same = {
            "enable_prefix_caching": True,
            "block_size": 32,
            "enforce_eager": True,
            "max_num_seqs": 32,
            "kv_cache_memory_bytes": 1 << 30,
        }
        bare = LLM(str(embedded_model()), max_model_len=settings.max_model_tokens, **same)
        bare_seconds, pipeline_seconds = [], []
        for number in range(options.rounds + 1):  # the first round warms both
            bare.reset_prefix_cache()
            started = time.perf_counter()
            bare.generate(requests, parameters, use_tqdm=False)
            bare_seconds.append(time.perf_counter() - started)
            engine._threads.run(engine._llm.reset_prefix_cache())  # type: ignore[attr-defined]
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                classify(dataclasses.replace(settings, dataset=("sample",), out=Path(folder) / "labels"))
                pipeline_seconds.append(time.perf_counter() - started)
            print(f"round {number}: bare {bare_seconds[-1]:.2f} s, pipeline {pipeline_seconds[-1]:.2f} s", flush=True)
    ratios = [pipeline / alone for pipeline, alone in zip(pipeline_seconds[1:], bare_seconds[1:], strict=True)]
    parts = {
        "documents": options.documents,
        "requests": len(requests),
        "bare_seconds": bare_seconds[1:],
        "pipeline_seconds": pipeline_seconds[1:],
    }
    print(json.dumps(parts))
    print(f"ratio: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
