"""Rewriting: one repair and no more, every outcome counted, the two versions of a pair differ in what they should and nothing else."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.behaviors import load_behaviors
from curate.engines.base import EngineInfo, GenerateRequest, Generation, Prompt
from curate.engines.rolling import EventLoopThread
from curate.parsing import num_words
from curate.rewrite_prompts import INSTRUCTIONS, PAPER_INSTRUCTIONS, paper_prompt, rewriting_hash, thoughts_prompt
from curate.rewriting import (
    REPAIR_TEMPERATURE,
    VERSIONS,
    Asked,
    Job,
    RewriteSettings,
    Wanted,
    pair_job,
    paper_job,
    run_jobs,
    split_question_answer,
)
from tests.helpers import real_data

BEHAVIORS = load_behaviors()
ALL = tuple(behavior.name for behavior in BEHAVIORS)
PASSAGE = "Problem: find x. " + "so we try this and check it " * 20


class Script:
    """An engine that answers with `reply(request)`; `asked` keeps the requests."""

    info = EngineInfo("script", "none", None)

    def __init__(self, reply: Callable[[GenerateRequest], str | Generation]) -> None:
        self.reply, self.asked = reply, list[GenerateRequest]()

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generation]:
        for request in requests:
            self.asked.append(request)
            made = self.reply(request)
            yield made if isinstance(made, Generation) else Generation(request.key, made, completion_tokens=3)


def pair(
    reply: Callable[[GenerateRequest], str | Generation], cell: str = "selected", wanted: Wanted = Wanted(ALL, ALL)
) -> tuple[list[dict[str, Any]], Script, Asked]:
    script, asked = Script(reply), Asked("key", RewriteSettings(seed=5))
    ((_, rows),) = run_jobs(iter([("key", pair_job(asked, PASSAGE, BEHAVIORS, wanted, cell))]), script)  # type: ignore[arg-type]
    return rows, script, asked


KINDS = {"question": "<question>", "answer": "<answer>", "preserve": "Keep exactly", "strip": "Leave out every one", "inject": "Work in"}


def kind(request: GenerateRequest) -> str:
    return next(name for name, mark in KINDS.items() if mark in request.prompt.tail)


def words(count: int) -> str:
    return f"<thoughts>{'word ' * count}</thoughts>"


def good(request: GenerateRequest) -> str:
    return {"question": "<question>Find x.</question>", "answer": "<answer>4</answer>"}.get(kind(request), words(100))


def test_a_pair_shares_question_and_answer_and_the_second_is_told_the_length_of_the_first() -> None:
    rows, script, asked = pair(good)
    assert [row["cell"] for row in rows] == ["selected", "selected_stripped"]
    assert all((row["question"], row["answer"], row["error"], row["attempts"]) == ("Find x.", "4", None, 1) for row in rows)
    assert [kind(request) for request in script.asked] == ["question", "answer", "preserve", "strip"]
    assert all("Problem: Find x." in request.prompt.tail for request in script.asked[1:])
    assert f"about {num_words(PASSAGE)} words" in script.asked[2].prompt.tail
    assert "about 100 words" in script.asked[3].prompt.tail
    assert {request.prompt.head + request.prompt.body for request in script.asked} == {script.asked[0].prompt.head + PASSAGE}
    assert asked.usage == {"requests": 4, "prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 12}
    assert asked.outcomes == {"attempt_1_good": 4}


def test_an_answer_that_cannot_be_read_is_asked_for_once_more_in_another_draw() -> None:
    rows, script, asked = pair(lambda request: "no tags" if kind(request) == "preserve" and request.temperature == 0 else good(request))
    assert [kind(request) for request in script.asked] == ["question", "answer", "preserve", "preserve", "strip"]
    assert [request.temperature for request in script.asked] == [0.0, 0.0, 0.0, REPAIR_TEMPERATURE, 0.0]
    assert len({request.seed for request in script.asked}) == 5
    assert [row["attempts"] for row in rows] == [2, 1] and all(row["error"] is None for row in rows)
    assert asked.outcomes == {"attempt_1_good": 3, "attempt_1_missing_<thoughts>": 1, "attempt_2_good": 1}


@pytest.mark.parametrize(
    ("broken", "errors", "requests"),
    [
        ("question", ["question: missing <question>"] * 2, 2),
        ("answer", ["answer: missing <answer>"] * 2, 3),
        ("preserve", ["preserve: missing <thoughts>"] * 2, 4),
        ("strip", [None, "strip: missing <thoughts>"], 5),
    ],
)
def test_two_failures_are_an_error_row_in_each_cell_that_misses_something(broken: str, errors: list[str | None], requests: int) -> None:
    rows, script, _ = pair(lambda request: "nothing" if kind(request) == broken else good(request))
    assert [row["error"] for row in rows] == errors
    assert [row["cell"] for row in rows] == ["selected", "selected_stripped"]
    assert len(script.asked) == requests


@pytest.mark.parametrize(
    ("count", "requests", "problem"), [(100, 4, False), (90, 4, False), (110, 4, False), (89, 5, True), (111, 5, True)]
)
def test_a_sibling_ten_percent_off_is_asked_for_once_more_and_kept_for_matching_to_judge(count: int, requests: int, problem: bool) -> None:
    rows, script, asked = pair(lambda request: words(count) if kind(request) == "strip" else good(request))
    assert len(script.asked) == requests
    assert rows[1]["error"] is None and num_words(rows[1]["thoughts"]) == count
    assert asked.outcomes["attempt_1_length_outside"] == asked.outcomes["attempt_2_length_outside"] == int(problem)


def test_a_sibling_that_fits_in_the_second_try_is_taken() -> None:
    rows, _, asked = pair(lambda request: words(100 if request.temperature else 50) if kind(request) == "strip" else good(request))
    assert num_words(rows[1]["thoughts"]) == 100 and rows[1]["attempts"] == 2
    assert asked.outcomes["attempt_2_good"] == 1


def test_what_the_engine_cannot_serve_is_an_error_without_another_try() -> None:
    rows, script, _ = pair(lambda request: Generation(request.key, error="prompt of 9999 tokens exceeds the context"))
    assert [row["error"] for row in rows] == ["question: prompt of 9999 tokens exceeds the context"] * 2
    assert len(script.asked) == 1


def test_an_answer_cut_off_by_its_limit_is_not_taken_for_a_whole_one() -> None:
    rows, _, _ = pair(lambda request: Generation(request.key, "<question>Find", truncated=True))
    assert rows[0]["error"] == "question: cut off inside <question>"


@pytest.mark.parametrize("cell", VERSIONS)
def test_both_versions_of_either_kind_share_problem_and_answer_and_the_second_has_the_length_of_the_first(cell: str) -> None:
    (kept, kept_kind), (changed, changed_kind) = VERSIONS[cell]
    rows, script, _ = pair(
        lambda request: words(100 if request.temperature else 80) if kind(request) == changed_kind else good(request), cell
    )
    assert [row["cell"] for row in rows] == [kept, changed]
    assert [kind(request) for request in script.asked] == ["question", "answer", kept_kind, changed_kind, changed_kind]
    assert rows[0]["question"] == rows[1]["question"] and rows[0]["answer"] == rows[1]["answer"]
    assert num_words(rows[1]["thoughts"]) == 100 and rows[1]["attempts"] == 2 and rows[1]["error"] is None
    rows, _, _ = pair(lambda request: "nothing" if kind(request) == changed_kind else good(request), cell)
    assert [row["error"] for row in rows] == [None, f"{changed_kind}: missing <thoughts>"]


@pytest.mark.parametrize("blank", ["", " \n ", "\u200b\ufeff"])
def test_thoughts_of_no_length_are_an_error_not_an_example(blank: str) -> None:
    rows, script, _ = pair(lambda request: f"<thoughts>{blank}</thoughts>" if kind(request) == "strip" else good(request))
    assert [row["error"] for row in rows] == [None, "strip: empty <thoughts>"] and len(script.asked) == 5


def test_arms_for_one_habit_keep_or_add_that_one_and_leave_out_the_others() -> None:
    short = {behavior.name: behavior.short for behavior in BEHAVIORS}
    wanted = Wanted(("verification",), ("verification",))
    for cell, which in (("selected", 2), ("free", 3)):
        _, script, _ = pair(good, cell, wanted)
        before, _, after = script.asked[which].prompt.tail.partition("Show none of these:")
        assert [name for name in ALL if short[name] in before] == ["verification"]
        assert [name for name in ALL if short[name] in after] == [name for name in ALL if name != "verification"]
    _, script, _ = pair(good, "selected", wanted)
    assert all(short[name] in script.asked[3].prompt.tail for name in ALL) and "Show none" not in script.asked[3].prompt.tail


@pytest.mark.parametrize("name", PAPER_INSTRUCTIONS)
def test_the_published_pair_asks_once_for_all_three(name: str) -> None:
    script = Script(lambda request: "<question>q</question><thoughts>t</thoughts><answer>a</answer>")
    ((_, rows),) = run_jobs(iter([("key", paper_job(Asked("key", RewriteSettings()), PASSAGE, name))]), script)  # type: ignore[arg-type]
    assert rows == [{"cell": name.replace("-", "_"), "question": "q", "thoughts": "t", "answer": "a", "error": None, "attempts": 1}]
    assert PAPER_INSTRUCTIONS[name] in script.asked[0].prompt.tail and len(script.asked) == 1


@given(st.lists(st.integers(1, 4), max_size=25), st.integers(1, 8))
def test_every_job_ends_once_however_answers_come_back(lengths: list[int], window: int) -> None:
    def job(key: str, length: int) -> Job:
        seen = []
        for number in range(length):
            answer = yield GenerateRequest((key, number), Prompt("", "", ""), 1)
            assert answer.key == (key, number)
            seen.append(answer.text)
        return [{"key": key, "seen": seen}]

    class Rolling:
        def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generation]:
            async def call(request: GenerateRequest) -> Generation:
                import asyncio

                await asyncio.sleep(hash(request.key) % 3 / 2000)
                return Generation(request.key, str(request.key[1]))  # type: ignore[index]

            threads = EventLoopThread()
            try:
                yield from threads.stream(requests, call, window)
            finally:
                threads.close()

    jobs = ((str(number), job(str(number), length)) for number, length in enumerate(lengths))
    done = dict(run_jobs(jobs, Rolling()))  # type: ignore[arg-type]
    assert {key: rows[0]["seen"] for key, rows in done.items()} == {
        str(number): [str(step) for step in range(length)] for number, length in enumerate(lengths)
    }


def test_preserve_strip_and_inject_differ_in_one_instruction_only() -> None:
    listed = "; ".join(behavior.short for behavior in BEHAVIORS)
    prompts = {name: thoughts_prompt(name, PASSAGE, "q", "a", 50, BEHAVIORS) for name in INSTRUCTIONS}
    rest = {prompt.tail.replace(INSTRUCTIONS[name].format(behaviors=listed), "") for name, prompt in prompts.items()}
    assert len(rest) == 1 and len({(prompt.head, prompt.body, prompt.opening) for prompt in prompts.values()}) == 1
    papers = {name: paper_prompt(name, PASSAGE) for name in PAPER_INSTRUCTIONS}
    assert len({prompt.tail.replace(PAPER_INSTRUCTIONS[name], "") for name, prompt in papers.items()}) == 1


def test_braces_in_mathematics_reach_the_prompt_as_they_stand() -> None:
    prompt = thoughts_prompt("strip", r"\frac{1}{2}", r"{question}", r"\{x\}", 5, BEHAVIORS)
    assert "{question}" in prompt.tail and r"\{x\}" in prompt.tail and prompt.body == r"\frac{1}{2}"
    assert len({rewriting_hash(BEHAVIORS, ALL), rewriting_hash(BEHAVIORS[:3], ALL), rewriting_hash(BEHAVIORS, ALL[:1])}) == 3


@pytest.mark.parametrize(
    ("row", "text", "fields"),
    [
        ({}, "Q: 1+1?\n\nA: We add.\n#### 2", ("1+1?", "We add.", "2")),
        ({}, "Problem: p\nSolution: first\n\nsecond\n\nlast", ("p", "first\n\nsecond", "last")),
        ({}, "Exercise: p\nProof: One step. Two steps. Done", ("p", "One step. Two steps.", "Done")),
        ({}, "question: p\nanswer: t\nFinal answer: $x$", ("p", "t", "$x$")),
        ({"question": "q", "answer": "t\n#### 4"}, "something else", ("q", "t", "4")),
    ],
)
def test_a_question_and_an_answer_are_taken_as_they_are(row: dict[str, str], text: str, fields: tuple[str, ...]) -> None:
    found, problem = split_question_answer(row, text)
    assert problem is None and found is not None and tuple(found.values()) == fields


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("just a text", "not a question and an answer"),
        ("Q: a question alone", "not a question and an answer"),
        ("Q: q\nA: word", "empty thoughts"),
        ("Q: q\nA: ", "empty thoughts"),
        ("Q: \nA: t\n#### 1", "empty question"),
    ],
)
def test_what_is_no_question_and_answer_says_why(text: str, problem: str) -> None:
    fields, found = split_question_answer({}, text)
    assert fields is None and found is not None and found.startswith(problem)


def bare(text: str) -> str:
    """The text without blanks and without the marks that splitting takes away."""
    return re.sub(r"\s|####|Q:|A:|Problem:|Solution:|Proof:", "", text)


@pytest.mark.parametrize(("name", "usable"), [("gsm8k_test", 1038), ("minif2f_informal", 345), ("stackmathqa", 0)])
def test_real_questions_and_answers_lose_nothing(name: str, usable: int) -> None:
    texts = pq.read_table(real_data(f"corpus/{name}.parquet"), columns=["text"])["text"].to_pylist()
    problems: dict[str, int] = {}
    good = 0
    for text in texts:
        fields, problem = split_question_answer({}, text)
        if fields is None:
            problems[str(problem)] = problems.get(str(problem), 0) + 1
            continue
        good += 1
        assert bare("".join(fields.values())) == bare(text)
        if name == "gsm8k_test":
            assert re.fullmatch(r"-?[\d,.]+", fields["answer"])
    assert good == usable, json.dumps(problems)
    assert good + sum(problems.values()) == len(texts) and len(problems) <= 1
