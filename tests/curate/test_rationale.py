"""Rationales: every usable answer is read, quotes must stand in the document, and what cannot be read is an error, never a zero."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.rationale import Haystack, Verdict, read_verdict
from tests.endpoint import Endpoint, completion
from tests.helpers import classify, conserved, curate, error_line, real_data, rows_of, write_jsonl

BEHAVIORS = ["verification", "backtracking", "subgoal_setting", "backward_chaining"]
TEXT = "What is 6 * 7?\n\nIt is  42.\nCheck: 42 / 7\t= 6, “as it should be” – so it holds."


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<reasoning>It checks.</reasoning>\n<quote>Check: 42 / 7 = 6</quote>\n<count> 2 </count>.", Verdict(2, ("Check: 42 / 7 = 6",))),
        ("<reasoning>It checks.<quote>one quote here</quote><QUOTE>\nanother quote\n</Quote><count>2", Verdict(2, ("one quote here", "another quote"))),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n## Does verification?\nno\n\n## Number of steps\n<count>0</count>.\n\n## Rationale\nNone.", Verdict(0)),
        ("## Thoughts\nIt says \"plugging x back in\" and “that agrees with it”.\n## Does the text show verification?\n**Yes**\n## Number of instances\n<count> [2] </count>", Verdict(2, ("plugging x back in", "that agrees with it"))),
        ("## Does it?\nyes", Verdict(1)),
        ("## Does it?\n[no]", Verdict(0)),
        ("## Number of instances\n\n3", Verdict(3)),
        ('It says "n = 4...", and "x".\n<count>1</count>', Verdict(1)),
        ('It says "that n = 4 fails...".\n<count>1</count>', Verdict(1, ("that n = 4 fails",))),
    ],
)  # fmt: skip
def test_what_judges_write_is_read(text: str, verdict: Verdict) -> None:
    assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "truncated", "reason"),
    [
        ("", False, "has no count"),
        ("It checks a lot.", False, "has no count"),
        ("It checks a lot and", True, "cut off before its count"),
        ("## Does it?\nno\n<count>2</count>", False, "says no but counts 2"),
        ("## Does it?\nyes\n<count>0</count>", False, "says yes but counts 0"),
    ],
)
def test_what_cannot_be_read_says_why(text: str, truncated: bool, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_verdict(text, truncated)


@given(st.text(st.sampled_from('<>/count quote\n#?yesno0123"“”|[]* '), max_size=80), st.booleans())
def test_reading_raises_nothing_else(text: str, truncated: bool) -> None:
    try:
        verdict = read_verdict(text, truncated)
    except ValueError:
        return
    assert verdict.count >= 0 and all(verdict.quotes)


def test_every_rationale_of_a_real_judge_is_read_as_it_counts() -> None:
    rows = [json.loads(line) for line in real_data("labels/owm_llama70b_labelled.jsonl").read_text().splitlines()]
    raw = [(name, row) for row in rows for name in row if name.endswith("_raw") and "solution" not in name]
    assert len(raw) == 14
    found = {}
    for name, row in raw:
        verdict = read_verdict(row[name])
        assert f"<count>{verdict.count}</count>" in row[name].replace(" ", "")
        for quote in verdict.quotes:
            found[quote] = Haystack(row["text"]).find(quote)
    assert found["Let me try again"] is None  # the judge quotes its own instructions here, not the document
    assert sum(span is not None for span in found.values()) >= 4


@pytest.mark.parametrize("quote", ["Check: 42 / 7 = 6", "check".capitalize() + ":42/7=6,", 'Check:  42 / 7 =\n6, "as it should be" - so'])
def test_a_quote_is_found_whatever_its_blanks_and_marks(quote: str) -> None:
    span = Haystack(TEXT).find(quote)
    assert span is not None
    assert TEXT[span[0] : span[1]].startswith("Check: 42 / 7\t= 6")


@pytest.mark.parametrize("quote", ["Check: 42 / 6 = 7", "check: 42 / 7 = 6", "", " \n"])
def test_other_words_are_not_found(quote: str) -> None:
    assert Haystack(TEXT).find(quote) is None


@given(st.text(max_size=60), st.integers(0, 60), st.integers(1, 30))
def test_every_stretch_of_a_text_is_found_in_it(text: str, start: int, length: int) -> None:
    piece = text[start : start + length]
    span = Haystack(text).find(piece)
    assert (span is None) == (not piece.strip())
    if span:
        assert "".join(text[span[0] : span[1]].split()) == "".join(piece.split()) or any(mark in piece for mark in "“”„‘’–—−")


def judge(answers: dict[str, str]) -> Endpoint:
    """An endpoint that answers each behavior's question (a word of it) with a text, and yes to problem and solution."""

    def fault(number: int, body: dict) -> Any:
        prompt = body["messages"][-1]["content"]
        instruction = prompt.rpartition(">>>")[2] if "<<<" in prompt else prompt.partition("The text:")[0]
        text = next((answer for word, answer in answers.items() if f"{word}." in instruction), "Yes")
        return 200, {"Content-Type": "application/json"}, json.dumps(completion(text)).encode()

    return Endpoint(fault)


