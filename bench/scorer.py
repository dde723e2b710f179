"""Scores a second, ours against the published scorer, on the same outputs in the same run (one core, alternating).

    python bench/scorer.py [--outputs FILE.parquet ...]

The peer is the reference's own code (TinyZero `verl/utils/reward_score/countdown.py`, Apache-2.0), less its random printing. It looks for
"Assistant:" and reads one line, so it is given "Assistant: " and the output with its line breaks as spaces: then it finds the same answers.
Without --outputs (columns prompt, raw_generation, as in the test data), made-up ones of 1,300 characters are scored.
"""

import argparse
import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from rl.scoring import score


def reference_score(solution: str, numbers: list[int], target: int) -> float:
    """The published scorer, `eval` and all."""
    if "Assistant:" not in solution:
        return 0.0
    line = solution.split("Assistant:", 1)[1].split("\n")[-1]
    matches = list(re.finditer(r"<answer>(.*?)</answer>", line))
    if not matches:
        return 0.0
    equation = matches[-1].group(1).strip()
    try:
        if sorted(int(number) for number in re.findall(r"\d+", equation)) != sorted(numbers):
            return 0.1
        if not re.match(r"^[\d+\-*/().\s]+$", equation):
            return 0.1
        result = eval(equation, {"__builtins__": None}, {})
        return 1.0 if abs(result - target) < 1e-5 else 0.1
    except Exception:
        return 0.1


def outputs(files: list[Path]) -> list[tuple[str, list[int], int]]:
    """(response, numbers, target) from files, or made up."""
    if not files:
        generator = random.Random(0)
        filler = "Let me try another one: 3 + 4 * 5 = 23, which is not it. "
        made = []
        for _ in range(1000):
            numbers = [generator.randint(1, 99) for _ in range(4)]
            answer = f"<answer>({numbers[0]} + {numbers[1]}) - {numbers[2]} * {numbers[3]}</answer>" if generator.random() < 0.45 else ""
            made.append((filler * 22 + answer, numbers, generator.randint(10, 100)))
        return made
    import pyarrow.parquet as pq

    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [
        (row["raw_generation"], json.loads(re.search(r"\[.*?\]", row["prompt"])[0]), int(re.search(r"equals (\d+)", row["prompt"])[1]))  # type: ignore[index]
        for row in rows
    ]


def rate(function: Callable[[str, list[int], int], object], items: list[tuple[str, list[int], int]], seconds: float) -> float:
    """Calls a second over at least `seconds`."""
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for item in items:
            function(*item)
        done += len(items)
    return done / (time.perf_counter() - started)


def main() -> None:
    """Measure, print, end with a JSON line and a ratio line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    folder = os.environ.get("FOURHABITS_TEST_DATA")
    default = sorted(Path(folder, "countdown").glob("outputs_*.parquet")) if folder else []
    parser.add_argument("--outputs", type=Path, nargs="*", default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each round")
    given = parser.parse_args()
    ours = outputs(given.outputs)
    theirs = [("Assistant: " + text.replace("\n", " "), numbers, target) for text, numbers, target in ours]
    rates: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(given.rounds):
        rates["ours"].append(rate(score, ours, given.seconds))
        rates["reference"].append(rate(reference_score, theirs, given.seconds))
    best = {name: max(values) for name, values in rates.items()}
    longest = 0.0
    for piece in ("<answer>", "</answer>", "(", "9*", "<answer>1</answer>", "= 1 "):
        text = f"<answer>{piece * (100_000 // len(piece))}</answer>"
        started = time.perf_counter()
        score(text, [9], 9)
        longest = max(longest, time.perf_counter() - started)
    agree = sum(score(*a, syntax="strict").correct == (reference_score(*b) == 1.0) for a, b in zip(ours, theirs))
    parts = {
        "outputs": len(ours),
        "scores_per_second": round(best["ours"]),
        "reference_scores_per_second": round(best["reference"]),
        "longest_of_100_kb_ms": round(longest * 1e3, 3),
        "same_verdict": agree,
        "rounds": {name: [round(value) for value in values] for name, values in rates.items()},
    }
    print(json.dumps(parts))
    print(f"ratio: {best['ours'] / best['reference']:.2f}")


if __name__ == "__main__":
    main()
