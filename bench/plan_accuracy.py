"""How near is `curate plan` to what the run then takes?

Each engine in its own process, as a user would start it: `curate plan --calibrate` (starts the engine, times it on a few documents, stops
it), then `curate classify` on the same corpus; the run's seconds are those of its manifest, from the call to the end, the start of the
engine included. The documents that are timed are drawn at random and are among those that are run, as they would be in a real corpus.
Goal: ratio (planned / taken) between 0.75 and 1.25 for the 135M model and for the student.

    python bench/plan_accuracy.py --corpus FILE_OR_FOLDER [--engine vllm --documents 60 --calibrate 16 | --engine student --documents 4000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ENGINES = {"vllm": ["--engine", "vllm", "--model", "smollm2-135m"], "student": ["--engine", "student"]}


def curate(*arguments: str) -> None:
    command = [sys.executable, "-c", "from pipelines.main import main; main()", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="sample")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="vllm")
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--calibrate", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    common = [*ENGINES[options.engine], "--dataset", options.corpus, "--sample", str(options.documents), "--seed", str(options.seed)]
    with tempfile.TemporaryDirectory() as folder:
        plan, labels = Path(folder) / "plan.json", Path(folder) / "labels"
        curate("plan", *common, "--calibrate", str(options.calibrate), "--json-file", str(plan))
        curate("classify", *common, "--out", str(labels))
        planned = json.loads(plan.read_text())[0]
        manifest = json.loads((labels / "manifest.json").read_text())
        size = sum(path.stat().st_size for path in (labels / "parts").glob("*"))
    parts = {
        "engine": options.engine,
        "documents": manifest["rows_out"],
        "calibrated_on": options.calibrate,
        "planned_seconds": planned["seconds"],
        "taken_seconds": manifest["seconds"],
        "planned_prompt_tokens": planned["work"]["prompt_tokens"],
        "taken_prompt_tokens": manifest["tokens"].get("prompt_tokens", 0),
        "planned_new_tokens": planned["work"]["new_tokens"],
        "taken_new_tokens": manifest["tokens"].get("prompt_tokens", 0) - manifest["tokens"].get("cached_tokens", 0),
        "planned_requests": planned["work"]["requests"],
        "taken_requests": manifest["notes"]["requests"],
        "disk_bytes": size,
    }
    print(json.dumps(parts))
    print(f"ratio: {planned['seconds']['likely'] / manifest['seconds']:.3f}")


if __name__ == "__main__":
    main()
