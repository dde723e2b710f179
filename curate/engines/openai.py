"""Any OpenAI-compatible endpoint: time-outs, back-off, `Retry-After`, a limit of requests in flight, a budget.

What an endpoint does decides how a failure is booked: a request that it refuses or answers with nonsense becomes a row with `error`;
an endpoint that cannot be reached, refuses the key, or stays overloaded ends the run with EngineError, because every further row
would fail alike. Finished chunks are kept either way.
"""

import asyncio
import json
import math
import os
import random
import re
import time
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from curate.engines.base import EngineInfo, GenerateRequest, Generation, Prompt, Score, ScoreRequest, label_score
from curate.engines.rolling import EventLoopThread
from curate.engines.settings import EngineSettings
from curate.records.errors import BudgetSpent, EngineError, UserError

TOP_LOGPROBS = 20
CHARS_PER_TOKEN = 4
REQUESTS_PER_CLIENT = 8  # a connection pool looks at all its connections for each request: 256 in one pool take 15 ms each
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
CERTAIN = 1e-3  # log-probabilities are at most 0, give or take rounding
# Servers parse control tokens inside a message; a zero-width space keeps those of a document from being taken for ours.
CONTROL_TOKEN = re.compile(
    r"<(?=\|[^|<>\s]{1,40}\|>|｜[^｜<>\s]{1,40}｜>)"  # <|im_end|>, and with the wide bars of DeepSeek
    r"|<(?=/?s>|/?think>|/?tool_call>|[be]os>|pad>|unk>|(?:start|end)_of_turn>)"
    r"|<(?=repo_?name>|file_sep>|filename>|gh_stars>|issue_(?:start|comment|closed)>|jupyter_\w{1,10}>|empty_output>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)


class Refused(Exception):
    """The endpoint answered, but not usefully: this one request is an error row."""


class OpenAIEngine:
    """Asks `settings.base_url` through /chat/completions. Scoring reads the top log-probabilities of the first answered token.

    The opening of the assistant's turn is not sent (few endpoints continue it): the prompts ask for the same form in words.
    """

    def __init__(self, settings: EngineSettings) -> None:
        if not settings.base_url:
            raise UserError("--engine openai needs --base-url, for example http://localhost:8000/v1 or https://api.openai.com/v1")
        url = _checked_url(settings.base_url)
        if httpx.URL(url).userinfo:
            raise UserError(f"--base-url must hold no name or password (manifests show it); put the key into ${settings.api_key_env}")
        if settings.max_dollars is not None and not (settings.price_in or settings.price_out):
            raise UserError("--max-dollars needs --price-in and --price-out (dollars per million tokens)")
        self.info = EngineInfo("openai", settings.model, settings.revision)
        self._settings = settings
        self._requests = 0
        self._dollars = 0.0
        self._jitter = random.Random(settings.seed)
        key = os.environ.get(settings.api_key_env, "").strip()
        if not key.isascii() or not key.isprintable():  # the HTTP library would show it in its error
            raise UserError(f"the key in ${settings.api_key_env} has characters that no key has (a line break, an accent); set it again")
        certificates = httpx.create_ssl_context(trust_env=False)
        self._clients = [
            httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(settings.timeout_seconds, connect=min(10.0, settings.timeout_seconds)),
                verify=certificates,
                trust_env=False,
            )
            for _ in range(math.ceil(settings.max_in_flight / REQUESTS_PER_CLIENT))
        ]
        # One entry for each request that may be in flight: the client that it takes, and puts back.
        self._free = [client for client in self._clients for _ in range(REQUESTS_PER_CLIENT)][: settings.max_in_flight]
        self._threads = EventLoopThread()

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        return True

    def prefix_chars(self, text: str, max_tokens: int) -> int:
        return min(len(text), CHARS_PER_TOKEN * max_tokens)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        return self._threads.stream(requests, self._score_one, self._settings.max_in_flight)

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generation]:
        return self._threads.stream(requests, self._generate_one, self._settings.max_in_flight)

    async def _score_one(self, request: ScoreRequest) -> Score:
        try:
            answer = await self._ask(request.prompt, max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=TOP_LOGPROBS)
            first = _field(answer, "choices", 0, "logprobs", "content", 0, "top_logprobs")
            mass = {"yes": 0.0, "no": 0.0}
            for item in first:
                word = str(item["token"]).strip(" \n*_.\"'").lower()
                logprob = float(item["logprob"])
                if not logprob <= CERTAIN:
                    raise ValueError(f"{logprob} is no log-probability")
                if word in mass:
                    mass[word] += math.exp(logprob)
        except Refused as error:
            return Score(request.key, error=str(error))
        except (TypeError, KeyError, ValueError) as error:
            return Score(request.key, error=f"the endpoint's log-probabilities are malformed: {error!r}")
        return label_score(
            request.key, mass["yes"], mass["no"], self._settings.min_label_mass, _tokens(answer, "prompt_tokens"), _cached_tokens(answer)
        )

    async def _generate_one(self, request: GenerateRequest) -> Generation:
        options: dict[str, Any] = {"temperature": request.temperature}
        if request.frequency_penalty:
            options["frequency_penalty"] = request.frequency_penalty
        if request.stop:
            options["stop"] = list(request.stop)
        if request.temperature > 0:
            options["seed"] = request.seed
        try:
            answer = await self._ask(request.prompt, max_tokens=request.max_tokens, **options)
            text = _field(answer, "choices", 0, "message", "content")
            reason = _field(answer, "choices", 0, "finish_reason")
        except Refused as error:
            return Generation(request.key, error=str(error))
        if text is not None and not isinstance(text, str):
            return Generation(request.key, error="the endpoint's answer has no text in choices.0.message.content")
        return Generation(
            request.key,
            (text or "").encode("utf-8", "replace").decode(),  # an answer cut off inside an emoji ends in half of it
            reason == "length",
            _tokens(answer, "prompt_tokens"),
            _tokens(answer, "completion_tokens"),
            _cached_tokens(answer),
        )

    async def _ask(self, prompt: Prompt, **options: Any) -> dict[str, Any]:
        content = CONTROL_TOKEN.sub("\\g<0>\u200b", prompt.head + prompt.body + prompt.tail)
        body = {"model": self._settings.model, "messages": [{"role": "user", "content": content}], **options}
        problem = ""
        for attempt in range(self._settings.max_retries + 1):
            self._check_budget()
            self._requests += 1
            wait = min(FIRST_WAIT_SECONDS * 2**attempt, LONGEST_WAIT_SECONDS) * (0.5 + self._jitter.random() / 2)
            client = self._free.pop()
            response = None
            try:
                response = await client.post("chat/completions", json=body)
            except httpx.TimeoutException:
                problem = f"no answer within {self._settings.timeout_seconds:g} s"
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            finally:
                self._free.append(client)
            if response is not None:
                if response.status_code == 200:
                    try:
                        return self._book(json.loads(response.content))
                    except (ValueError, AttributeError, TypeError):
                        problem = f"the answer is not the JSON of a completion: {response.text[:80]!r}"
                        if attempt == self._settings.max_retries:
                            raise Refused(problem) from None
                elif response.status_code in (401, 402, 403, 404, 405) or 300 <= response.status_code < 400:
                    raise EngineError(
                        f"{self._settings.base_url} answered {response.status_code} ({_reason(response)}); "
                        f"check --base-url, --model and ${self._settings.api_key_env}"
                    )
                elif response.status_code in (408, 409, 429) or response.status_code >= 500:
                    problem = f"HTTP {response.status_code} ({_reason(response)})"
                    wait = max(wait, _retry_after(response))
                else:
                    raise Refused(f"HTTP {response.status_code}: {_reason(response)}")
            if attempt < self._settings.max_retries:
                await asyncio.sleep(wait)
        tries = self._settings.max_retries + 1
        raise EngineError(f"{self._settings.base_url}: {problem}, after {tries} tries; finished chunks are kept, run again when it answers")

    def _book(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
            raise ValueError("no choices")
        prompt, completion = _tokens(answer, "prompt_tokens"), _tokens(answer, "completion_tokens")
        self._dollars += (prompt * self._settings.price_in + completion * self._settings.price_out) / 1e6
        return answer

    def _check_budget(self) -> None:
        limit = self._settings
        if limit.max_requests is not None and self._requests >= limit.max_requests:
            raise BudgetSpent(
                f"the budget of {limit.max_requests} requests is used up; finished chunks are kept, raise --max-requests to go on"
            )
        if limit.max_dollars is not None and self._dollars >= limit.max_dollars:
            raise BudgetSpent(f"the budget of ${limit.max_dollars:g} is used up; finished chunks are kept, raise --max-dollars to go on")

    def close(self) -> None:
        for client in self._clients:
            self._threads.run(client.aclose())
        self._threads.close()


def _field(value: Any, *path: str | int) -> Any:
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise Refused(f"the endpoint's answer has no {'.'.join(map(str, path))}") from None
    return value


def _checked_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url.rstrip("/") + "/")
    except httpx.InvalidURL as error:
        raise UserError(f"--base-url {url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(f"--base-url {url!r} is not an address such as http://localhost:8000/v1")
    return parsed


def _tokens(answer: dict[str, Any], name: str) -> int:
    """A count from the answer's `usage`; 0 where the server does not say."""
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count > 0 else 0


def _cached_tokens(answer: dict[str, Any]) -> int:
    usage = answer.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return _tokens({"usage": details}, "cached_tokens")


def _reason(response: httpx.Response) -> str:
    try:
        error = json.loads(response.content)["error"]
        message = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        message = response.reason_phrase or response.text
    return " ".join(message.split())[:200]


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, given as a number or as a date; 0 where it does not say."""
    value = response.headers.get("retry-after", "0")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(0.0, seconds), LONGEST_WAIT_SECONDS)
