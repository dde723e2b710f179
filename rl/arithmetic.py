"""`rl arithmetic`: plain arithmetic for a tiny model to learn before anything else, and that model with its tokenizer.

    4*7=28,28-1=27 (4*7)-1=27
    6/2=3,9+3=12 9+(6/2)=12

A line computes a random expression step by step and then states it whole. Nothing is tried, checked against a target, undone or planned:
what a model knows of the four habits comes from the set that it is primed with. The notation is that of `rl prime --voice terse`.
"""

import random
import time
from dataclasses import dataclass
from math import inf
from pathlib import Path

import pyarrow as pa

from curate.frame import FRAME_WORDS
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import Manifest
from curate.records.parts import write_part
from curate.records.settings import option, to_dict
from rl.prime_plans import random_node
from rl.prime_traces import TERSE_WORDS
from rl.warmstart import in_steps, write_start

SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False)])


@dataclass(frozen=True)
class ArithmeticSettings:
    """Settings of `rl arithmetic`."""

    out: Path | None = option(None, "Folder for text/, start/ and manifest.json", hashed=False)
    num_documents: int = option(30_000, "Documents to write", at_least=1)
    lines_per_document: int = option(8, "Expressions of a document", at_least=1)
    operands: tuple[int, ...] = option((3,), "How many numbers an expression has; repeat the option for several")
    min_number: int = option(1, "Smallest number", at_least=1)
    max_number: int = option(9, "Largest number", at_least=1)
    max_result: int | None = option(None, "Largest result of an operation; left out: any", at_least=1)
    tiny_size: str = option(
        "0.6M", "Size of the tiny model written to OUT/start, whose tokenizer knows the words of terse traces and of sets"
    )
    seed: int = option(0, "Seed of the expressions and of the model", at_least=0)


def run(settings: ArithmeticSettings) -> None:
    """Write plain arithmetic and a tiny model to train on it: `train cpt --data OUT/text --model OUT/start`."""
    started = time.monotonic()
    out = require(settings.out, "out")
    if (
        not settings.operands
        or min(settings.operands) < 2
        or not settings.min_number <= settings.max_number <= (settings.max_result or inf)
    ):
        raise UserError("--operands are at least 2, --min-number at most --max-number, and that at most --max-result")
    generator = random.Random(settings.seed)
    texts = ["".join(line(settings, generator) for _ in range(settings.lines_per_document)) for _ in range(settings.num_documents)]
    write_part(out / "text" / "arithmetic.parquet", pa.table({"text": texts}, SCHEMA))
    write_start(settings.tiny_size, (*TERSE_WORDS, *FRAME_WORDS), settings.seed, out / "start")
    Manifest(
        stage="arithmetic",
        settings=to_dict(settings),
        rows_made=len(texts),
        rows_out=len(texts),
        seed=settings.seed,
        seconds=time.monotonic() - started,
    ).write(out)
    lines = settings.num_documents * settings.lines_per_document
    print(f"{len(texts)} documents of {lines} expressions in {out / 'text'}; a model to start from in {out / 'start'}")


def line(settings: ArithmeticSettings, generator: random.Random) -> str:
    """One expression, computed in steps and stated."""
    numbers = [generator.randint(settings.min_number, settings.max_number) for _ in range(generator.choice(settings.operands))]
    node = random_node(numbers, generator, settings.max_result or inf)
    expression = node.text().replace(" ", "")
    return f"{in_steps(expression)} {expression}={node.value}\n"
