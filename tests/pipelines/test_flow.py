"""The whole flow through the command line, against a scripted endpoint: rows add up at every arrow, and each stage can be replayed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import pipelines.report
from curate.records.manifest import read_manifest
from tests.curate.test_behaviors import FIFTH
from tests.endpoint import Endpoint
from tests.helpers import conserved, curate, documents, error_line, real_data, rows_of, write_jsonl, write_parquet

STAGES = {
    "labels": "classify",
    "frequencies": "frequencies",
    "topics": "topics",
    "candidates": "select",
    "qa": "rewrite",
    "verified": "verify",
    "sets": "match",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has tests of its own."""
    monkeypatch.setattr(pipelines.report, "report", lambda settings: None)


def run(server: Endpoint, out: Path, *arguments: Any) -> Result:
    return curate(
        "run",
        *("--label-engine", "openai", "--base-url", server.url, "--model", "fake", "--tokenizer", "smollm2-135m"),
        *("--budget-tokens", 3000, "--out", out, *arguments),
    )


def rewriter(*arguments: Any) -> tuple[Any, ...]:
    return ("--rewrite-engine", "openai", *arguments)


@pytest.fixture(scope="module")
def finished(server: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over 36 documents, 24 of which show a behavior."""
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.report, "report", lambda settings: None)
        result = run(server, folder / "run", "--dataset", write_jsonl(folder / "a.jsonl", documents(36)), *rewriter())
    assert result.exit_code == 0, result.stderr
    return folder / "run"


def test_rows_add_up_at_every_arrow(finished: Path) -> None:
    manifests = {name: read_manifest(finished / name) for name in STAGES}
    assert {name: manifest.stage for name, manifest in manifests.items()} == STAGES
    for name in ("labels", "frequencies", "candidates", "qa", "verified", "sets/enriched", "sets/control"):
        conserved(finished / name)
    manifests["sets"].check()
    assert manifests["labels"].rows_out == 36
    assert manifests["candidates"].rows_in == 36 and manifests["candidates"].notes["cells"] == {"selected": 24, "free": 12}
    assert all(row["topic"] for row in rows_of(finished / "candidates"))
    assert "curate topics" in (finished / "sets" / "README.md").read_text()
    qa = manifests["qa"]
    assert (qa.rows_in, qa.rows_made, qa.rows_out, qa.dropped) == (36, 24, 48, {"not wanted by these arms": 12})
    assert manifests["verified"].rows_out == manifests["sets"].rows_in == 48
    assert manifests["sets"].rows_out == 2 * len(rows_of(finished / "sets" / "enriched")) > 0


def test_manifests_say_what_was_read_with_what_and_by_whom(finished: Path) -> None:
    labels, qa = read_manifest(finished / "labels"), read_manifest(finished / "qa")
    for manifest in (labels, qa):
        assert (manifest.engine, manifest.model, manifest.seed) == ("openai", "fake", 0)
        assert manifest.prompt_hash and manifest.tokens["prompt_tokens"] > 0 and manifest.notes["requests"] > 0
        assert manifest.settings["model"] == "fake" and manifest.versions["datatrove"]
        assert all(len(file.sha256) == 64 and file.rows for file in manifest.inputs)
    assert qa.notes["outcomes"]["attempt_1_good"] > 0
    assert read_manifest(finished / "verified").notes["warnings"][0].startswith("the judge fake is of the same family as the rewriter fake")
    assert "the judge fake is of the same family" in (finished / "sets" / "README.md").read_text()


def test_identity_is_carried_from_the_corpus_to_the_sets(finished: Path) -> None:
    sources = {(row["file_sha256"], row["source_row"]): row["id"] for row in rows_of(finished / "labels")}
    assert len(sources) == 36
    for folder in ("candidates", "qa", "verified", "sets/enriched", "sets/control"):
        for row in rows_of(finished / folder):
            assert sources[row["file_sha256"], row["source_row"]] == row["id"]
    enriched, control = (rows_of(finished / "sets" / arm) for arm in ("enriched", "control"))
    for one, other in zip(enriched, control, strict=True):
        assert one["pair_id"] == other["pair_id"] and one["question"] == other["question"] and one["answer"] == other["answer"]


def test_evidence_points_into_its_document(finished: Path) -> None:
    texts = {row["id"]: row["text"] for row in documents(36)}
    for row in rows_of(finished / "labels"):
        assert len(row["evidence"]) == 4  # one window each: the best one of every behavior
        assert all(0 <= item["start"] < item["end"] <= len(texts[row["id"]]) for item in row["evidence"])


def test_repeating_a_finished_run_asks_nothing_and_changes_nothing(server: Endpoint, finished: Path) -> None:
    before, asked = {path: path.read_bytes() for path in finished.rglob("*.parquet")}, len(server.bodies)
    result = run(server, finished, "--dataset", finished.parent / "a.jsonl", *rewriter())
    assert result.exit_code == 0, result.stderr
    assert len(server.bodies) == asked
    assert {path: path.read_bytes() for path in finished.rglob("*.parquet")} == before


def test_another_number_of_tasks_and_other_chunks_give_the_same_labels(server: Endpoint, finished: Path, tmp_path: Path) -> None:
    options = (
        "--engine",
        "openai",
        "--base-url",
        server.url,
        "--model",
        "fake",
        "--out",
        tmp_path / "out",
        "--tasks",
        2,
        "--chunk-rows",
        7,
    )
    assert curate("classify", "--dataset", finished.parent / "a.jsonl", *options).exit_code == 0
    one, other = (sorted(rows_of(folder), key=lambda row: row["source_row"]) for folder in (finished / "labels", tmp_path / "out"))
    assert one == other


def test_a_stage_is_replayed_from_its_manifest(server: Endpoint, finished: Path, tmp_path: Path) -> None:
    for name, command in (("labels", "classify"), ("candidates", "select"), ("qa", "rewrite"), ("sets", "match")):
        result = curate(command, "--from-manifest", finished / name, "--out", tmp_path / name)
        assert result.exit_code == 0, result.stderr
        for folder in [name] if name != "sets" else ["sets/enriched", "sets/control"]:
            assert rows_of(tmp_path / folder) == rows_of(finished / folder)
    result = curate("select", "--from-manifest", finished / "labels", "--out", tmp_path / "x")
    assert result.exit_code == 2 and "was written by `classify`, not by `select`" in error_line(result)


def test_status_proves_the_run_from_its_files(finished: Path) -> None:
    text = curate("status", finished).stdout
    assert "classify: 1/1 chunks, 36/36 rows in, 36 out, 0 dropped, 0 with an error; done" in text
    assert "rewrite: 1/1 chunks, 36/36 rows in, 48 out, 12 dropped" in text and "LOST" not in text
    assert text.count("; done") == 9


def test_a_corpus_that_changed_after_it_was_labelled_is_refused(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(6))
    assert run(server, tmp_path / "run", "--dataset", corpus, *rewriter()).exit_code == 0
    options = ("--engine", "openai", "--base-url", server.url, "--model", "fake", "--out", tmp_path / "other")
    write_jsonl(corpus, documents(6, 1))
    result = curate("rewrite", "--candidates", tmp_path / "run" / "candidates", *options)
    assert result.exit_code == 2 and "a.jsonl has changed since it was labelled" in error_line(result)
    corpus.unlink()
    result = curate("rewrite", "--candidates", tmp_path / "run" / "candidates", *options)
    assert result.exit_code == 2 and "which was labelled, is gone; put it back" in error_line(result)


def test_the_order_of_files_changes_no_set(server: Endpoint, tmp_path: Path) -> None:
    """The rows of three files under other names, so that they are listed in another order."""
    outputs = []
    for names in (("a", "b", "c"), ("c", "a", "b")):
        folder = tmp_path / "".join(names)
        for number, name in enumerate(names):
            write_jsonl(folder / "corpus" / f"{name}.jsonl", documents(6, 6 * number))
        result = run(server, folder / "run", "--dataset", folder / "corpus", *rewriter("--seed", 7))
        assert result.exit_code == 0, result.stderr
        outputs.append(
            [[(row["id"], row["completion"]) for row in rows_of(folder / "run" / "sets" / arm)] for arm in ("enriched", "control")]
        )
    assert outputs[0] == outputs[1] and len(outputs[0][0]) > 3


def test_a_fifth_behavior_goes_through_every_stage_without_touching_code(server: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        FIFTH.replace("Does the text solve a simpler case first {and carry it over}?", "Does the text give up?")
    )
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(12))
    options = ("--behaviors", tmp_path / "mine.toml", "--habits", "analogy")
    result = run(server, tmp_path / "run", "--dataset", corpus, *options, *rewriter())
    assert result.exit_code == 0, result.stderr
    labels = rows_of(tmp_path / "run" / "labels")
    assert all(row["analogy_score"] == row["backtracking_score"] for row in labels)  # the scripted judge hears "give up" in both
    assert (
        read_manifest(tmp_path / "run" / "candidates").notes["cells"]["selected"] == sum(row["analogy_score"] > 0.5 for row in labels) == 2
    )
    assert any("simpler case" in body["messages"][0]["content"] for body in server.bodies if not body.get("logprobs"))
    fidelity = json.loads((tmp_path / "run" / "verified" / "fidelity.json").read_text())
    assert {row["behavior"] for row in fidelity["rows"]} >= {"analogy", "verification"}
    assert all(
        row["source_analogy_score"] > 0.5 and row["rewrite_analogy_score"] is not None for row in rows_of(tmp_path / "run/sets/enriched")
    )
    shares = {row["behavior"] for row in rows_of(tmp_path / "run" / "frequencies")}
    assert "analogy" in shares and len(shares) == 5

    judge = ("--engine", "openai", "--base-url", server.url, "--model", "fake")
    result = curate("verify", "--qa", tmp_path / "run" / "qa", *judge, "--out", tmp_path / "v")
    assert result.exit_code == 2 and "analogy, not for" in error_line(result) and "use the same --behaviors" in error_line(result)


def test_an_empty_arm_shows_the_distribution_of_scores(server: Endpoint, finished: Path, tmp_path: Path) -> None:
    for option, cell in (("--present", "selected"), ("--absent", "free")):
        value = "0.999" if cell == "selected" else "0.0"
        result = curate("select", "--labels", finished / "labels", option, value, "--out", tmp_path / cell)
        line = error_line(result)
        assert result.exit_code == 2 and f"no document is {cell} (36 labelled; " in line and f"move {option}" in line
        assert "scores at the 50th, 90th, 99th percentile and the highest: verification 0." in line
        assert not (tmp_path / cell).exists()


def test_stages_take_any_setting_from_a_file_and_refuse_unknown_ones(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(12))
    stages = tmp_path / "stages.toml"
    stages.write_text("[classify]\nchunk-rows = 5\n[match]\ntolerance = 0.5\n")
    assert run(server, tmp_path / "run", "--dataset", corpus, "--stages", stages, *rewriter()).exit_code == 0
    assert len(list((tmp_path / "run" / "labels" / "parts").glob("*.parquet"))) == 3
    assert read_manifest(tmp_path / "run" / "sets").settings["tolerance"] == 0.5
    for text, message in (
        ("[clasify]\n", "'clasify' is not a table of a stage (did you mean 'classify'?)"),
        ("[match]\ntolerence = 1\n", "unknown setting 'tolerence' (did you mean 'tolerance'?)"),
        ("tolerance = 1\n", "unknown setting 'tolerance'"),
    ):
        stages.write_text(text)
        result = run(server, tmp_path / "run2", "--dataset", corpus, "--stages", stages, *rewriter())
        assert result.exit_code == 2 and message in error_line(result)
    assert not (tmp_path / "run2").exists()  # told before anything was labelled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--habits", "backtraking"), "no behavior 'backtraking' (did you mean 'backtracking'?)"),
        (("--tokenizer", "/nowhere/at/all"), "cannot load the tokenizer '/nowhere/at/all'"),
        (("--rewrite-engine", "extract"), "cannot make pairs; use it with --arms paper"),
        (("--behaviors", "/nowhere.toml"), "cannot read the behaviors file"),
        (("--budget-tokens", "0"), "budget_tokens = 0 is less than 1"),
        (("--dose", "2"), "--dose 2 is not above 0 and at most 1"),
        (("--dose", "0.5", "--arms", "paper"), "--dose 0.5 needs siblings without behavior, which the arms paper do not have"),
        (("--judge-engine", "student", "--judge-model", "x"), "--judge-model x: the student judges and uses no model"),
        (("--judge-engine", "openai", "--judge-base-url", "https://x.example/v1"), "name the judge's with --judge-api-key-env"),
        (
            ("--judge-engine", "cascade", "--judge-base-url", "http://x"),
            "not for the engine vllm; use --judge-engine openai, or a cascade onto one",
        ),
        (("--judge-engine", "student", "--judge-base-url", "http://x"), "not for the engine student; use --judge-engine openai"),
        (("--push-to-hub", "sets"), "--push-to-hub 'sets' is not of the form user/name"),
    ],
)
def test_what_would_stop_a_later_stage_is_told_before_the_first(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with Endpoint() as unused:
        result = run(unused, tmp_path / "run", "--dataset", "sample", *rewriter(*arguments))
        assert result.exit_code == 2 and message in error_line(result)
        assert unused.bodies == [] and not (tmp_path / "run").exists()


def test_a_bad_file_lets_the_whole_run_finish_and_the_code_says_so(server: Endpoint, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "c" / "good.jsonl", documents(12))
    (tmp_path / "c" / "bad.parquet").write_bytes(b"PAR1 no")
    result = run(server, tmp_path / "run", "--dataset", tmp_path / "c", *rewriter())
    assert result.exit_code == 3 and "bad.parquet" in error_line(result)
    assert conserved(tmp_path / "run" / "sets" / "enriched").rows_out > 0


@pytest.mark.parametrize(("name", "usable"), [("gsm8k_test", 1.0), ("minif2f_informal", 0.9)])
def test_human_questions_and_answers_become_arms_without_a_rewriter(server: Endpoint, tmp_path: Path, name: str, usable: float) -> None:
    corpus = real_data(f"corpus/{name}.parquet")
    options = ("--rewrite-engine", "extract", "--arms", "paper", "--limit", 60, "--present", "top:0.2", "--absent", "bottom:0.9")
    stages = tmp_path / "stages.toml"
    stages.write_text('[select]\nproblem = 0.0\nsolution = 0.0\n[match]\nmatch_on = ["source"]\n')  # twelve documents find few alike
    result = run(server, tmp_path / "run", "--dataset", corpus, "--stages", stages, *options)
    assert result.exit_code == 0, result.stderr
    qa = conserved(tmp_path / "run" / "qa")
    assert qa.engine == "extract" and qa.prompt_hash is None and qa.rows_made == 0
    assert sum(qa.errors.values()) <= (1 - usable) * qa.rows_out
    enriched, control = (rows_of(tmp_path / "run" / "sets" / arm) for arm in ("enriched", "control"))
    assert len(enriched) == len(control) >= 2
    assert {row["cell"] for row in enriched} == {"selected"} and {row["cell"] for row in control} == {"free"}
    assert all(row["license"] and row["url"] for row in enriched)


def test_documents_that_are_no_question_and_answer_are_error_rows_of_extract(server: Endpoint, tmp_path: Path) -> None:
    corpus = real_data("corpus/stackmathqa.parquet")
    stages = tmp_path / "stages.toml"
    stages.write_text("[select]\nproblem = 0.0\nsolution = 0.0\n")
    options = ("--rewrite-engine", "extract", "--arms", "paper", "--limit", 12, "--present", "top:0.3", "--absent", "bottom:0.9")
    result = run(server, tmp_path / "run", "--dataset", corpus, "--stages", stages, *options)
    assert result.exit_code == 2 and "all with an error; its manifest counts the reasons" in error_line(result)
    (reason,) = conserved(tmp_path / "run" / "qa").errors
    assert reason.startswith("not a question and an answer: no columns")


def test_extract_takes_columns_and_cannot_make_pairs(server: Endpoint, tmp_path: Path) -> None:
    rows = documents(12)
    told = [f"{' '.join(f'w{number * 40 + word}' for word in range(30))}.\n#### 4" for number in range(11)]  # nothing alike
    columns = {"text": [row["text"] for row in rows], "question": ["q?"] * 12, "answer": [*told, "\x00 half"]}
    corpus = write_parquet(tmp_path / "a.parquet", columns)
    result = run(server, tmp_path / "run", "--dataset", corpus, "--rewrite-engine", "extract")
    assert result.exit_code == 2 and "cannot make pairs; use it with --arms paper" in error_line(result)
    (tmp_path / "stages.toml").write_text("[match]\nmatch-on = ['source']\n")  # twelve documents are too few for more
    options = ("--rewrite-engine", "extract", "--arms", "paper", "--stages", tmp_path / "stages.toml")
    result = run(server, tmp_path / "run", "--dataset", corpus, *options)
    assert result.exit_code == 0, result.stderr
    assert {row["answer"] for row in rows_of(tmp_path / "run" / "qa") if not row["error"]} == {"4"}


def test_the_judge_of_the_rewrites_need_not_be_the_rewriter(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(12))
    with Endpoint() as other:
        judged_by = ("--judge-engine", "openai", "--judge-model", "judge", "--judge-base-url", other.url)
        result = run(server, tmp_path / "run", "--dataset", corpus, *judged_by, *rewriter())
        assert result.exit_code == 0, result.stderr
        assert other.bodies and {body["model"] for body in other.bodies} == {"judge"}
    verified = read_manifest(tmp_path / "run" / "verified")
    (warning,) = verified.notes["warnings"]
    assert verified.model == "judge" and warning.startswith("the sources were labelled by fake (openai), the rewrites are judged by judge")
    assert "same family" not in (tmp_path / "run" / "sets" / "README.md").read_text()
    table = result.stdout.partition("before anything is dropped, of the sources' behaviors, with 95 % intervals:\n")[2].splitlines()
    assert " ".join(table[0].split()) == "cell behavior rewrites kept lost gained kept % gained % as it should be %"
    assert [line.split()[:2] for line in table[1:3]] == [["selected", "verification"], ["selected", "backtracking"]]
    fidelity = json.loads((tmp_path / "run" / "verified" / "fidelity.json").read_text())["rows"]
    assert [line.split()[2:6] for line in table[1:9]] == [
        [str(row[name]) for name in ("rewrites", "kept", "lost", "gained")] for row in fidelity
    ]

    result = run(server, tmp_path / "student", "--dataset", corpus, "--judge-engine", "student", *rewriter())
    assert result.exit_code == 0, result.stderr
    verified = read_manifest(tmp_path / "student" / "verified")
    assert (verified.model, verified.engine) == ("student", "student") and "compare two instruments" in verified.notes["warnings"][0]


def test_the_published_pair_runs_end_to_end(server: Endpoint, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", documents(24))
    stages = tmp_path / "stages.toml"
    stages.write_text('[match]\nmatch_on = ["source"]\n')  # 24 documents of a few words find no partner within the caliper
    result = run(server, tmp_path / "run", "--dataset", corpus, "--arms", "paper", "--stages", stages, *rewriter())
    assert result.exit_code == 0, result.stderr
    counts = {cell: sum(row["cell"] == cell for row in rows_of(tmp_path / "run" / "qa")) for cell in ("paper_enriched", "paper_control")}
    assert counts == {"paper_enriched": 16, "paper_control": 8}
    assert read_manifest(tmp_path / "run" / "sets").notes["arms"] == "paper"
