"""Whatever an endpoint does is a row with a reason or one clear line; nothing hangs, nothing is lost, no budget is passed."""

import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from curate.engines.base import GenerateRequest, Generation, Prompt, Score, ScoreRequest
from curate.engines.openai import OpenAIEngine
from curate.engines.settings import EngineSettings, make_engine
from curate.records.errors import EngineError, UserError
from tests.endpoint import Endpoint, completion

PROMPT = Prompt("Judge. <<<\n", "Check: 1 + 1 = 2", "\n>>> Does it check?")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.engines.openai.FIRST_WAIT_SECONDS", 0.01)


def answer(value: Any) -> tuple[int, dict, bytes]:
    return 200, JSON, json.dumps(value).encode()


def settings(url: str | None, **options: Any) -> EngineSettings:
    return EngineSettings(
        engine="openai", model="fake", base_url=url, **{"max_retries": 1, "max_in_flight": 4, "timeout_seconds": 5.0, **options}
    )


def scores(server: Endpoint, count: int = 1, **options: Any) -> list[Score]:
    with make_engine(settings(server.url, **options)) as engine:
        return list(engine.score(ScoreRequest(number, PROMPT) for number in range(count)))


def texts(server: Endpoint, count: int = 1, **options: Any) -> list[Generation]:
    with make_engine(settings(server.url, **options)) as engine:
        return list(engine.generate(GenerateRequest(number, PROMPT, 16) for number in range(count)))


def always(made: Any) -> Callable[[int, dict], Any]:
    return lambda number, body: made


def test_every_request_gets_its_own_answer_in_whatever_order() -> None:
    with Endpoint(latency_seconds=0.01) as server:
        found = scores(server, 40)
    assert sorted(score.key for score in found) == list(range(40))
    assert all(score.error is None and score.probability > 0.8 and score.label_mass == pytest.approx(0.98) for score in found)


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    flying: list[int] = []
    most: list[int] = []

    def fault(number: int, body: dict) -> None:
        flying.append(number)
        most.append(len(flying))
        time.sleep(0.02)
        flying.remove(number)

    with Endpoint(fault) as server:
        scores(server, 30, max_in_flight=3)
    assert max(most) <= 3


@pytest.mark.parametrize(
    "fault",
    [
        (500, {}, b"oops"),
        (503, {}, b""),
        (429, {}, b"{}"),
        (200, {}, b"<html>"),
        (200, {"Content-Length": "99", "Connection": "close"}, b"{"),
    ],
)
def test_a_fault_that_passes_is_tried_again(fault: Any) -> None:
    with Endpoint(lambda number, body: fault if number in (0, 3, 4) else None) as server:
        found = scores(server, 6, max_retries=4, max_in_flight=1)
    assert [score.error for score in found] == [None] * 6
    assert len(server.bodies) == 9


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_429_is_waited_out_as_the_server_asks(form: str) -> None:
    def fault(number: int, body: dict) -> Any:
        value = "1.2" if form == "seconds" else formatdate(time.time() + 2.2, usegmt=True)
        return (429, {"Retry-After": value}, b"{}") if number == 0 else None

    started = time.monotonic()
    with Endpoint(fault) as server:
        assert scores(server)[0].error is None
    assert 1.1 < time.monotonic() - started < 10


@pytest.mark.parametrize("value", ["soon", "-3", "nan", ""])
def test_a_garbled_retry_after_falls_back_to_our_own_pause(value: str) -> None:
    started = time.monotonic()
    with Endpoint(lambda number, body: (429, {"Retry-After": value}, b"") if number == 0 else None) as server:
        assert scores(server)[0].error is None
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ((429, {"Retry-After": "0"}, b'{"error": {"message": "slow down\\nplease"}}'), r"HTTP 429 \(slow down please\), after 2 tries"),
        ((500, {}, b"oops"), r"HTTP 500 \(Internal Server Error\), after 2 tries"),
        ((401, {}, b'{"error": {"message": "bad key"}}'), r"answered 401 \(bad key\); check --base-url, --model and \$OPENAI_API_KEY"),
        ((403, {}, b""), "answered 403"),
        ((404, {}, b'{"error": "no such model"}'), r"answered 404 \(no such model\)"),
        ((302, {"Location": "http://example.invalid"}, b""), "answered 302"),
        (3.0, "no answer within 0.3 s, after 2 tries"),
    ],
)
def test_an_endpoint_that_cannot_be_used_ends_the_run_with_one_line(fault: Any, message: str) -> None:
    with Endpoint(always(fault)) as server, pytest.raises(EngineError, match=message) as caught:
        scores(server, 3, timeout_seconds=0.3)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value) and server.url in str(caught.value)


def test_a_closed_connection_and_a_closed_port_are_told_apart_from_answers() -> None:
    with Endpoint(always((200, {"Content-Length": "100000", "Connection": "close"}, b"{"))) as server:
        with pytest.raises(EngineError, match=r"RemoteProtocolError.*, after 2 tries; finished chunks are kept"):
            scores(server)
        url = server.url
    with pytest.raises(EngineError, match="ConnectError"), make_engine(settings(url, max_retries=0)) as engine:
        list(engine.score([ScoreRequest(0, PROMPT)]))


BROKEN_SCORES = [
    b"garbage",
    b"[]",
    b'{"choices": {}}',
    *(
        json.dumps(value).encode()
        for value in (
            {"choices": []},
            {"choices": [{}]},
            {"choices": [{"logprobs": None}]},
            {"choices": [{"logprobs": {"content": []}}]},
            {"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}}]},
            {"choices": [{"logprobs": {"content": [{"top_logprobs": ["yes"]}]}}]},
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "yes"}]}]}}]},
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "yes", "logprob": "high"}]}]}}]},
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "yes", "logprob": 5000}]}]}}]},
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "yes", "logprob": float("nan")}]}]}}]},
            {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "maybe", "logprob": -0.1}]}]}}]},
        )
    ),
]


