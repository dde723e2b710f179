"""Selection: documents between the arms enter none, thresholds mean what they say, and the draw knows neither file order nor chunking."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.records.errors import UserError
from curate.selection import SelectSettings, assign_cells, choose_habits, score_distribution, thresholds

NAMES = ["verification", "backtracking"]
ROWS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.booleans()),
    min_size=1,
    max_size=40,
)


def frame(rows: list[tuple[float, float, float, float, bool]]) -> pl.DataFrame:
    columns = {
        "file_sha256": [f"{number % 3}" for number in range(len(rows))],
        "source_row": list(range(len(rows))),
        "error": ["broken" if row[4] else None for row in rows],
    }
    for number, name in enumerate([*NAMES, "problem", "solution"]):
        columns[f"{name}_score"] = [None if row[4] else row[number] for row in rows]
    kinds = {"error": pl.String, **{f"{name}_score": pl.Float64 for name in [*NAMES, "problem", "solution"]}}
    return pl.DataFrame(columns, schema_overrides=kinds)


@given(ROWS, st.sampled_from(["any", "backtracking"]))
def test_each_document_is_in_one_cell_or_left_out_for_one_counted_reason(
    rows: list[tuple[float, float, float, float, bool]], habit: str
) -> None:
    made = assign_cells(frame(rows), NAMES, SelectSettings(habits=(habit,), present="0.6", absent="0.3"))
    assert made.frame.height + sum(made.dropped.values()) == len(rows)
    chosen = NAMES if habit == "any" else [habit]
    for row in made.frame.to_dicts():
        scores = {name: row[f"{name}_score"] for name in NAMES}
        assert row["error"] is None and row["problem_score"] >= 0.5 and row["solution_score"] >= 0.5
        if row["cell"] == "selected":
            assert max(scores[name] for name in chosen) >= 0.6
        else:
            assert row["cell"] == "free" and max(scores.values()) < 0.3


@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_draw_does_not_know_the_order_of_files(rows: list[tuple[float, float, float, float, bool]], random: object, limit: int) -> None:
    labels = frame(rows)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    settings = SelectSettings(limit=limit, seed=3, present="0.5", absent="0.5", problem="0", solution="0")
    one, other = (assign_cells(table, NAMES, settings) for table in (labels, labels[order]))
    assert one.frame.equals(other.frame) and one.dropped == other.dropped
    assert all(count <= limit for _, count in one.frame.group_by("cell").len().iter_rows())


def test_ranks_are_taken_of_documents_with_a_problem_and_a_solution() -> None:
    rows = [(number / 100, 0.0, 1.0, 1.0, False) for number in range(100)] + [(0.999, 0.0, 0.0, 1.0, False)] * 100
    made = assign_cells(frame(rows), NAMES, SelectSettings(habits=("verification",), present="top:0.2", absent="bottom:0.5"))
    assert made.dropped["no problem"] == 100
    assert made.present["verification"] == pytest.approx(0.8)
    assert made.frame.filter(pl.col("cell") == "selected").height == 20


def test_a_draw_is_seeded() -> None:
    rows = [(0.9, 0.0, 1.0, 1.0, False)] * 60
    chosen = [assign_cells(frame(rows), NAMES, SelectSettings(limit=10, seed=seed)).frame["source_row"].to_list() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 10


@pytest.mark.parametrize("cut", ["1.5", "-0.1", "nan", "bottom:0.2", "top:", "top:2", "many", ""])
def test_a_threshold_that_is_none_is_refused(cut: str) -> None:
    with pytest.raises(UserError, match="neither a probability nor `top:` with a share"):
        thresholds(cut, "top", frame([(0.5, 0.5, 1, 1, False)]), NAMES)


def test_an_unknown_habit_is_named_with_the_nearest() -> None:
    assert choose_habits(["any"], NAMES) == NAMES
    with pytest.raises(
        UserError, match=r"no behavior 'backtraking' \(did you mean 'backtracking'\?\); they have verification, backtracking"
    ):
        choose_habits(["backtraking"], NAMES)


def test_the_distribution_says_where_the_scores_lie() -> None:
    text = score_distribution(frame([(number / 100, 0.5, 1, 1, False) for number in range(101)]), NAMES)
    assert "verification 0.50 0.90 0.99 1.00" in text
    assert score_distribution(frame([(0.1, 0.1, 1, 1, True)]), NAMES) == "no document has scores"
