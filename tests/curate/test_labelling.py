"""One document through one engine: long windows are halved, what cannot fit or was not answered is an error and never a silent 0.5."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document

from curate.classification import Classify, Labelling
from curate.engines.base import EngineInfo, GenerateRequest, Generation, Prompt, Score, ScoreRequest
from curate.engines.settings import EngineSettings
from curate.prompts import PROBLEM
from tests.endpoint import Endpoint, completion
from tests.helpers import classify, conserved, documents, rows_of, write_jsonl

TEXT = "First paragraph, with a check.\n\nSecond paragraph, which says more.\n\nThird one."


class Small:
    """An engine with room for `chars` characters of body; the probability is .9 where the body holds `cue`, and counts are of the cue."""

    info = EngineInfo("small", "small", None)

    def __init__(self, chars: int, cue: str = "check") -> None:
        self.chars, self.cue = chars, cue
        self.asked: list[Prompt] = []

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        return len(prompt.body) <= self.chars

    def prefix_chars(self, text: str, max_tokens: int) -> int:
        return min(len(text), max_tokens)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        for request in reversed(list(requests)):  # engines answer in any order
            self.asked.append(request.prompt)
            yield Score(request.key, 0.9 if self.cue in request.prompt.body else 0.2, 1.0)

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generation]:
        for request in requests:
            self.asked.append(request.prompt)
            count = request.prompt.body.count(self.cue)
            yield Generation(request.key, f'Yes "with a {self.cue}" <count>{count}</count>')

    def close(self) -> None: ...


def label(text: str, engine: Any, **options: Any) -> dict[str, Any]:
    labelling = Labelling(options.pop("window_chars", 40), **options)
    document = Document(text=text, id="d/0", metadata={"row": {}, "error": None})
    (done,) = Classify(EngineSettings(), labelling).label(iter([document]), engine, labelling.method())
    return done.metadata["rows"][0]


@pytest.mark.parametrize("chars", [1000, 12, 1])
def test_a_window_that_is_too_long_for_the_model_is_halved_and_all_of_the_text_is_read(chars: int) -> None:
    engine = Small(chars, cue=TEXT[0])
    row = label(TEXT, engine)
    windows = sorted({(item["start"], item["end"]) for item in row["evidence"]})
    assert row["error"] is None and row["verification_score"] == pytest.approx(0.9)
    assert windows[0][0] == 0 and windows[0][1] <= 40
    read = [prompt.body for prompt in engine.asked if PROBLEM[1] in prompt.tail][::-1]
    assert "".join(read) == TEXT and len(read) == row["num_windows"]


@pytest.mark.parametrize("way", ["score", "rationale", "four-habits"])
def test_a_prompt_that_never_fits_is_an_error(way: str) -> None:
    row = label(TEXT, Small(0), way=way, first_only=way == "four-habits")
    assert row["error"] == "a window cannot be made to fit the model's context (--max-model-tokens)"
    assert "verification_score" not in row and row["num_windows"] == 0


def test_the_published_layout_never_splits_its_document() -> None:
    row = label(TEXT, Small(60), way="four-habits", first_only=True)
    assert row["error"].startswith("a window cannot be made to fit")
    assert label(TEXT, Small(100), way="four-habits", first_only=True)["num_windows"] == 1


def test_counts_are_added_up_over_windows() -> None:
    row = label(TEXT.replace("Third", "A check: third"), Small(1000), way="rationale")
    assert row["num_windows"] == 3 and row["verification_count"] == 2 and row["unsupported"] == []
    assert {(item["start"], item["end"]) for item in row["evidence"]} == {(17, 29)}


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([("The", -0.01), (" A", -6.0)], "label mass 0 is not above 0.05"),
        ([("Yes", -5.0), (" no", -5.0), ("Maybe", -0.02)], "label mass 0.013 is not above 0.05"),
        ([], "label mass 0 is not above 0.05"),
    ],
)
def test_log_probabilities_without_the_labels_are_error_rows(tmp_path: Path, tokens: list[tuple[str, float]], reason: str) -> None:
    def fault(number: int, body: dict) -> Any:
        answer = completion(score=0.5)
        answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = [{"token": word, "logprob": value} for word, value in tokens]
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(3))
    with Endpoint(fault) as server:
        result = classify(server.url, tmp_path / "labels", "--dataset", corpus)
    assert result.exit_code == 0, result.stderr
    for row in rows_of(tmp_path / "labels"):
        assert row["error"] == f"6 of 6 questions failed: {reason}: the model did not answer yes or no"
        assert row["verification_score"] is None and row["problem_score"] is None
    assert sum(conserved(tmp_path / "labels").errors.values()) == 3


def test_a_server_that_refuses_a_long_prompt_makes_an_error_row(tmp_path: Path) -> None:
    def fault(number: int, body: dict) -> Any:
        if "far too long" in body["messages"][-1]["content"]:
            return 400, {}, json.dumps({"error": {"message": "the context is 4096 tokens"}}).encode()
        return None

    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*documents(1), {"id": "long", "text": "far too long"}])
    with Endpoint(fault) as server:
        classify(server.url, tmp_path / "labels", "--dataset", corpus)
    fine, long = rows_of(tmp_path / "labels")
    assert fine["error"] is None and "the context is 4096 tokens" in long["error"] and long["verification_score"] is None
