"""What an experiment folder must hold: comparable runs that have ended, each a seed of its own."""

import json
import shutil
from pathlib import Path

import pytest

from curate.records.errors import UserError
from eval import compare, report
from eval.experiment import read_experiment
from tests.eval.experiments import write_experiment, write_run
from tests.eval.test_compare import outcome, settings


def write_settings(folder: Path, **values) -> None:
    (folder / "settings.json").write_text(json.dumps(values))


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


def test_an_empty_folder_says_what_an_experiment_is(tmp_path):
    with pytest.raises(UserError, match="CONDITION/seed-N"):
        read_experiment(tmp_path)


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


def test_a_run_of_another_seed_than_its_folder_says_is_refused(tmp_path):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=3)
    for path in tmp_path.glob("*/seed-*"):
        write_settings(path, seed=int(path.name[-1]), total_steps=60)
    assert list(read_experiment(tmp_path)["all"]) == [0, 1, 2]
    write_settings(tmp_path / "all" / "seed-2", seed=0, total_steps=60)
    with pytest.raises(UserError, match=r"all/seed-2 was run with --seed 0, by its settings.json: it is no seed 2$"):
        read_experiment(tmp_path)


def test_the_same_run_twice_is_no_further_seed(tmp_path):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=3)
    shutil.copytree(tmp_path / "all" / "seed-1", tmp_path / "all" / "seed-7")
    with pytest.raises(UserError, match=r"all/seed-7 is .*all/seed-1 again"):
        compare.run(settings(tmp_path))
    assert not (tmp_path / "comparison").exists()


def test_runs_that_only_begin_alike_are_two_seeds(tmp_path):
    for seed, end in enumerate((0.2, 0.3)):
        write_run(tmp_path / "all" / f"seed-{seed}", [0.1, 0.1, end])
    assert len(read_experiment(tmp_path)["all"]) == 2
    for seed in (2, 3):  # gave up before the first evaluation after the start
        stopped = write_run(tmp_path / "all" / f"seed-{seed}", [0.1])
        (stopped / "stopped.json").write_text('{"step": 5, "reason": "no finite gradient"}')
    assert len(read_experiment(tmp_path)["all"]) == 4


def test_names_of_folders_decide_nothing_in_silence(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=2)
    for name in ("seed-7-rerun", "Seed_8", "again"):
        write_run(tmp_path / "all" / name, [0.1] * 7)
    assert list(read_experiment(tmp_path)["all"]) == [0, 1]
    printed = capsys.readouterr().out
    assert all(
        f"passed over, its name is not seed-N: {tmp_path / 'all' / name}\n" in printed for name in ("seed-7-rerun", "Seed_8", "again")
    )
    write_run(tmp_path / "all" / "seed-01", [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9])
    with pytest.raises(UserError, match=r"all/seed-01 and .*all/seed-1 are both seed 1: keep one"):
        read_experiment(tmp_path)


def test_runs_that_all_stand_at_the_same_step_have_not_ended_either(tmp_path, capsys):
    write_experiment(tmp_path, {"all": 0.5, "linear": 0.4}, seeds=2)
    for path in tmp_path.glob("*/seed-*"):
        write_settings(path, seed=int(path.name[-1]), total_steps=100)
    with pytest.raises(UserError, match=r"linear/seed-1 has not ended, .* step 60 of 100: let it finish, or --leave-out-unfinished"):
        read_experiment(tmp_path)
    for path in tmp_path.glob("*/seed-0"):
        (path / "manifest.json").write_text("{}")
        write_settings(path, seed=0, total_steps=60)
    assert [list(seeds) for seeds in read_experiment(tmp_path, leave_out_unfinished=True).values()] == [[0], [0]]
    assert f"left out, unfinished: {tmp_path / 'all' / 'seed-1'}\n" in capsys.readouterr().out
    (tmp_path / "all" / "seed-1" / "stopped.json").write_text("{}")  # it gave up: it will never get there
    assert list(read_experiment(tmp_path, leave_out_unfinished=True)["all"]) == [0, 1]


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_settings_that_cannot_be_read_are_named(tmp_path, text):
    write_experiment(tmp_path, {"all": 0.5}, seeds=1)
    (tmp_path / "all/seed-0/settings.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"seed-0/settings.json is damaged"):
        read_experiment(tmp_path)