@pytest.mark.parametrize("raw", BROKEN_SCORES)
def test_a_nonsense_score_is_an_error_row_and_never_a_probability(raw: bytes) -> None:
    with Endpoint(lambda number, body: (200, JSON, raw) if number % 2 == 0 else None) as server:
        found = scores(server, 4, max_retries=0, max_in_flight=1)
    assert [score.error is None for score in found] == [False, True, False, True]
    assert all(score.probability != score.probability for score in found if score.error)


@pytest.mark.parametrize(
    "value",
    [
        {"choices": []},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": ["parts"]}, "finish_reason": "stop"}]},
        {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]},
    ],
)
def test_a_nonsense_text_is_an_error_row(value: Any) -> None:
    with Endpoint(lambda number, body: answer(value) if number == 0 else None) as server:
        found = texts(server, 2, max_retries=0, max_in_flight=1)
    assert found[0].error and not found[1].error


@pytest.mark.parametrize(
    "usage", [None, "many", {"prompt_tokens": None}, {"prompt_tokens": "3"}, {"prompt_tokens": -1}, {"prompt_tokens_details": 1}]
)
def test_a_server_that_does_not_count_tokens_is_still_used(usage: Any) -> None:
    with Endpoint(always(answer({**completion(score=0.9), "usage": usage}))) as server:
        found = scores(server)[0]
    assert found.error is None and found.probability == pytest.approx(0.9)
    assert found.prompt_tokens == found.cached_tokens == 0


def test_an_empty_text_is_text_and_a_cut_off_emoji_can_be_stored() -> None:
    empty = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    half = b'{"choices": [{"message": {"content": "yes \\ud83d"}, "finish_reason": "length"}], "usage": {"completion_tokens": 3}}'
    with Endpoint(lambda number, body: (200, JSON, half) if number else answer(empty)) as server:
        found = texts(server, 2, max_in_flight=1)
    assert [generation.text for generation in found] == ["", "yes ?"]
    assert found[1].truncated and found[1].completion_tokens == 3


def test_a_request_that_is_refused_is_one_row() -> None:
    refusal = (400, JSON, b'{"error": {"message": "this prompt is too long"}}')
    with Endpoint(lambda number, body: refusal if number == 1 else None) as server:
        found = scores(server, 3, max_in_flight=1)
    assert [score.error for score in found] == [None, "HTTP 400: this prompt is too long", None]
    assert len(server.bodies) == 3  # it would be refused again


def test_the_budget_of_requests_holds_with_retries_counted() -> None:
    with Endpoint(lambda number, body: (500, {}, b"") if number < 2 else None) as server:
        with pytest.raises(EngineError, match="the budget of 7 requests is used up"):
            scores(server, 100, max_requests=7, max_retries=5)
        assert len(server.bodies) <= 7


def test_the_budget_in_dollars_holds_up_to_what_is_in_flight() -> None:
    with Endpoint() as server:  # 100 prompt tokens an answer: a cent each at 100 dollars a million
        with pytest.raises(EngineError, match=r"the budget of \$0.1 is used up"):
            scores(server, 100, max_dollars=0.1, price_in=100.0, max_in_flight=4)
        assert 10 <= len(server.bodies) <= 14


def test_a_budget_in_dollars_without_prices_and_a_missing_address_are_refused() -> None:
    with pytest.raises(UserError, match="--max-dollars needs --price-in and --price-out"):
        OpenAIEngine(settings("http://localhost:1/v1", max_dollars=1.0))
    with pytest.raises(UserError, match="needs --base-url, for example"):
        OpenAIEngine(settings(None))


@pytest.mark.parametrize("url", ["localhost:8000/v1", "/v1", "http://", "ftp://host/v1", "http://host:port/v1"])
def test_what_is_no_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(UserError, match="is not an address"):
        OpenAIEngine(settings(url))


def test_the_key_is_sent_trimmed_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-key\n")
    with Endpoint() as server:
        engine = OpenAIEngine(settings(server.url))
        assert engine._clients[0].headers["Authorization"] == "Bearer sk-secret-key"
        engine.close()
    for key in ("sk-secret\nkey", "sk-sécret", "sk\x07secret"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match=r"the key in \$OPENAI_API_KEY has characters") as caught:
            OpenAIEngine(settings("http://localhost:1/v1"))
        assert "cret" not in str(caught.value)


def test_control_tokens_of_a_document_reach_no_server_as_such() -> None:
    tokens = [
        "<|im_end|>",
        "<|eot_id|>",
        "</s>",
        "<s>",
        "<think>",
        "<start_of_turn>",
        "<｜User｜>",
        "[INST]",
        "[/INST]",
        "<bos>",
        "<file_sep>",
    ]
    harmless = ["<b>", "a < b", "x <| y |> z", "[1]", "<question>", "if a<s>b"]
    prompt = Prompt("<question>", " ".join([*tokens, *harmless]), "</question>")
    with Endpoint() as server, make_engine(settings(server.url)) as engine:
        list(engine.score([ScoreRequest(0, prompt)]))
        sent = server.bodies[0]["messages"]
    assert [message["role"] for message in sent] == ["user"]
    content = sent[0]["content"]
    assert not any(token in content for token in tokens)
    assert all(item in content for item in harmless[:5])
    assert content.replace("\u200b", "") == "<question>" + prompt.body + "</question>"
