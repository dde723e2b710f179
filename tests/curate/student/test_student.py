"""The student: what it reads, what it refuses, and that labels do not depend on how documents are grouped."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st

from curate.behaviors import load_behaviors
from curate.classification import ClassifySettings
from curate.records.errors import UserError
from curate.student.distillation import distill, folds_by_group
from curate.student.evaluation import interval, precision
from curate.student.features import Extractor, split_sentences
from curate.student.forest import Forest
from curate.student.labelling import StudentLabeller, audit_draw, check_student
from curate.student.model import load_student
from curate.student.settings import DistillSettings
from curate.student.tables import labelled_windows, read_windows

NAMES = [behavior.name for behavior in load_behaviors()]
BUG = "I had a bug here: my first attempt was wrong, so instead I count pairs."
CHECK = "Check: substituting x = 2 back into the equation gives 4 = 4, as expected."
GOAL = "It remains to bound the second sum, for which it suffices to bound each term."
PLAIN = "The ring of integers is a principal ideal domain. Every prime has two divisors."


def taught(count: int = 60) -> pl.DataFrame:
    """Windows of 20 documents in which `verification` and `backtracking` are plain to see, and the other two by one sentence."""
    rows = []
    for number in range(count):
        shown = {"verification": number % 3 == 0, "backtracking": number % 3 == 1}
        first = CHECK if shown["verification"] else BUG if shown["backtracking"] else PLAIN
        more = f"{GOAL}\n\n" if number % 2 == 0 else ""
        text = f"{more}{first}\n\nA remark about {number} and $x = {number}$.\n\n{PLAIN}"
        labels = {name: float(shown.get(name, number % 2 == 0)) for name in (*NAMES, "problem", "solution")}
        evidence = [{"behavior": name, "start": len(more), "end": len(more) + len(first)} for name in NAMES if shown.get(name)]
        rows.append({"doc": f"d{number // 3}", "source": f"s{number % 2}", "text": text, "evidence": evidence, **labels})
    return pl.DataFrame(rows)


@pytest.fixture(scope="module")
def student_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    distill(labelled_windows(taught(), NAMES), 3, 0, {}).save(path)
    return path


def document(text: str, number: int = 0) -> Document:
    row = {"file_sha256": "f", "source_file": "f.jsonl", "source_row": number, "id": None, "source": "s"}
    return Document(text=text, id=f"c/{number}", metadata={"chunk": "c", "row": row, "error": None})


@given(st.text(alphabet=st.sampled_from("aB. \n\t$=!?assert()[]\\é✓{}1"), max_size=300))
def test_sentences_are_in_order_disjoint_and_leave_out_only_white_space_and_closing_marks(text: str) -> None:
    end = 0
    for low, high in split_sentences(text):
        assert end <= low < high <= len(text)
        assert not [character for character in text[end:low] if character.isalnum()]
        end = high
    assert not [character for character in text[end:] if character.isalnum()]


def test_features_of_a_text_do_not_depend_on_the_texts_beside_it() -> None:
    texts = [CHECK, BUG + "\n\n" + PLAIN, "", PLAIN]
    together = Extractor().extract(texts)
    for number, text in enumerate(texts):
        alone = Extractor().extract([text])
        inside = together.text_of == number
        assert (together.words[np.flatnonzero(inside)] != alone.words).nnz == 0
        assert (together.cues[inside] == alone.cues).all()


def test_the_student_finds_what_it_was_taught_and_says_where(student_path: Path) -> None:
    labeller = StudentLabeller(load_student(student_path), NAMES, 2400)
    text = f"{PLAIN}\n\nA sentence more.\n\n{BUG}\n\n{PLAIN}"
    row = next(labeller.label([document(text)])).metadata["rows"][0]
    assert row["backtracking_score"] > 0.5 > row["verification_score"]
    spans = [text[item["start"] : item["end"]] for item in row["evidence"] if item["behavior"] == "backtracking"]
    assert BUG in spans
    assert 0 <= row["problem_score"] <= 1


def test_labels_do_not_depend_on_the_batch(student_path: Path) -> None:
    labeller = StudentLabeller(load_student(student_path), NAMES, 200)
    texts = [CHECK * 9, PLAIN, BUG, " ", f"{PLAIN}\n\n{CHECK}"]
    together = [item.metadata["rows"][0] for item in labeller.label(document(text, number) for number, text in enumerate(texts))]
    for number, text in enumerate(texts):
        alone = next(labeller.label([document(text, number)])).metadata["rows"][0]
        for key, value in alone.items():
            expected = pytest.approx(value, abs=1e-5) if isinstance(value, float) else value
            if key != "evidence":
                assert together[number][key] == expected, key


def test_the_same_seed_gives_the_same_student_and_the_file_says_it_all(student_path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    distill(labelled_windows(taught(), NAMES), 3, 0, {}).save(again)
    assert again.read_bytes() == student_path.read_bytes()


def test_a_student_of_other_features_is_refused_by_name(student_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.student.model.VERSION", -1)
    with pytest.raises(UserError, match=r"student\.safetensors was made from other features.*`curate distill`"):
        load_student(student_path)


def test_what_is_no_student_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="cannot read the student"):
        load_student(path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UserError, match="no student; `curate distill` makes one"):
        load_student(path)
    with pytest.raises(UserError, match="cannot read the student"):
        load_student(tmp_path / "nowhere")


def test_a_behavior_that_the_student_was_not_taught_names_distill(tmp_path: Path, student_path: Path) -> None:
    fifth = tmp_path / "mine.toml"
    fifth.write_text('[[behavior]]\nname = "analogy"\nshort = "s"\ndefinition = "d"\nquestion = "q?"\n')
    settings = ClassifySettings(engine="student", student=student_path, behaviors=fifth)
    with pytest.raises(UserError, match="does not know analogy .*`curate distill`"):
        check_student(settings, settings.labelling())
    rationale = ClassifySettings(engine="student", student=student_path, mode="rationale")
    with pytest.raises(UserError, match="mode score"):
        check_student(rationale, rationale.labelling())


def test_windows_that_cannot_teach_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.parquet"
    for frame, message in (
        (taught().drop("backtracking"), "has no column backtracking"),
        (taught().with_columns(pl.lit(0.0).alias("verification")), "0 of 60 windows show verification"),
        (taught().drop("text"), "--corpus"),
    ):
        frame.write_parquet(path)
        with pytest.raises(UserError, match=message):
            read_windows(DistillSettings(windows=(str(path),)), NAMES)


def test_a_forest_walked_here_is_the_forest_that_was_fitted() -> None:
    from sklearn.ensemble import ExtraTreesClassifier

    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 5)).astype(np.float32)
    truth = features[:, 0] * features[:, 1] > 0
    fitted = ExtraTreesClassifier(20, min_samples_leaf=3, random_state=0).fit(features, truth)
    assert np.allclose(Forest.of(fitted).predict(features), fitted.predict_proba(features)[:, 1], atol=1e-6)


def test_folds_keep_documents_together_and_intervals_hold_the_value() -> None:
    group = np.repeat(np.arange(30), 4)
    fold = folds_by_group(group, 5, 0)
    assert all(len(set(fold[group == one])) == 1 for one in range(30)) and set(fold) == set(range(5))
    truth, flagged = np.arange(120) % 3 == 0, np.arange(120) % 2 == 0
    low, high = interval(precision, truth, flagged, np.ones(120), group, 0)
    assert low <= precision(truth, flagged, np.ones(120)) <= high


def test_the_audit_sample_is_uniform_and_the_same_for_the_same_documents() -> None:
    rows = [{"file_sha256": "f", "source_row": number} for number in range(4000)]
    draws = np.array([audit_draw(0, row) for row in rows])
    assert abs((draws < 0.1).mean() - 0.1) < 0.02
    assert draws[17] == audit_draw(0, {"file_sha256": "f", "source_row": 17}) != audit_draw(1, rows[17])
