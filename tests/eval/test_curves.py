"""One run as a curve: damaged lines are named, take-off, and which behavior leads or follows."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from curate.records.errors import UserError
from curate.records.parts import write_part
from eval.curves import Curve, lead, read_curve, take_off
from tests.eval.experiments import write_run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:1], "[1]"], "line 2 is no JSON object"),
        (lambda lines: [*lines[:2], ""], "line 3 is damaged"),
        (lambda lines: [*lines, lines[-1]], "line 4: step 20 does not come after step 20"),
        (lambda lines: lines[::-1], "line 2: step 10 does not come after step 20"),
        (lambda lines: [lines[0].replace('"step"', '"stop"'), *lines[1:]], "line 1 has no step"),
        (lambda lines: [*lines[:2], lines[2].replace("eval_sampled_tokens", "x")], "line 3 has no eval_sampled_tokens"),
        (lambda lines: [lines[0].replace("40.0", "null"), *lines[1:]], "line 1 has eval_sampled_tokens = null, not a finite number"),
        (lambda lines: [lines[0].replace("0.125", "NaN"), *lines[1:]], "line 1 has eval_sampled_accuracy = NaN, not a finite number"),
        (lambda lines: [lines[0].replace("0.125", "true"), *lines[1:]], "line 1 has eval_sampled_accuracy = true"),
        (lambda lines: [lines[0].replace("0.125", "1.25"), *lines[1:]], "accuracy outside 0 to 1"),
        (lambda lines: [lines[0].replace('"step": 0', '"step": 0.5'), *lines[1:]], "line 1 has step = 0.5, not a whole number"),
        (lambda lines: [], "has no evaluations"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_its_number(tmp_path, change, message):
    file = write_run(tmp_path / "run", [0.125, 0.2, 0.3]) / "evaluations.jsonl"
    assert read_curve(tmp_path / "run", "all", 0, "sampled").steps == (0, 10, 20)
    file.write_text("".join(line + "\n" for line in change(file.read_text().splitlines())))
    with pytest.raises(UserError, match=message) as caught:
        read_curve(tmp_path / "run", "all", 0, "sampled")
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_responses_without_counts_are_named(tmp_path):
    path = write_run(tmp_path / "run", [0.1, 0.2]) / "evaluations" / "step-00000010-sampled.parquet"
    table = pq.read_table(path)
    write_part(path, table.slice(0, 0))
    with pytest.raises(UserError, match=r"step-00000010-sampled.parquet has no responses"):
        read_curve(tmp_path / "run", "all", 0, "sampled")
    place = table.column_names.index("verification")
    write_part(path, table.set_column(place, "verification", [[None] + [1] * (table.num_rows - 1)]))
    with pytest.raises(UserError, match=r"has responses without counts"):
        read_curve(tmp_path / "run", "all", 0, "sampled")


def test_take_off_and_lead(tmp_path):
    accuracy = [0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    counts = [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    curve = read_curve(write_run(tmp_path / "run", accuracy, verification=counts), "all", 0, "sampled")
    found = lead(curve, "verification")
    assert take_off(curve) == 40 and found and found.evaluations == 2 and found.correlation == pytest.approx(1)
    assert lead(curve, "backtracking") is None
    flat = read_curve(write_run(tmp_path / "flat", [0.1] * 12), "all", 0, "sampled")
    assert take_off(flat) is None and lead(flat, "verification") is None
    follower = read_curve(write_run(tmp_path / "late", accuracy, verification=[1] * 6 + [3] * 6), "all", 0, "sampled")
    assert (found := lead(follower, "verification")) and found.evaluations == -2


def test_a_lead_may_be_negative_and_must_be_strong(tmp_path):
    accuracy = [0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    # Checks fall when accuracy rises; a small rise elsewhere would have been taken for the lead.
    curve = read_curve(write_run(tmp_path / "falls", accuracy, verification=[9, 9, 9, 9, 1, 1, 2, 2, 2, 2, 2, 2]), "all", 0, "sampled")
    found = lead(curve, "verification")
    assert found and found.evaluations == 0 and found.correlation < -0.9
    noise = np.random.default_rng(3)
    leads = 0
    for _ in range(200):
        values = {"accuracy": noise.uniform(0.1, 0.9, 12), "verification": noise.uniform(0, 9, 12)}
        found = lead(Curve("all", 0, tmp_path, tuple(range(12)), values, 50, ""), "verification")
        assert found is None or abs(found.correlation) >= 2 / (11 - abs(found.evaluations)) ** 0.5
        leads += found is not None
    assert leads < 100  # the largest of seven correlations, whatever its size, would be a lead in all 200


def test_a_lead_needs_nine_evaluations(tmp_path):
    accuracy, counts = [0.1, 0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], [1, 1, 3, 3, 3, 3, 3, 3, 3]
    nine = read_curve(write_run(tmp_path / "nine", accuracy, verification=counts), "all", 0, "sampled")
    eight = read_curve(write_run(tmp_path / "eight", accuracy[:8], verification=counts[:8]), "all", 0, "sampled")
    assert lead(nine, "verification") and lead(eight, "verification") is None
