"""`curate frequencies`: uniform over the rows of a corpus that is never read whole; corrected by gold labels, or told that it is not."""

import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import chisquare

from curate.records.manifest import InputFile, read_manifest
from pipelines.ledger import make_chunks
from tests.endpoint import Endpoint
from tests.helpers import ENGINE, ROOT, classify, conserved, curate, documents, error_line, rows_of, write_jsonl, write_parquet
from tests.hub import Hub

REPOSITORY = "open-web-math/open-web-math"
BEHAVIORS = ("verification", "backtracking", "subgoal_setting", "backward_chaining")


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def labels(server: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents, a sixth of which the scripted judge takes to show each behavior."""
    folder = tmp_path_factory.mktemp("labels")
    result = classify(server.url, folder / "labels", "--dataset", write_jsonl(folder / "a.jsonl", documents(120)))
    assert result.exit_code == 0, result.stderr
    return folder / "labels"


def truth(number: int) -> dict[str, int]:
    """What people would say: the judge finds every behavior, but a third of its verifications are none."""
    return {name: int(number % 6 == cue and (cue > 0 or number % 18 > 0)) for cue, name in enumerate(BEHAVIORS)}


def table(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["behavior"], row["estimate"]): row for row in rows_of(folder)}


def test_each_row_of_each_file_is_drawn_equally_often() -> None:
    """Over 2,000 seeds, 7 of 40 rows in files of very different lengths: row counts as a fair draw gives them (chi-square)."""
    files = [InputFile(f"{number}", f"{number}" * 64, rows) for number, rows in enumerate((1, 30, 0, 9))]
    drawn: Counter[tuple[str, int]] = Counter()
    pairs = 0
    for seed in range(2000):
        rows = [(chunk.file.path, row) for chunk in make_chunks(files, 4, sample=7, seed=seed) for row in chunk.rows or ()]
        assert len(set(rows)) == 7
        drawn.update(rows)
        pairs += ("1", 0) in rows and ("1", 1) in rows  # neighbours come together as often as any two rows
    assert len(drawn) == 40
    assert chisquare(list(drawn.values())).pvalue > 1e-3
    assert pairs == pytest.approx(2000 * (7 * 6) / (40 * 39), rel=0.35)


def hub_file(rows: int, start: int) -> bytes:
    """Row groups of 20 documents, each with 50 kB that does not compress."""
    made = [
        {**row, "text": f"{row['text']}\n\n{np.random.default_rng(start + n).bytes(25_000).hex()}"}
        for n, row in enumerate(documents(rows, start))
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(made), file, row_group_size=20)
    return file.getvalue()


def frequencies_of_hub(hub: Hub, endpoint: Endpoint, out: Path, seed: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.main import main; main()", "frequencies", "--dataset", "openwebmath", "--sample", "8"]
    command += ["--seed", str(seed), *ENGINE, "--base-url", endpoint.url, "--out", str(out), "--window-chars", "100000"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(out / "hf"), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150)


def test_a_study_of_the_hub_draws_over_all_files_from_their_footers_and_reads_little(server: Endpoint, tmp_path: Path) -> None:
    files = {f"data/train-{number:05d}.parquet": hub_file(200, 200 * number) for number in range(3)}
    identities = []
    with Hub(REPOSITORY, files) as hub:
        for name in ("one", "again"):
            hub.bytes_sent = 0
            done = frequencies_of_hub(hub, server, tmp_path / name, seed=3)
            assert done.returncode == 0, done.stderr
            groups = len({row // 20 for row in np.random.default_rng(3).choice(600, size=8, replace=False)})
            # the row groups that hold sampled rows, and footers; once for the plan and once for the labels
            assert hub.bytes_sent < 2 * 1.2 * groups / 30 * sum(map(len, files.values()))
            rows = rows_of(tmp_path / name / "labels")
            identities.append(sorted((row["source_file"], row["source_row"]) for row in rows))
    assert identities[0] == identities[1] and len(identities[0]) == 8
    total = np.sort(np.random.default_rng(3).choice(600, size=8, replace=False))  # global row numbers, by an independent draw
    assert identities[0] == [(f"data/train-{row // 200:05d}.parquet", row % 200) for row in total]
    assert table(tmp_path / "one")["verification", "naive"]["documents"] == 8
    assert "not corrected for the judge's errors" in done.stdout


def test_gold_of_the_corpus_gives_prediction_powered_estimates(labels: Path, tmp_path: Path) -> None:
    chosen = [row for row in documents(120) if int(row["id"][1:]) % 2 == 0 or int(row["id"][1:]) % 3 == 0]
    gold = [{"text": row["text"], **truth(int(row["id"][1:]))} for row in chosen]
    result = curate("frequencies", "--labels", labels, "--gold", write_jsonl(tmp_path / "gold.jsonl", gold), "--out", tmp_path / "f")
    assert result.exit_code == 0, result.stderr
    rows = table(tmp_path / "f")
    conserved(tmp_path / "f")
    assert set(rows) == {(name, estimate) for name in BEHAVIORS for estimate in ("naive", "mean", "ppi")}
    row = rows["verification", "ppi"]
    assert row["corrected"] and row["gold"] == len(gold) and row["low"] < row["value"] < row["high"]
    assert row["value"] < rows["verification", "naive"]["value"]
    assert row["sensitivity"] == 1 and 0.8 < row["specificity"] < 1
    assert "note: the gold labels have no weights" in result.stdout and "not corrected" not in result.stdout
    assert any(file.path == "gold.jsonl" and len(file.sha256) == 64 for file in read_manifest(tmp_path / "f").inputs)


def test_weights_and_strata_of_the_gold_are_honoured(labels: Path, tmp_path: Path) -> None:
    """All documents with a cue and every fourth without one are gold: unweighted, the share would come out far too high."""
    gold = []
    for row in documents(120):
        number = int(row["id"][1:])
        if number % 6 < 4 or number % 24 < 6:
            gold.append({"text": row["text"], **truth(number), "weight": 1.0 if number % 6 < 4 else 4.0, "stratum": f"s{number % 6 < 4}"})
    for name, keys in (("weighted", {"weight", "stratum"}), ("bare", set())):
        rows = [{key: value for key, value in row.items() if key in keys or key not in ("weight", "stratum")} for row in gold]
        path = write_jsonl(tmp_path / f"{name}.jsonl", rows)
        assert curate("frequencies", "--labels", labels, "--gold", path, "--out", tmp_path / name).exit_code == 0
    weighted, bare = (table(tmp_path / name)["backtracking", "ppi"] for name in ("weighted", "bare"))
    assert weighted["low"] <= 1 / 6 <= weighted["high"]
    assert weighted["value"] == pytest.approx(1 / 6, abs=0.02)
    assert bare["high"] - bare["low"] != pytest.approx(weighted["high"] - weighted["low"], abs=1e-4)


def test_gold_from_elsewhere_is_labelled_by_the_same_judge_and_gives_rogan_gladen(labels: Path, server: Endpoint, tmp_path: Path) -> None:
    gold = [{"text": row["text"], **truth(int(row["id"][1:]))} for row in documents(90, 1000)]
    for row, number in zip(gold, range(1000, 1090), strict=True):
        row |= truth(number)
    path = write_parquet(tmp_path / "gold.parquet", {key: [row[key] for row in gold] for key in gold[0]})
    result = curate("frequencies", "--labels", labels, "--gold", path, "--out", tmp_path / "f")
    assert result.exit_code == 2 and "the judge must label them too: `curate classify --from-manifest" in error_line(result)
    assert classify(server.url, tmp_path / "judged", "--dataset", path).exit_code == 0
    result = curate("frequencies", "--labels", labels, "--gold", path, "--gold-labels", tmp_path / "judged", "--out", tmp_path / "f")
    assert result.exit_code == 0, result.stderr
    row = table(tmp_path / "f")["verification", "rogan-gladen"]
    assert row["corrected"] and row["gold"] == 90 and row["value"] < table(tmp_path / "f")["verification", "naive"]["value"]
    options = (*ENGINE, "--base-url", server.url, "--dataset", labels.parent / "a.jsonl")
    result = curate("frequencies", *options, "--gold", path, "--out", tmp_path / "all")
    assert result.exit_code == 0, result.stderr
    own = table(tmp_path / "all")["verification", "rogan-gladen"]
    assert own == row and len(rows_of(tmp_path / "all" / "gold-labels")) == 90


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ([{"text": "a", "verifikation": 1}], "have no column of a behavior"),
        ([{"verification": 1}], "need a column `text`, or `file_sha256` and `source_row`"),
        ([{"text": "a", "verification": 2}], "values outside 0 to 1 in column verification"),
        ([{"text": "a", "verification": 1, "weight": -1}], "a weight that is no number of at least 0"),
        ([b"{oops"], "cannot read the gold labels"),
    ],
)
def test_gold_that_cannot_be_used_is_one_line(labels: Path, tmp_path: Path, gold: list[Any], message: str) -> None:
    result = curate("frequencies", "--labels", labels, "--gold", write_jsonl(tmp_path / "g.jsonl", gold), "--out", tmp_path / "f")
    assert result.exit_code == 2 and message in error_line(result)


def test_a_folder_of_other_settings_is_refused_before_anything_is_shown(labels: Path, tmp_path: Path) -> None:
    assert curate("frequencies", "--labels", labels, "--out", tmp_path / "f").exit_code == 0
    gold = write_jsonl(tmp_path / "g.jsonl", [{"text": row["text"], **truth(int(row["id"][1:]))} for row in documents(60)])
    result = curate("frequencies", "--labels", labels, "--gold", gold, "--out", tmp_path / "f")
    assert result.exit_code == 2 and not result.stdout and "gold: null ->" in error_line(result)
    (tmp_path / "study").mkdir()
    shutil.copytree(labels, tmp_path / "study" / "labels")
    shutil.copy(tmp_path / "f" / "manifest.json", tmp_path / "study")
    result = curate("select", "--labels", tmp_path / "study", "--out", tmp_path / "s")
    assert error_line(result).endswith(f"the output of `classify` is needed here: {tmp_path / 'study' / 'labels'}")


def test_half_known_gold_and_mixed_demands_are_refused(labels: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "verification": 1} for row in [*documents(5), *documents(5, 5000)]]
    path = write_jsonl(tmp_path / "g.jsonl", rows)
    result = curate("frequencies", "--labels", labels, "--gold", path, "--out", tmp_path / "f")
    assert result.exit_code == 2 and "5 of 10 gold passages stand among the labels" in error_line(result)
    assert curate("frequencies", "--labels", labels, "--gold", path, "--gold-from", "corpus", "--out", tmp_path / "f").exit_code == 0
    result = curate("frequencies", "--labels", labels, "--sample", 5, "--out", tmp_path / "g")
    assert result.exit_code == 2 and "--sample would change how they are made" in error_line(result)
    result = curate("frequencies", "--labels", labels, "--gold", tmp_path / "no.parquet", "--out", tmp_path / "g")
    assert result.exit_code == 2 and "there are no gold labels at" in error_line(result)


def test_labels_of_windows_dev_as_it_is(labels: Path, tmp_path: Path) -> None:
    """The columns of the development windows: shares of annotators, weights, a stratum, a list of evidence."""
    frame = pl.DataFrame(
        {
            "text": [row["text"] for row in documents(60)],
            "stratum": ["random"] * 60,
            "weight": [2.0] * 59 + [0.0],
            **{name: [float(truth(number)[name]) for number in range(60)] for name in BEHAVIORS},
            "evidence": [[{"behavior": "verification", "start": 0, "end": 3}]] * 60,
        }
    )
    frame.write_parquet(tmp_path / "g.parquet")
    assert curate("frequencies", "--labels", labels, "--gold", tmp_path / "g.parquet", "--out", tmp_path / "f").exit_code == 0
    assert table(tmp_path / "f")["subgoal_setting", "ppi"]["gold"] == 59