ANSWERS = {
    "verification": "<reasoning>It checks.</reasoning><quote>Check: 42 / 7 = 6</quote><count>1</count>",
    "backtracking": "<reasoning>It gives up.</reasoning><quote>That fails, so let us try</quote><count>2</count>",
    "subgoal setting": "<reasoning>No plan.</reasoning><count>0</count>",
    "backward chaining": "## Thoughts\nNone.\n## Does the text show backward chaining?\nno\n## Number of instances\n<count> 0 </count>",
}


def test_counts_quotes_and_what_no_quote_supports(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "text": TEXT}, {"id": "b", "text": TEXT + "\n\n" + "More words. " * 8}])
    with judge(ANSWERS) as server:
        result = classify(server.url, tmp_path / "labels", "--dataset", corpus, "--mode", "rationale", "--window-chars", 90)
        assert result.exit_code == 0, result.stderr
        assert {body["max_tokens"] for body in server.bodies} == {1024, 4}
    manifest = conserved(tmp_path / "labels")
    assert manifest.notes["unsupported"] == {"backtracking": 2}
    assert manifest.tokens["completion_tokens"] > 0
    short, long = rows_of(tmp_path / "labels")
    assert [short[f"{name}_count"] for name in BEHAVIORS] == [1, 2, 0, 0]
    assert [short[f"{name}_score"] for name in BEHAVIORS] == [1.0, 1.0, 0.0, 0.0]
    assert (short["problem_score"], short["solution_score"], short["label_mass"]) == (1.0, 1.0, None)
    assert short["unsupported"] == ["backtracking"]
    assert [(item["behavior"], TEXT[item["start"] : item["end"]]) for item in short["evidence"]] == [("verification", "Check: 42 / 7\t= 6")]
    assert long["num_windows"] > 1 and long["backtracking_count"] == 2 * long["num_windows"]


def test_an_answer_without_a_count_is_an_error_never_a_no(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "text": TEXT}])
    with judge({**ANSWERS, "backtracking": "It wanders off."}) as server:
        classify(server.url, tmp_path / "labels", "--dataset", corpus, "--mode", "rationale")
    (row,) = rows_of(tmp_path / "labels")
    assert row["error"] == "1 of 6 questions failed: the rationale has no count"
    assert row["backtracking_score"] is None and row["backtracking_count"] is None


def test_the_preset_asks_as_published(tmp_path: Path) -> None:
    """Four prompts a document: instruction first, document last, cut at about 3,072 tokens back to the last newline."""
    long = "What is it?\n\n" + "A line of some words here.\n" * 600
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "text": long}])
    with judge(
        {name: ANSWERS["backward chaining"] for name in ("verification", "backtracking", "subgoal setting", "backward chaining")}
    ) as server:
        result = classify(server.url, tmp_path / "labels", "--dataset", corpus, "--preset", "four-habits")
        assert result.exit_code == 0, result.stderr
        prompts = [body["messages"][-1]["content"] for body in server.bodies]
    assert len(prompts) == 4
    for prompt in prompts:
        instruction, _, document = prompt.partition("The text:\n")
        assert len(instruction) > 800 and long.startswith(document)
        assert 12_000 < len(document) < 4 * 3072 and long[len(document)] == "\n"
    (row,) = rows_of(tmp_path / "labels")
    assert row["error"] is None and row["num_windows"] == 1 and row["problem_score"] is None
    assert [row[f"{name}_count"] for name in BEHAVIORS] == [0, 0, 0, 0]


def test_an_unknown_preset_or_mode_is_one_line(tmp_path: Path) -> None:
    for option in ("--preset", "--mode"):
        result = classify("http://127.0.0.1:1/v1", tmp_path / "labels", "--dataset", "sample", option, "four-habit")
        assert result.exit_code == 2
        assert "is not one of" in error_line(result)


def test_a_run_with_the_preset_is_refused_before_anything_is_labelled(tmp_path: Path) -> None:
    """Its labels say nothing of problem and solution, so nothing could be selected."""
    stages = tmp_path / "stages.toml"
    stages.write_text('[classify]\npreset = "four-habits"\n')
    options = ("--label-engine", "openai", "--rewrite-engine", "openai", "--base-url", "http://127.0.0.1:1/v1", "--model", "fake")
    result = curate("run", *options, "--dataset", "sample", "--stages", stages, "--out", tmp_path / "run", "--tokenizer", "smollm2-135m")
    assert result.exit_code == 2 and "say nothing of problem and solution" in error_line(result)
