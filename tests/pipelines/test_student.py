"""`--engine student`, `--engine cascade` and `curate distill` as commands, with a student taught in the test."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from curate.auditing.pages import sample_hash
from curate.prevalence import unshifted
from curate.records.manifest import read_manifest
from curate.records.settings import build
from curate.student.settings import DistillSettings
from pipelines.distill import distill
from tests.curate.student.test_student import BUG, CHECK, PLAIN, taught
from tests.endpoint import Endpoint
from tests.helpers import curate, rows_of, write_jsonl


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled")
    taught().write_parquet(folder / "windows.parquet")
    settings = build(
        DistillSettings, {"windows": [str(folder / "windows.parquet")], "out": folder / "out", "folds": 2, "evaluate": "document"}
    )
    distill(settings)
    return folder / "out"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rest = [f"A remark about {number} and $x = {number}$.\n\n{PLAIN}" for number in range(40)]
    texts = [f"{first}\n\n{other}" for first, other in zip([CHECK, BUG, *[PLAIN] * 38], rest, strict=True)]
    return write_jsonl(tmp_path / "corpus.jsonl", [{"id": str(number), "text": text} for number, text in enumerate(texts)] + [{"id": "x"}])


def test_distill_writes_a_student_its_figures_and_a_card(student: Path) -> None:
    manifest = read_manifest(student)
    manifest.check()
    figures = json.loads((student / "figures.json").read_text())
    assert 0.9 < figures["backtracking"]["by_document"]["f1_labelled"]["value"] <= 1
    card = (student / "CARD.md").read_text()
    assert "precision and recall at the natural prevalence" in card and "not measured" in card


def test_the_student_labels_a_corpus_without_any_language_model(student: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    result = curate("classify", "--engine", "student", "--student", student, "--dataset", corpus, "--out", out)
    assert result.exit_code == 0, result.stderr
    rows = rows_of(out)
    assert len(rows) == 41 and "no column 'text'" in rows[-1]["error"]
    assert rows[0]["verification_score"] > 0.5 > rows[2]["verification_score"]
    assert rows[1]["backtracking_score"] > 0.5 > rows[0]["backtracking_score"]
    manifest = read_manifest(out)
    assert (manifest.model, manifest.engine) == ("student", "student") and manifest.revision
    assert manifest.notes["score_shift"].keys() == set(manifest.notes["behaviors"])
    assert curate("frequencies", "--labels", out, "--out", tmp_path / "frequencies").exit_code == 0
    rows = [row for row in rows_of(tmp_path / "frequencies") if row["behavior"] == "verification" and row["estimate"] == "mean"]
    scores = np.array([row["verification_score"] for row in rows_of(out) if row["error"] is None], dtype=np.float64)
    assert rows[0]["value"] == pytest.approx(unshifted(scores, manifest.notes["score_shift"]["verification"]).mean())
    select = curate("select", "--labels", out, "--out", tmp_path / "c", "--problem", "top:1", "--solution", "top:1")
    assert select.exit_code == 0 or "no document is" in select.stderr


def test_another_student_is_another_setting(student: Path, corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    frame = tmp_path / "w.parquet"
    taught(90).write_parquet(frame)
    distill(build(DistillSettings, {"windows": [str(frame)], "out": other, "folds": 2, "evaluate": "none"}))
    arguments = ("classify", "--engine", "student", "--dataset", corpus, "--out", tmp_path / "labels")
    assert curate(*arguments, "--student", student).exit_code == 0
    result = curate(*arguments, "--student", other)
    assert result.exit_code == 2 and "student_revision" in result.stderr


def test_the_cascade_asks_the_model_where_the_student_is_not_sure_and_for_a_recorded_sample(
    student: Path, corpus: Path, tmp_path: Path
) -> None:
    with Endpoint() as server:
        result = curate(
            *("classify", "--engine", "cascade", "--cascade-engine", "openai", "--base-url", server.url, "--model", "fake"),
            *("--student", student, "--dataset", corpus, "--out", tmp_path / "labels", "--audit-share", 0.2),
            *("--cascade-below", 0.9),
        )
        asked = len(server.bodies)
    assert result.exit_code == 0, result.stderr
    rows = rows_of(tmp_path / "labels")
    good = [row for row in rows if not row["error"]]
    assert len(rows) == 41 and len(good) == 40
    by_model = [row for row in good if row["cascade"]["judge"] == "llm"]
    for row in good:
        sure = max(row["cascade"]["student"].values()) < 0.9
        assert (row["cascade"]["judge"] == "student") == (sure and not row["cascade"]["audit"])
    assert 0 < sum(row["cascade"]["audit"] for row in good) < 20
    assert asked == 6 * len(by_model)
    assert rows[0]["cascade"]["judge"] == "llm" and rows[0]["verification_score"] > 0.5
    notes = read_manifest(tmp_path / "labels").notes
    assert notes["judge"] == {"student": 40 - len(by_model), "llm": len(by_model)}
    # an audit of these labels takes back what the student added, and nothing of the language model's
    audit = tmp_path / "audit"
    assert curate("audit", "export", "--labels", tmp_path / "labels", "--out", audit, "--annotator", "ann").exit_code == 0
    items = rows_of(audit / "sample")
    answer = {"answer": "yes", "seconds": 1.0, "evidence_shown": False, "at": 1.0}
    answers = [{"item": item["item"], "behavior": name, **answer} for item in items for name in notes["behaviors"]]
    saved = {"format": 1, "sample": sample_hash(items), "annotator": "ann", "answers": answers}
    (tmp_path / "answers.json").write_text(json.dumps(saved))
    assert curate("audit", "import", "--answers", tmp_path / "answers.json", "--out", audit).exit_code == 0
    for name, shift in notes["score_shift"].items():
        bands = [row for row in json.loads((audit / "audit.json").read_text())["calibration"] if row["behavior"] == name]
        scores = np.array([row[f"{name}_score"] for row in good], dtype=np.float64)
        by_student = np.array([row["cascade"]["judge"] == "student" for row in good])
        probabilities = np.where(by_student, unshifted(scores, shift), scores)
        assert sum(row["items"] * row["mean_score"] for row in bands) == pytest.approx(probabilities.sum())


def test_what_the_student_cannot_do_is_said_in_one_line(student: Path, corpus: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[[behavior]]\nname = "analogy"\nshort = "s"\ndefinition = "d"\nquestion = "q?"\n')
    base = ("classify", "--engine", "student", "--student", student, "--dataset", corpus, "--out", tmp_path / "labels")
    for options, message in (
        (("--behaviors", mine), "does not know analogy"),
        (("--mode", "rationale"), "mode score"),
        (("--student", tmp_path / "no.safetensors"), "cannot read the student"),
    ):
        result = curate(*base, *options)
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_shipped_labels_have_no_text_and_point_into_their_documents() -> None:
    from curate.student.tables import shipped_labels

    frame = pl.read_parquet(shipped_labels())
    assert "text" not in frame.columns
    assert {"url", "commit", "path", "doc", "text_sha256", "start", "end", "license"} <= set(frame.columns)
    assert (frame["end"] > frame["start"]).all()
