"""Sets that people can use: loadable, with a card that says what must be known, pushed in batches and from where it stopped."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.card import cell, front_matter
from curate.matching import MatchSettings
from curate.records.manifest import read_manifest
from curate.records.parts import write_json
from pipelines.match import match
from tests.helpers import ROOT, conserved, curate, embedded_model, error_line, rows_of
from tests.hub import WritableHub
from tests.pipelines.test_arms import judge, versions
from tests.pipelines.test_match_command import made

REPOSITORY = "somebody/four-habits"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of 12 documents, one of which the judge finds wanting, in shards of 5 rows; the card has been written."""
    folder = tmp_path_factory.mktemp("published")
    qa = made(folder, [row | {"prompt_hash": "p" * 64, "model": "writer", "revision": "abc"} for row in versions(12, ("selected",))])
    verified = judge(folder / "verified", qa, {(f"{3:016x}", "selected")})
    fidelity = {"cell": "selected", "behavior": "a", "rewrites": 12, "source_shows": 12, "kept": 11, "lost": 1, "gained": 0}
    shares = {f"{name}{end}": value for name in ("kept_share", "agreement") for end, value in (("", 0.92), ("_low", 0.65), ("_high", 0.99))}
    shares |= {"gained_share": None, "gained_share_low": 0.0, "gained_share_high": 1.0}
    table = {"thresholds": {"a": 0.5}, "judged": 24, "errors": 0, "rows": [fidelity | shares], "judge": []}
    write_json(verified / "fidelity.json", table)
    note = read_manifest(verified)
    note.model, note.notes["warnings"] = "judge", ["the judge judge is of the same family as the rewriter judge"]
    note.write(verified)
    labels = read_manifest(folder / "candidates")
    labels.stage, labels.inputs = "classify", []
    (folder / "labels" / "parts").mkdir(parents=True)
    labels.rows_in = labels.rows_out = 0
    labels.write(folder / "labels")
    chosen = read_manifest(folder / "candidates")
    chosen.inputs = [type(read_manifest(qa).inputs[0])("0.parquet", "e" * 64, 0, 0, str(folder / "labels" / "parts"))]
    chosen.write(folder / "candidates")
    settings = {"budget_tokens": 10**6, "tolerance": 1.0, "shard_rows": 5, "tokenizer": str(embedded_model())}
    match(MatchSettings(qa=qa, verified=verified, out=folder / "sets", **settings))
    result = curate("publish", folder / "sets")
    assert result.exit_code == 0, result.stderr
    return folder


