"""Tasks are solvable by proof, counted exactly, disjoint between train and test, and the same for the same seed."""

import itertools
import json
import random
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rl.countdown import Game, count_solutions, key, reachable, solve, tasks
from rl.main import app
from rl.scoring import score
from rl.tasks import read_tasks
from tests.rl.data import countdown_folder

RUNNER = CliRunner()


def _expressions(numbers):
    """Every expression as a nested tuple in normal form (operands of + and * sorted), with its value; brute force."""
    if len(numbers) == 1:
        yield numbers[0], Fraction(numbers[0])
        return
    for size in range(1, len(numbers)):
        for places in itertools.combinations(range(len(numbers)), size):
            left = [numbers[i] for i in places]
            right = [numbers[i] for i in range(len(numbers)) if i not in places]
            for (a, x), (b, y) in itertools.product(_expressions(left), _expressions(right)):
                yield ("+", *sorted((a, b), key=repr)), x + y
                yield ("*", *sorted((a, b), key=repr)), x * y
                yield ("-", a, b), x - y
                if y:
                    yield ("/", a, b), x / y


def _whole(form):
    """Value of a normal form when every intermediate result is an integer, else None."""
    if isinstance(form, int):
        return form
    sign, a, b = form[0], _whole(form[1]), _whole(form[2])
    if a is None or b is None:
        return None
    if sign == "/":
        return a // b if b and a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[sign]


@pytest.mark.parametrize("numbers", [(3,), (2, 2), (1, 2, 3), (3, 3, 3), (3, 3, 8, 8), (1, 5, 5, 5), (2, 3, 4, 6), (4, 4, 4, 4), (0, 2, 3)])
def test_solutions_are_counted_as_brute_force_counts_them(numbers):
    forms = {}
    for form, value in _expressions(list(numbers)):
        forms[form] = value
    for target in range(-3, 30):
        rational = sum(value == target for value in forms.values())
        whole = sum(_whole(form) == target for form in forms)
        assert count_solutions(numbers, target, integer_only=False) == rational
        assert count_solutions(numbers, target) == whole
        assert (solve(numbers, target) is not None) == (whole > 0)
    assert sum(reachable(tuple(sorted(numbers)), False).values()) == len(forms)


def test_a_task_that_needs_fractions():
    assert count_solutions((3, 3, 8, 8), 24) == 0
    assert count_solutions((3, 3, 8, 8), 24, integer_only=False) > 0
    proof = solve((3, 3, 8, 8), 24, integer_only=False)
    assert score(f"<answer>{proof}</answer>", [3, 3, 8, 8], 24).correct


@pytest.mark.parametrize("integer_only", [True, False])
def test_every_proof_scores_as_correct(integer_only):
    game = Game(operands=(2, 3, 4), operand_shares=(0.2, 0.4, 0.4), max_number=30, integer_only=integer_only)
    found = list(itertools.islice(tasks(game, random.Random(1)), 150))
    assert len({key(task.numbers, task.target) for task in found}) == 150
    for task in found:
        result = score(f"<answer>{task.solution}</answer>", task.numbers, task.target, syntax="strict")
        assert result.correct and task.num_solutions >= 1


def test_shares_are_kept_and_seeds_repeat():
    game = Game(operands=(3, 4), operand_shares=(0.9, 0.1), max_number=99)
    found = list(itertools.islice(tasks(game, random.Random(5)), 300))
    # the share is of the draws; hands of four are solvable more often
    assert 0.08 < sum(len(task.numbers) == 4 for task in found) / 300 < 0.5
    assert found == list(itertools.islice(tasks(game, random.Random(5)), 300))


def test_tasks_command_splits_by_problem(tmp_path):
    arguments = ["tasks", "--operands", "3", "--max-number", "9", "--min-target", "1", "--max-target", "20", "--num-train", "0"]
    for name in ("a", "b"):
        result = RUNNER.invoke(app, [*arguments, "--num-test", "200", "--out", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "a" / "tasks.parquet")
    assert table.equals(pq.read_table(tmp_path / "b" / "tasks.parquet"))
    assert table.column_names[:4] == ["numbers", "target", "num_solutions", "split"]
    train, test = ({key(*task) for task in read_tasks(tmp_path / "a", split)} for split in ("train", "test"))
    assert len(test) == 200 and len(train) + 200 == 1298 and not train & test
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["rows_in"] + manifest["rows_made"] == manifest["rows_out"] == 1298


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--operands", "9"], "--operands go from 1 to 6"),
        (["--operands", "3", "--operand-shares", "0.5", "--operand-shares", "0.5"], "2 --operand-shares for 1 --operands"),
        (["--min-number", "9", "--max-number", "3"], "0 <= --min-number <= --max-number"),
        (["--operands", "2", "--max-number", "3", "--min-target", "1", "--max-target", "9", "--num-train", "500"], "only 16 different"),
        (["--operands", "2", "--min-number", "50", "--min-target", "1000", "--max-target", "1001"], "different solvable tasks"),
        (["--from-file", "absent.parquet"], "cannot read tasks"),
    ],
)
def test_bad_games_are_one_line(tmp_path, arguments, message):
    result = RUNNER.invoke(app, ["tasks", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2 and message in result.output and result.output.count("error:") == 1


def test_published_format_reports_duplicates_and_leaks(tmp_path):
    rows = [([1, 2, 3], 6), ([4, 5], 9), ([2, 1, 3], 6), ([7, 7], 3), ([5, 4], 9), ([2, 9], 18)]
    pq.write_table(pa.table({"target": [t for _, t in rows], "nums": [n for n, _ in rows]}), tmp_path / "raw.parquet")
    command = ["tasks", "--from-file", str(tmp_path / "raw.parquet"), "--out", str(tmp_path / "out"), "--num-train", "0", "--num-test", "2"]
    result = RUNNER.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "2 duplicates, 1 unsolvable" in result.output and "1 of the" in result.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["dropped"] == {"duplicate": 2, "unsolvable": 1} and manifest["rows_out"] == 3


def test_published_tasks_of_the_test_data():
    rows = read_tasks(countdown_folder() / "tasks_117k.parquet")
    assert len(rows) == 117_000
    assert len(rows) - len({key(*task) for task in rows}) >= 1_825  # those that differ in order are duplicates as well
