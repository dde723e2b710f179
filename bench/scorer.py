"""Scores a second, ours against the published scorer, on the same outputs in the same run (one core, alternating).

    python bench/scorer.py [--outputs FILE.parquet ...] [--fuzz 1000000]

The peer is the reference's own code (TinyZero `verl/utils/reward_score/countdown.py`, Apache-2.0), less its random printing. It looks for
"Assistant:" and reads one line, so it is given "Assistant: " and the output with its line breaks as spaces: then it finds the same answers.
Without --outputs (columns prompt, raw_generation, as in the test data), made-up ones of 1,300 characters are scored. Texts of 100 kB in
many shapes are timed, and `--fuzz` scores so many random texts in every mode; an exception ends the run with the text that caused it.
"""

import argparse
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rl import tinyzero, traces
from rl.scoring import NUMBER_RULES, REASONS, SYNTAXES, score
from rl.verl_reward import compute_score

TAGS = ("<answer>", "</answer>")
PIECES = (
    *TAGS, *"0123456789+-*/()= .,×÷−·`_x^\n\t\\\"'{}[]<>", "12", "99", "**", "//", "```", "```python\n", "Assistant:", "= 14", " = ", "--",
    "٣", "²", "½", "\x00", "\x1c", "\u2028", "\ud800", "e5", "1e9", "0x1", "1_0", "9**9**9", "not ", "no\n", "yes", "(1+", "((((", "))))",
    "<answer", "answer>", "<think>", "</think>", "import os", "lambda:", "9" * 50,
)  # fmt: skip


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


def timed(scorer: Callable[..., object], text: str) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    scorer(text, [9, 9, 1], 5)
    return time.perf_counter() - started


def fuzzed(number: int, seed: int) -> Iterator[str]:
    """`number` random texts, the same for the same seed: strings of pieces that mean something to a scorer, and damaged right answers."""
    generator = random.Random(seed)
    for place in range(number):
        if place % 4 == 0:
            text = list(generator.choice(("(1+12)+2-1", "12+2*1", "<answer>12+2*1</answer>", "so 12+2 = 14, yes\n12*1+2")))
            for _ in range(generator.randint(0, 4)):
                at = generator.randint(0, len(text))
                text[at : at + generator.randint(0, 1)] = generator.choice(PIECES)
        else:
            text = generator.choices(PIECES, k=generator.randint(0, 400) if place % 500 == 1 else generator.randint(0, 14))
        inner = "".join(text)
        yield f"<answer>{inner}</answer>" if generator.random() < 0.8 else inner


def check_fuzzed(text: str, mode: int) -> str:
    """Score a text in every scorer, in one of four modes of ours; returns our reason. AssertionError when they disagree."""
    numbers, target = [1, 2, 12], 14
    result = score(text, numbers, target, syntax=SYNTAXES[mode % 2], rule=NUMBER_RULES[mode // 2 % 2])
    assert result.reason in REASONS and result.correct == (result.value == 1.0) == (result.reason == "correct"), text
    tinyzero.score("Assistant:" + text, numbers, target)
    if mode == 0:
        theirs = compute_score("countdown", text, {"numbers": numbers, "target": target})
        assert (theirs["score"], theirs["acc"] == 1.0) == (result.value, result.correct), text
        traces.parse(text, tuple(numbers), target)
    return result.reason


def long_texts(size: int = 100_000, seed: int = 0) -> Iterator[str]:
    """Texts of `size` characters: every piece repeated, and pairs and triples of them, inside tags and not, closed, nested and open."""
    generator = random.Random(seed)
    repeated = [*PIECES, "(", "9*", "9**", "- ", "1 ", "=", "`", "é", "<answer>(", "1=2 ", "= 1 ", "<answer>1</answer>"]
    repeated += ["".join(generator.choices(PIECES, k=generator.randint(2, 3))) for _ in range(60)]
    for piece in repeated:
        text = piece * (size // len(piece))
        yield text
        yield f"<answer>{text}</answer>"
    half = size // 2
    yield "(" * half + ")" * half
    yield f"<answer>{'(' * half}1{')' * half}</answer>"
    yield f"<answer>{'-(' * (size // 3)}1{')' * (size // 3)}</answer>"
    yield "<answer>" * (half // 8) + "</answer>" * (half // 9)
    yield "<answer>1+" + "\n" * size
    yield f"<answer>{' ' * half}12+2*1{' ' * half}</answer>"
    yield f"<answer>12+2*1 ={' ' * half}14{' ' * half}</answer>"


def main() -> None:
    """Measure, print, end with a JSON line and a ratio line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    folder = os.environ.get("FOURHABITS_TEST_DATA")
    default = sorted(Path(folder, "countdown").glob("outputs_*.parquet")) if folder else []
    parser.add_argument("--outputs", type=Path, nargs="*", default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each round")
    parser.add_argument("--fuzz", type=int, default=0, help="random texts to score")
    given = parser.parse_args()
    ours = outputs(given.outputs)
    theirs = [("Assistant: " + text.replace("\n", " "), numbers, target) for text, numbers, target in ours]
    rates: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(given.rounds):
        rates["ours"].append(rate(score, ours, given.seconds))
        rates["reference"].append(rate(reference_score, theirs, given.seconds))
    best = {name: max(values) for name, values in rates.items()}
    longest = 0.0
    shapes = list(long_texts())
    for text in shapes:
        for scorer in (score, tinyzero.score):
            longest = max(longest, min(timed(scorer, text) for _ in range(3)))  # the best of three: the machine may be busy
    reasons: Counter[str] = Counter()
    started = time.perf_counter()
    for place, text in enumerate(fuzzed(given.fuzz, 0)):
        try:
            reasons[check_fuzzed(text, place % 4)] += 1
        except Exception:
            print(f"text {place}: {text!r}")
            raise
    fuzz_seconds = time.perf_counter() - started
    agree = sum(score(*a, syntax="strict").correct == (reference_score(*b) == 1.0) for a, b in zip(ours, theirs))
    parts = {
        "outputs": len(ours),
        "scores_per_second": round(best["ours"]),
        "reference_scores_per_second": round(best["reference"]),
        "longest_of_100_kb_ms": round(longest * 1e3, 3),
        "shapes_of_100_kb": len(shapes),
        "fuzzed": given.fuzz,
        "fuzzed_seconds": round(fuzz_seconds, 1),
        "fuzzed_reasons": dict(reasons.most_common()),
        "same_verdict": agree,
        "rounds": {name: [round(value) for value in values] for name, values in rates.items()},
    }
    print(json.dumps(parts))
    print(f"ratio: {best['ours'] / best['reference']:.2f}")


if __name__ == "__main__":
    main()
