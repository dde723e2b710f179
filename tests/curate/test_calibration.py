"""Calibrated documents: what is said is what is true, whatever the judge and the number of windows; too little gold changes nothing."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate.calibration import Curve, fit, judged, log_loss
from curate.records.manifest import read_manifest
from tests.curate.report_run import make_labels
from tests.helpers import curate, error_line, rows_of, write_jsonl


def simulated(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(best score, windows, truth) of documents whose judge is unsure: half the log-odds of the true probability of each window."""
    rng = np.random.default_rng(seed)
    windows = rng.integers(1, 11, count)
    best, shown = np.zeros(count), np.zeros(count, dtype=bool)
    for number, length in enumerate(windows):
        logits = rng.normal(-3, 2, length)
        best[number] = 1 / (1 + np.exp(-logits.max() / 2))
        shown[number] = (rng.random(length) < 1 / (1 + np.exp(-logits))).any()
    return best, windows, shown


def test_a_curve_says_what_is_true_for_short_and_long_documents_alike() -> None:
    best, windows, shown = simulated(4000)
    weight = np.ones(len(best))
    curve = fit(best, windows, shown, weight)
    new_best, new_windows, new_shown = simulated(4000, seed=1)
    said = curve(new_best, new_windows)
    for low, high in ((1, 2), (3, 5), (6, 10)):
        chosen = (new_windows >= low) & (new_windows <= high)
        assert said[chosen].mean() == pytest.approx(new_shown[chosen].mean(), abs=0.035)
        assert abs(new_best[chosen].mean() - new_shown[chosen].mean()) > 0.035 or low == 6
    assert log_loss(said, new_shown, weight) < log_loss(new_best, new_shown, weight) - 0.02
    assert curve.slope > 1.5 and curve.per_log_windows > 0


def test_a_document_is_judged_by_a_curve_that_has_not_seen_it() -> None:
    """With noise for scores, curves look good on their own documents and worse than the mere share of positives on others."""
    own, other = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        best, windows, shown, weight = rng.random(40), rng.integers(1, 5, 40), np.arange(40) % 2 == 0, np.ones(40)
        own.append(log_loss(fit(best, windows, shown, weight)(best, windows), shown, weight))
        other.append(log_loss(judged(best, windows, shown, weight, seed), shown, weight))
    assert np.mean(own) < np.log(2) < np.mean(other)


def test_curves_keep_the_order_of_documents_of_one_length() -> None:
    scores = np.linspace(0, 1, 50)
    said = Curve(-1.0, 2.0, 0.5)(scores, np.full(50, 3))
    assert (np.diff(said) >= 0).all() and 0 < said[0] < said[-1] < 1


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    best, windows, shown = simulated(200)
    rows = [{"id": str(n), "text": "word " * 100, "_scores": {"verification": float(score)}, "_windows": [(w, w + 1) for w in range(count)]} for n, (score, count) in enumerate(zip(best, windows, strict=True))]  # fmt: skip
    make_labels(tmp_path / "run", [*rows, {"id": "x", "text": "", "_error": "the text is empty"}])
    gold = [{"file_sha256": row["file_sha256"], "source_row": row["source_row"], "verification": int(truth), "backtracking": 0} for row, truth in zip(rows_of(tmp_path / "run" / "labels"), shown)]  # fmt: skip
    write_jsonl(tmp_path / "gold.jsonl", gold)
    return tmp_path / "run" / "labels"


def test_labels_are_calibrated_and_what_lacks_gold_stays(labels: Path, tmp_path: Path) -> None:
    made = json.loads((labels / "manifest.json").read_text())
    made["notes"]["score_shift"] = {"verification": 1.0, "backtracking": 1.0}  # as of a student
    (labels / "manifest.json").write_text(json.dumps(made))
    result = curate("calibrate", "--labels", labels, "--gold", tmp_path / "gold.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "warning: backtracking is not calibrated: 0 of 200 gold documents show it" in result.stdout
    before, after = rows_of(labels), rows_of(tmp_path / "out")
    assert len(after) == 201 and after[-1]["error"] and after[-1]["verification_score"] is None
    assert [row["backtracking_score"] for row in after] == [row["backtracking_score"] for row in before]
    truth = pl.read_ndjson(tmp_path / "gold.jsonl")["verification"].to_numpy()
    assert np.mean([row["verification_score"] for row in after[:200]]) == pytest.approx(truth.mean(), abs=0.01)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.stage == "classify" and manifest.inputs == read_manifest(labels).inputs
    about = manifest.notes["calibration"][0]
    assert about["gold"] == 200 and about["log_loss"] < about["log_loss_before"]
    assert manifest.notes["score_shift"] == {"backtracking": 1.0}
    assert curate("frequencies", "--labels", tmp_path / "out", "--out", tmp_path / "f").exit_code == 0
    means = {row["behavior"]: row["value"] for row in rows_of(tmp_path / "f") if row["estimate"] == "mean"}
    assert means["verification"] == pytest.approx(truth.mean(), abs=0.01)  # a curve's probability is nothing to take a shift from
    again = curate("calibrate", "--labels", tmp_path / "out", "--gold", tmp_path / "gold.jsonl", "--out", tmp_path / "more")
    assert again.exit_code == 2 and "is calibrated already" in error_line(again)


def test_too_little_gold_for_everything_and_labels_without_probabilities_are_refused(labels: Path, tmp_path: Path) -> None:
    few = write_jsonl(tmp_path / "few.jsonl", [json.loads(line) for line in (tmp_path / "gold.jsonl").read_text().splitlines()[:4]])
    result = curate("calibrate", "--labels", labels, "--gold", few, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "nothing can be calibrated" in error_line(result) and not (tmp_path / "out").exists()
    raw = json.loads((labels / "manifest.json").read_text())
    raw["settings"]["mode"] = "rationale"
    (labels / "manifest.json").write_text(json.dumps(raw))
    result = curate("calibrate", "--labels", labels, "--gold", tmp_path / "gold.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "only the probabilities of mode score" in error_line(result)
