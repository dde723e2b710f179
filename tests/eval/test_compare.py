"""What may be claimed of an experiment, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from curate.records.errors import UserError
from eval import compare, power, report
from eval.curves import lead, read_curve, read_experiment, take_off
from tests.eval.experiments import write_experiment, write_run


def settings(folder: Path, **changes) -> compare.CompareSettings:
    return compare.CompareSettings(**({"experiment": folder, "out": folder / "comparison", "contrast": ("all:linear",)} | changes))


def outcome(folder: Path) -> dict:
    return json.loads((folder / "comparison" / compare.SUMMARY).read_text())


def end(found: dict, kind: str, a: str, b: str) -> dict:
    return next(row for row in found["contrasts"] if (row["kind"], row["a"], row["b"], row["measure"]) == (kind, a, b, "end"))


def test_paired_seeds_show_what_unpaired_ones_would_hide(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45, "incorrect-all": 0.5})
    compare.run(settings(tmp_path, contrast=("all:linear", "incorrect-all:linear"), equivalent=("incorrect-all:all",)))
    found = outcome(tmp_path)
    primary = end(found, "difference", "all", "linear")
    assert primary["claim"] and primary["p"] == pytest.approx(2 / 64) and 0 < primary["low"] < primary["high"] < 0.1
    assert end(found, "equivalence", "incorrect-all", "all")["claim"]
    assert not end(found, "difference", "incorrect-all", "linear")["primary"]
    text = capsys.readouterr().out
    assert "a difference (primary)" in text and "equivalent" in text
    assert found["conditions"]["all"]["start"] == pytest.approx(0.1)


def test_the_endpoint_is_the_mean_of_the_last_evaluations_not_the_best(tmp_path):
    for name, top in (("a", 0.9), ("b", 0.2)):
        for seed in (0, 1):
            write_run(tmp_path / name / f"seed-{seed}", [0.1, top, 0.3, 0.3, 0.3])
    compare.run(settings(tmp_path, contrast=("a:b",)))
    assert end(outcome(tmp_path), "difference", "a", "b")["mean"] == pytest.approx(0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_too_few_seeds_make_no_claim_however_large_the_difference(tmp_path, capsys, seeds):
    write_experiment(tmp_path, {"all": 0.9, "linear": 0.2}, seeds=seeds)
    compare.run(settings(tmp_path, equivalent=("linear:all",)))
    assert not any(row["claim"] for row in outcome(tmp_path)["contrasts"])
    text = capsys.readouterr().out
    assert "NO CLAIM" in text and f"{6 - seeds} more seeds" in text


def test_one_pair_is_reported_without_a_test(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.9, "linear": 0.2}, seeds=1)
    compare.run(settings(tmp_path))
    assert "1 paired seed; a difference needs two" in capsys.readouterr().out


def test_secondary_contrasts_are_corrected_together(tmp_path):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45, "empty": 0.44, "placeholder": 0.43})
    compare.run(settings(tmp_path, contrast=("all:linear", "all:empty", "all:placeholder")))
    rows = [end(outcome(tmp_path), "difference", "all", name) for name in ("linear", "empty", "placeholder")]
    assert rows[0]["p_holm"] is None and rows[0]["claim"]
    assert [row["p_holm"] for row in rows[1:]] == pytest.approx([4 / 64, 4 / 64]) and not rows[1]["claim"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: write_run(folder / "linear" / "seed-9", [0.1] * 7, target=11), "other tasks than"),
        (lambda folder: write_run(folder / "linear" / "seed-9", [0.1] * 6), "no evaluation at step 60"),
        (lambda folder: (folder / "linear" / "seed-9").mkdir(), "evaluations.jsonl is missing"),
        (lambda folder: (folder / "all/seed-0/evaluations/step-00000020-sampled.parquet").unlink(), "step-00000020-sampled.parquet"),
        (lambda folder: (folder / "all/seed-0/evaluations.jsonl").write_text("{"), "is damaged"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, damage, message):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=2)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        compare.run(settings(tmp_path))
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": ("all:liner",)}, "did you mean 'linear'"),
        ({"contrast": ("all",)}, "is not A:B"),
        ({"contrast": ()}, "--contrast is needed"),
        ({"last_evaluations": 7}, "a start need more"),
    ],
)
def test_contrasts_are_checked(tmp_path, changes, message):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=2)
    with pytest.raises(UserError, match=message):
        compare.run(settings(tmp_path, **changes))


def test_an_empty_folder_says_what_an_experiment_is(tmp_path):
    with pytest.raises(UserError, match="CONDITION/seed-N"):
        read_experiment(tmp_path)


def test_take_off_and_lead(tmp_path):
    accuracy = [0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    counts = [1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    curve = read_curve(write_run(tmp_path / "run", accuracy, verification=counts), "all", 0, "sampled")
    assert take_off(curve) == 40 and lead(curve, "verification") == 2 and lead(curve, "backtracking") is None
    flat = read_curve(write_run(tmp_path / "flat", [0.1] * 12), "all", 0, "sampled")
    assert take_off(flat) is None and lead(flat, "verification") is None
    follower = read_curve(write_run(tmp_path / "late", accuracy, verification=[1] * 6 + [3] * 6), "all", 0, "sampled")
    assert lead(follower, "verification") == -2


def test_runs_that_have_not_ended_are_an_error_or_left_out_by_name(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=3)
    for path in tmp_path.glob("*/seed-*"):
        (path / "manifest.json").write_text("{}")
    write_run(tmp_path / "all" / "seed-3", [0.1, 0.1])
    (tmp_path / "linear" / "seed-3").mkdir()
    with pytest.raises(UserError, match=r"evaluations.jsonl is missing.*seed-3 has no evaluation at step 20, 30, .*--leave-out-unfinished"):
        compare.run(settings(tmp_path))
    compare.run(settings(tmp_path, leave_out_unfinished=True))
    assert outcome(tmp_path)["contrasts"][0]["seeds"] == [0, 1, 2]
    printed = capsys.readouterr().out
    assert all(f"left out, unfinished: {tmp_path / name / 'seed-3'}" in printed for name in ("all", "linear"))


def test_a_run_that_gave_up_counts_as_its_last_evaluation(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.2}, seeds=2)
    early = write_run(tmp_path / "all" / "seed-2", [0.1, 0.3])
    write_run(tmp_path / "linear" / "seed-2", [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2])
    (early / "stopped.json").write_text('{"step": 14, "reason": "5 updates in a row had no finite gradient"}')
    compare.run(settings(tmp_path))
    assert outcome(tmp_path)["contrasts"][0]["seeds"] == [0, 1, 2]
    assert f"counts as its last evaluation (step 10), it stopped: {early}" in capsys.readouterr().out
    curve = read_experiment(tmp_path)["all"][2]
    assert curve.steps[-1] == 60 and curve.last_mean("accuracy", 3) == pytest.approx(0.3)
    report.run(report.ReportSettings(experiment=tmp_path, out=tmp_path / "report.html"))
    (early / "stopped.json").unlink()
    with pytest.raises(UserError, match="seed-2 has no evaluation at step 20"):
        compare.run(settings(tmp_path))


def test_power_speaks_in_seeds(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.45}, seeds=4)
    power.run(power.PowerSettings(experiment=tmp_path, contrast="all:linear"))
    assert "can support no claim; 6 are the least" in capsys.readouterr().out
    power.run(power.PowerSettings(spread=0.05, effect=("0.05",)))
    assert "10 paired seeds" in capsys.readouterr().out
    with pytest.raises(UserError, match="not above 0"):
        power.run(power.PowerSettings(spread=0.05, effect=("0",)))


def test_gain_leaves_the_start_out(tmp_path):
    for seed in range(2):
        write_run(tmp_path / "high" / f"seed-{seed}", np.linspace(0.4, 0.5, 5))
        write_run(tmp_path / "low" / f"seed-{seed}", np.linspace(0.1, 0.2, 5))
    compare.run(settings(tmp_path, contrast=("high:low",), last_evaluations=1))
    rows = {row["measure"]: row for row in outcome(tmp_path)["contrasts"]}
    assert rows["end"]["mean"] == pytest.approx(0.3) and rows["gain"]["mean"] == pytest.approx(0)