def test_the_folder_is_a_dataset_whose_splits_are_the_arms(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    sets = datasets.load_dataset(str(run / "sets"), cache_dir=str(tmp_path))
    assert {name: split.num_rows for name, split in sets.items()} == {"enriched": 12, "control": 12}
    assert sets["control"].sort("pair_id")["completion"][:] == [row["completion"] for row in rows_of(run / "sets" / "control")]
    filtered = datasets.load_dataset(str(run / "sets"), "filtered", cache_dir=str(tmp_path))
    assert {split.num_rows for split in filtered.values()} == {11}
    alone = datasets.load_dataset(str(run / "sets" / "enriched"), cache_dir=str(tmp_path))["train"]
    assert alone.num_rows == 12


def test_every_row_names_its_document_its_prompt_and_its_model(run: Path) -> None:
    for arm in ("enriched", "control"):
        for row in rows_of(run / "sets" / arm):
            assert row["file_sha256"] == "f" * 64 and row["source_file"] and row["source_row"] >= 0
            assert (row["prompt_hash"], row["model"], row["revision"]) == ("p" * 64, "writer", "abc")
            assert row["license"] and row["pair_id"] and row["cell"] and row["error"] is None
        assert len(list((run / "sets" / arm / "parts").glob("*.parquet"))) == 3
        conserved(run / "sets" / arm)


def test_the_card_says_what_must_be_known(run: Path) -> None:
    card = (run / "sets" / "README.md").read_text()
    for text in (
        "verify: the judge judge is of the same family as the rewriter judge",
        "| enriched | 12 selected | 12 |",
        "enriched − control | the behaviors in the text",
        "| selected | a | 12 | 12 | 11 | 1 | 0 | 0.92 (0.65 to 0.99) | – | 0.92 (0.65 to 0.99) |",
        "| made | CC0 | 12 | 24 |",
        "The unfiltered sets are the primary ones. `filtered` (11 examples an arm)",
        "The texts are a model's (writer)",
        "Not held against any evaluation set",
        "python 3.",
        f"curate match --qa {run / 'qa'} --verified {run / 'verified'} --out {run / 'sets'} --budget-tokens 1000000",
    ):
        assert text in card, text


def test_the_command_on_the_card_makes_the_sets_again(run: Path, tmp_path: Path) -> None:
    import shlex

    card = (run / "sets" / "README.md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("curate match")]
    words = shlex.split(line.replace(str(run / "sets"), str(tmp_path / "again")))
    assert curate(*words[1:]).exit_code == 0
    for arm in ("enriched", "control", "filtered/enriched"):
        assert rows_of(tmp_path / "again" / arm) == rows_of(run / "sets" / arm)


def test_licences_that_are_one_and_known_stand_in_the_front_matter_others_do_not() -> None:
    assert "license: cc0-1.0" in front_matter("t", ["a"], False, ["CC0"], 10)
    mixed = front_matter("t: 'x'", ["a", "b"], True, ["CC-BY-4.0", "MIT"], 5000)
    assert "license: other" in mixed and "1K<n<10K" in mixed and "config_name: filtered" in mixed
    assert "license: other" in front_matter("t", ["a"], False, ["my own"], 10)


def test_text_of_a_corpus_cannot_break_the_tables_of_the_card() -> None:
    assert cell("a|b\n# <script>`x`") == "a\\|b # \\<script\\>\\`x\\`"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    import huggingface_hub.constants as constants

    with WritableHub(REPOSITORY) as made_hub:
        monkeypatch.setattr(constants, "ENDPOINT", made_hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr("curate.hub.BATCH_FILES", 4)
        yield made_hub


def push(run: Path) -> Any:
    return curate("publish", run / "sets", "--push-to-hub", REPOSITORY)


def test_everything_arrives_in_batches_with_the_card_last_and_nothing_is_sent_twice(run: Path, hub: WritableHub) -> None:
    result = push(run)
    assert result.exit_code == 0, result.stderr
    expected = {str(path.relative_to(run / "sets")) for path in (run / "sets").rglob("*.parquet")}
    expected |= {"README.md", "balance.json", "filtered/balance.json"}
    assert set(hub.files) == expected and all(hub.files[name] == (run / "sets" / name).read_bytes() for name in expected)
    assert len(hub.commits) == 4 and max(map(len, hub.commits)) == 4 and hub.commits[-1][-1] == "README.md"
    assert hub.created["name"] == "four-habits" and hub.created.get("private", hub.created.get("visibility")) in (True, "private")
    assert f"15 files sent, 0 were there: {hub.url}/datasets/{REPOSITORY}" in result.stdout
    commits = len(hub.commits)
    again = push(run)
    assert again.exit_code == 0 and len(hub.commits) == commits
    assert "0 files sent, 15 were there" in again.stdout


def test_a_push_that_breaks_off_goes_on_where_it_stopped(run: Path, hub: WritableHub) -> None:
    hub.fault = lambda method, path: 500 if path.endswith("/commit/main") and len(hub.commits) == 2 else None
    before = {path: path.read_bytes() for path in (run / "sets").rglob("*") if path.is_file() and path.name != "README.md"}
    result = push(run)
    assert result.exit_code == 4
    assert "7 of 15 files are missing there" in error_line(result) and "the same command goes on" in error_line(result)
    assert len(hub.files) == 8 and all(path.read_bytes() == data for path, data in before.items())
    hub.fault = None
    result = push(run)
    assert result.exit_code == 0 and "7 files sent, 8 were there" in result.stdout and len(hub.files) == 15


def test_a_hub_that_refuses_the_token_says_what_to_do(run: Path, hub: WritableHub) -> None:
    hub.fault = lambda method, path: 401
    result = push(run)
    assert result.exit_code == 4 and "log in with `hf auth login` or set HF_TOKEN" in error_line(result)


def test_an_unreachable_hub_is_one_line_and_the_card_is_there(run: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from pipelines.main import main; main()", "publish", str(run / "sets"), "--push-to-hub", REPOSITORY]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150)
    assert done.returncode == 4 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "15 of 15 files are missing there" in line and "is complete, and the same command goes on" in line
    assert (run / "sets" / "README.md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--push-to-hub", "nobody"), "is not of the form user/name"),
        (("--push-to-hub", "a/b/c"), "is not of the form user/name"),
    ],
)
def test_a_repository_that_cannot_be_one_is_refused(run: Path, arguments: tuple[str, ...], message: str) -> None:
    result = curate("publish", run / "sets", *arguments)
    assert result.exit_code == 2 and message in error_line(result)


def test_one_arm_or_another_stage_is_no_collection_of_sets(run: Path) -> None:
    for folder in ("sets/enriched", "qa"):
        result = curate("publish", run / folder)
        assert result.exit_code == 2 and "name the folder that holds the arms" in error_line(result)


def test_a_part_that_is_missing_is_not_pushed_over(run: Path, tmp_path: Path, hub: WritableHub) -> None:
    import shutil

    shutil.copytree(run / "sets", tmp_path / "sets")
    next((tmp_path / "sets" / "control" / "parts").iterdir()).unlink()
    result = curate("publish", tmp_path / "sets", "--push-to-hub", REPOSITORY)
    assert result.exit_code == 2 and "holds" in error_line(result) and not hub.files
