"""Seconds of `evals countdown` on 1,024 tasks with four samples each, from the start of the process to its end.

    python bench/countdown_evaluation.py [--model FOLDER] [--tasks 1024] [--samples 4]

Without --model, a random one of 0.6M parameters that ends a response with one token in a hundred. There is no peer: the ratio is the limit
of 60 seconds over the time taken.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

LIMIT_SECONDS = 60


def random_model(folder: Path) -> Path:
    """A random model whose tokens are about equally likely, with as many stop tokens as make a hundredth of them."""
    from rl.warmstart import WORDS
    from train.export import export_model
    from train.tiny import make_tiny_model, make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer(WORDS)
    model: Any = make_tiny_model("0.6M", len(tokenizer), 0)
    model.generation_config.eos_token_id = list(range(2, 2 + max(1, round(len(tokenizer) / 100))))
    export_model(model, tokenizer, folder, dtype=torch.float32)
    return folder


def main() -> None:
    """Make what is needed, measure, end with a JSON line and a ratio line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tasks", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = given.model or random_model(folder / "model")
        made = ["--operands", "3", "--max-number", "9", "--min-target", "1", "--max-target", "20", "--num-train", "0"]
        command("rl.main", "tasks", *made, "--num-test", str(given.tasks), "--out", str(folder / "tasks"))
        asked = ["--preset", "tiny", "--max-response-tokens", "192", "--no-greedy", "--samples-per-task", str(given.samples)]
        out = folder / "out"
        seconds = command("eval.main", "countdown", "--model", str(model), "--data", str(folder / "tasks"), *asked, "--out", str(out))
        (found,) = json.loads((out / "summary.json").read_text())["sets"]
    responses = found["sampled"]["responses"]
    parts = {
        "tasks": found["num_answered"],
        "responses": responses,
        "tokens_a_response": round(found["sampled"]["tokens"], 1),
        "seconds": round(seconds, 1),
        "responses_per_second": round(responses / seconds, 1),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(parts))
    print(f"ratio: {LIMIT_SECONDS / seconds:.2f}")


def command(module: str, *arguments: str) -> float:
    """Seconds of a command of ours. Ends the script when it fails."""
    started = time.perf_counter()
    if subprocess.run([sys.executable, "-m", module, *arguments]).returncode:
        raise SystemExit(1)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
