"""`rl tasks`: Countdown tasks as Parquet, drawn from the seeded generator or read from a published file, train and test disjoint."""

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_part
from curate.records.progress import progress
from curate.records.settings import option, to_dict
from rl import countdown
from rl.countdown import Game, Solved, Task, key

FILE_NAME = "tasks.parquet"
SCHEMA = pa.schema(
    [
        pa.field("numbers", pa.list_(pa.int64()), nullable=False),
        pa.field("target", pa.int64(), nullable=False),
        pa.field("num_solutions", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("solution", pa.string()),
    ]
)


@dataclass(frozen=True)
class TasksSettings:
    """Settings of `rl tasks`."""

    out: Path | None = option(None, "Folder for tasks.parquet and manifest.json", hashed=False)
    num_train: int = option(32_768, "Training tasks; 0 means all that the game (or the file) has left")
    num_test: int = option(1_024, "Test tasks; no training task has the same sorted numbers and target")
    operands: tuple[int, ...] = option((3, 4), "How many numbers a task has; repeat the option for several")
    operand_shares: tuple[float, ...] = option((), "Share of each --operands value, in the same order; left out: equal")
    min_number: int = option(1, "Smallest number")
    max_number: int = option(99, "Largest number")
    min_target: int = option(10, "Smallest target")
    max_target: int = option(100, "Largest target")
    rational: bool = option(False, "Let intermediate results be fractions; else every one is an integer")
    from_file: Path | None = option(
        None, "Read tasks from a Parquet file with columns nums (or numbers) and target instead of drawing them"
    )
    seed: int = option(0, "Seed of the draw and of the split")


def run(settings: TasksSettings) -> None:
    """Write Countdown tasks, each solvable by proof, with its number of solutions; train and test have no problem in common."""
    started = time.monotonic()
    out = require(settings.out, "out")
    game = game_of(settings)
    generator = random.Random(settings.seed)
    manifest = Manifest(stage="tasks", settings=to_dict(settings), seed=settings.seed)
    if settings.from_file is None:
        found = _drawn(settings, game, generator)
        manifest.rows_made = len(found)
    else:
        found = _published(settings, game, generator, manifest)
    if len(found) < settings.num_test + max(settings.num_train, 1):
        raise UserError(
            f"only {len(found)} different solvable tasks, but --num-train {settings.num_train} and --num-test {settings.num_test} were "
            "asked for: widen the ranges, add operands, or ask for fewer (--num-train 0 takes what is left)"
        )
    test = found[: settings.num_test]
    train = found[settings.num_test :] if settings.num_train == 0 else found[settings.num_test : settings.num_test + settings.num_train]
    assert not {key(t.numbers, t.target) for t in train} & {key(t.numbers, t.target) for t in test}
    manifest.rows_out = len(train) + len(test)
    if left := len(found) - manifest.rows_out:
        manifest.dropped["not asked for"] = left
    rows = [_row(task, "train") for task in train] + [_row(task, "test") for task in test]
    write_part(out / FILE_NAME, pa.Table.from_pylist(rows, SCHEMA), {"seed": settings.seed})
    manifest.seconds = time.monotonic() - started
    manifest.write(out)
    by_count = Counter(len(task.numbers) for task in train)
    shares = ", ".join(f"{count} numbers: {number}" for count, number in sorted(by_count.items()))
    print(f"{len(train)} train ({shares}) and {len(test)} test tasks in {out}")


def game_of(settings: TasksSettings) -> Game:
    """The game that the settings describe. Raises UserError, all mistakes at once."""
    mistakes = []
    shares = settings.operand_shares or (1.0,) * len(settings.operands)
    if not settings.operands or min(settings.operands) < 1 or max(settings.operands) > countdown.MAX_OPERANDS:
        mistakes.append(f"--operands go from 1 to {countdown.MAX_OPERANDS}")
    if len(shares) != len(settings.operands):
        mistakes.append(f"{len(shares)} --operand-shares for {len(settings.operands)} --operands")
    elif min(shares, default=0.0) < 0 or sum(shares) <= 0:
        mistakes.append("--operand-shares are not negative and not all zero")
    if not 0 <= settings.min_number <= settings.max_number:
        mistakes.append("0 <= --min-number <= --max-number")
    if settings.min_target > settings.max_target:
        mistakes.append("--min-target <= --max-target")
    if settings.num_test < 0 or settings.num_train < 0:
        mistakes.append("--num-train and --num-test are not negative")
    if mistakes:
        raise UserError("; ".join(mistakes))
    return Game(
        operands=settings.operands,
        operand_shares=shares,
        min_number=settings.min_number,
        max_number=settings.max_number,
        min_target=settings.min_target,
        max_target=settings.max_target,
        integer_only=not settings.rational,
    )


def read_tasks(path: Path, split: str | None = None) -> list[Task]:
    """Tasks (numbers, target) from a folder of ours, or from any Parquet file with `numbers` or `nums` and `target`.

    `split` keeps the rows of that split; a file without such a column has only one. Raises UserError naming what is wrong.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read tasks from {file}: {error}") from None
    column = next((name for name in ("numbers", "nums") if name in table.column_names), None)
    if column is None or "target" not in table.column_names:
        raise UserError(f"{file} has columns {', '.join(table.column_names)}; tasks need numbers (or nums) and target")
    if split is not None and "split" in table.column_names:
        table = table.filter(pc.equal(table["split"], split))
    rows: list[Task] = []
    for place, (numbers, target) in enumerate(zip(table[column].to_pylist(), table["target"].to_pylist())):
        if not numbers or target is None or any(number is None or number != int(number) for number in [*numbers, target]):
            raise UserError(f"{file} row {place}: numbers {numbers!r} and target {target!r} are not whole numbers")
        rows.append((tuple(int(number) for number in numbers), int(target)))
    return rows


def _drawn(settings: TasksSettings, game: Game, generator: random.Random) -> list[Solved]:
    wanted = settings.num_train + settings.num_test if settings.num_train else None
    found: list[Solved] = []
    with progress("tasks", wanted) as advance:
        for task in countdown.tasks(game, generator):
            found.append(task)
            advance(1)
            if len(found) == wanted:
                break
    return found


def _published(settings: TasksSettings, game: Game, generator: random.Random, manifest: Manifest) -> list[Solved]:
    path = require(settings.from_file, "from_file")
    rows = read_tasks(path)
    manifest.rows_in = len(rows)
    manifest.inputs.append(InputFile(str(path), file_sha256(path), len(rows), path.stat().st_size))
    different = list(dict.fromkeys(key(*task) for task in rows))
    first_rows: dict[Task, Task] = {}
    for task in rows:
        first_rows.setdefault(key(*task), task)
    train_keys = {key(*task) for task in rows[: len(rows) - settings.num_test]}
    leaks = sum(key(*task) in train_keys for task in rows[len(rows) - settings.num_test :])
    manifest.dropped["duplicate"] = len(rows) - len(different)
    manifest.notes["leaks_when_split_in_file_order"] = leaks
    found: list[Solved] = []
    unsolved = 0
    with progress("proofs", len(different)) as advance:
        for task_key in different:
            numbers, target = first_rows[task_key]
            advance(1)
            if len(numbers) > countdown.MAX_OPERANDS:
                raise UserError(f"{path}: a task has {len(numbers)} numbers; up to {countdown.MAX_OPERANDS} can be proven solvable")
            solutions = countdown.count_solutions(numbers, target, game.integer_only)
            if not solutions:
                unsolved += 1
                continue
            found.append(Solved(numbers, target, solutions, countdown.solve(numbers, target, game.integer_only) or ""))
    manifest.dropped["unsolvable"] = unsolved
    generator.shuffle(found)
    print(f"{path}: {len(rows)} tasks, {len(rows) - len(different)} duplicates, {unsolved} unsolvable; split in file order, {leaks} of the")
    print(f"last {settings.num_test} would also stand in the training part: split by problem instead")
    return found


def _row(task: Solved, split: str) -> dict[str, Any]:
    return {
        "numbers": list(task.numbers),
        "target": task.target,
        "num_solutions": task.num_solutions,
        "split": split,
        "solution": task.solution,
    }
