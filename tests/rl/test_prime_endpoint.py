"""Traces by a model: only what the parser confirms is kept, what it refuses is counted by reason, no answer is paid for twice."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from curate.engines.base import Generation
from curate.records.errors import EngineError, UserError
from curate.records.manifest import read_manifest
from curate.records.settings import to_dict
from rl import prime, prime_endpoint, prime_prompts, prime_solver, tasks, traces
from rl.prime import PrimeSettings
from rl.prime_prompts import ASKED_KINDS
from rl.prime_traces import EVERY, PROFILES, answer_of, write
from rl.scoring import score
from tests.endpoint import Endpoint, completion

BODY = re.compile(r"Plan:\n(?!.*Plan:\n)(.*)\n+Write the <thoughts>", re.DOTALL)
NUM_TRAIN, NUM_HELDOUT = 16, 4


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("curate.engines.openai.FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    tasks.run(tasks.TasksSettings(out=folder, max_number=25, max_target=30, num_train=40, num_test=5, seed=1))
    return folder


def settings(source, out, url, **changes) -> PrimeSettings:
    given = {
        "engine": "openai", "model": "fake", "base_url": url, "tasks": source, "out": out, "kind": "all", "seed": 2,
        "num_train": NUM_TRAIN, "num_heldout": NUM_HELDOUT, "max_in_flight": 4, "max_failures": 2,
    }  # fmt: skip
    return PrimeSettings(**(given | changes))


class Scribe:
    """Answers with the solver's words for the plan that the prompt shows; `spoil(text, number)` may change the number-th answer to a plan."""

    def __init__(self, given, spoil=lambda text, number: text):
        self.spoil, self.kind = spoil, given.kind
        found = prime_solver.plans(given, tasks.read_tasks(given.tasks, "train"), Counter())
        self.plans = {prime_prompts.outline(plan, given.kind).strip(): plan for plan in found}
        self.asked = Counter()
        self.lock = threading.Lock()

    def __call__(self, number, body):
        plan = self.plans[BODY.search(body["messages"][0]["content"])[1].strip()]
        with self.lock:
            turn = self.asked[plan.seed]
            self.asked[plan.seed] += 1
        said = self.spoil(write(plan, self.kind, "prose"), turn)
        if not isinstance(said, str):
            return said
        return 200, {}, json.dumps(completion(text=f"Here it is.\n<thoughts>{said}")).encode()


def run(source, out, spoil=lambda text, number: text, **changes):
    """The endpoint's scribe and the bodies that it was sent."""
    scribe = Scribe(settings(source, out, None, **changes), spoil)
    with Endpoint(scribe) as server:
        prime.run(settings(source, out, server.url, **changes))
    return scribe, server.bodies


def rows_of(out):
    return [row for part in ("train", "heldout") for row in pq.read_table(out / part / "primed.parquet").to_pylist()]


@pytest.mark.parametrize("kind", ASKED_KINDS)
def test_the_models_words_about_the_solvers_plans(source, tmp_path, kind):
    _, bodies = run(source, tmp_path / "asked", kind=kind)
    prime.run(PrimeSettings(tasks=source, out=tmp_path / "own", kind=kind, num_train=16, num_heldout=4, seed=2, max_failures=2))
    assert rows_of(tmp_path / "asked") == rows_of(tmp_path / "own")  # the scribe's words are the solver's
    manifest = read_manifest(tmp_path / "asked")
    assert (manifest.engine, manifest.model, manifest.notes["answers"]) == ("openai", "fake", len(bodies)) and len(bodies) == 20
    assert manifest.tokens["prompt"] == 2000
    assert {body["temperature"] for body in bodies} == {0.5} and {body["max_tokens"] for body in bodies} == {1024}


@pytest.mark.parametrize("kind", ASKED_KINDS)
def test_examples_in_the_prompt_are_traces_of_their_kind(kind):
    for plan in prime_prompts.EXAMPLES:
        text = f"{write(plan, kind, 'prose')}<answer>{answer_of(plan, kind)}</answer>"
        assert text.partition("<answer>")[0] in prime_prompts.head(kind) and prime_solver.fault(plan, kind, text) is None


def checked_wrongly(text, number):
    return re.sub(
        r"(?:, too|\. That is too|\. Too| \(too) (?:low|small|high|big)|(?:,|\.) (?:That is |which is |No, )?not \d+| \(not \d+\)",
        ", correct",
        text,
    )


SPOILT = {
    "wrong arithmetic": lambda text, number: f"{text} And 2 + 2 = 5.",
    "a wrong check": checked_wrongly,
    "no subgoal_setting": lambda text, number: re.sub(r"(make|reach|get|need) (\d+)", r"\1 something like \2", text),
    "not the attempts that were planned": lambda text, number: f"{text} {text}",
    "a tag inside the thoughts": lambda text, number: f"{text}</think>",
    "empty <thoughts>": lambda text, number: " ",
    "missing <thoughts>": lambda text, number: (200, {}, json.dumps(completion(text="I cannot help with that.")).encode()),
    "cut off inside <thoughts>": lambda text, number: (200, {}, json.dumps(cut_off(text)).encode()),
    "refused by the endpoint (HTTP 400)": lambda text, number: (400, {}, b'{"error": {"message": "no"}}'),
}


def cut_off(text):
    answer = completion(text=f"<thoughts>{text[: len(text) // 2]}")
    answer["choices"][0]["finish_reason"] = "length"
    return answer


@pytest.mark.parametrize("reason", SPOILT)
def test_what_is_refused_is_counted_and_asked_again(source, tmp_path, reason):
    """The first answer to every plan is spoilt, the second is good."""
    scribe, bodies = run(source, tmp_path, lambda text, number: SPOILT[reason](text, number) if number == 0 else text)
    assert set(scribe.asked.values()) == {2} and len(bodies) == 40
    manifest, rows = read_manifest(tmp_path), rows_of(tmp_path)
    assert manifest.dropped[reason] == 20 == len(rows)
    for row in rows:
        found = traces.parse(row["completion"], row["numbers"], row["target"])
        assert {name for name in EVERY if found.counts()[name]} == PROFILES["all"]
        assert found.wrong_arithmetic == found.wrong_verification == 0 and score(row["completion"], row["numbers"], row["target"]).correct
    assert len({body["seed"] for body in bodies}) == 2  # the same seed would give the same answer


def test_the_attempts_are_those_of_the_plan(source, tmp_path):
    """The model writes the thoughts and we the answer: thoughts about something else are refused, however well they read."""
    for kind in ("all", "incorrect-all", "backtracking"):
        given = replace(settings(source, tmp_path, None, kind=kind), template="tinyzero")
        found = 0
        for plan in prime_solver.plans(given, tasks.read_tasks(source, "train"), Counter()):
            others = {"as planned": (kind, plan), "another order": (kind, replace(plan, failures=plan.failures[::-1]))}
            if kind == "incorrect-all":
                others["solved after all"] = ("all", plan)
            if len({node.value for node in plan.failures}) < 2:
                del others["another order"]
            for name, (told, told_plan) in others.items():
                text = f"<thoughts>{write(told_plan, told, 'prose')}</thoughts>"
                _, reason = prime_endpoint.read(Generation(plan.seed, text=text), plan, given)
                assert reason == (None if name == "as planned" else "other attempts than planned"), (name, text)
            found += len(others) > 1
        assert found > 5


def test_a_task_that_takes_every_try_gives_way_to_another(source, tmp_path):
    hard = []

    def spoil(text, number):
        if number == 0 and len(hard) < 3:
            hard.append(text)
        return "I do not know." if text in hard else text

    scribe, _ = run(source, tmp_path, spoil, tries=2)
    assert sorted(scribe.asked.values()) == [1] * 20 + [2] * 3
    assert read_manifest(tmp_path).dropped["no backtracking"] == 6
    known = {row["completion"] for row in rows_of(tmp_path)}
    assert len(known) == 20 and not any(text in trace for text in hard for trace in known)


def test_a_killed_run_goes_on_and_no_answer_is_paid_for_twice(source, tmp_path):
    run(source, tmp_path / "whole")
    scribe = Scribe(settings(source, tmp_path / "cut", None))
    with Endpoint(scribe, latency_seconds=0.2) as server:
        given = settings(source, tmp_path / "cut", server.url)
        options = [f"--{name.replace('_', '-')}={value}" for name, value in to_dict(given).items() if value not in (None, False)]
        process = subprocess.Popen([sys.executable, "-m", "rl.main", "prime", *options], stderr=subprocess.PIPE)
        try:
            while len(list((tmp_path / "cut" / "answers").glob("*-*.json"))) < 8:
                assert process.poll() is None, process.stderr.read().decode()
                time.sleep(0.02)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert not (tmp_path / "cut" / "manifest.json").exists()
        stored = {path.name for path in (tmp_path / "cut" / "answers").glob("*-*.json")}
        before = len(server.bodies)
        prime.run(given)
        assert len(server.bodies) == before + 20 - len(stored)
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


def test_a_finished_set_is_made_again_without_the_endpoint(source, tmp_path):
    run(source, tmp_path)
    rows = rows_of(tmp_path)
    prime.run(settings(source, tmp_path, "http://nowhere.invalid/v1"))
    assert rows_of(tmp_path) == rows
    with pytest.raises(UserError, match=r"was made with other settings \(temperature: 0.5 -> 1.0\); choose another --out"):
        prime.run(settings(source, tmp_path, "http://nowhere.invalid/v1", temperature=1.0))


def test_a_budget_is_kept_and_what_it_bought_is_not_lost(source, tmp_path):
    with pytest.raises(EngineError, match="the budget of 7 requests is used up"):
        run(source, tmp_path, max_requests=7)
    bought = len(list((tmp_path / "answers").glob("*-*.json")))
    assert 0 < bought <= 7 and not (tmp_path / "train").exists()
    _, bodies = run(source, tmp_path)
    assert len(bodies) == 20 - bought


def test_an_endpoint_that_gives_nothing_of_use_is_given_up(source, tmp_path, monkeypatch):
    monkeypatch.setattr(prime_endpoint, "HOPELESS", 12)
    for spoil, message in (
        (lambda text, number: "No.", r"of 12 answers none could be used \(12 × no backtracking\); they lie in .*answers"),
        (
            lambda text, number: (400, {}, b'{"error": {"message": "no temperature here"}}'),
            "the endpoint said: HTTP 400: no temperature here",
        ),
    ):
        with pytest.raises(EngineError, match=message):
            run(source, tmp_path, spoil)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "--model is needed"),
        ({"base_url": None}, "--engine openai needs --base-url"),
        ({"kind": "linear"}, "leave linear to --engine solver"),
        ({"voice": "terse"}, "--voice means nothing with --engine openai; it goes with --engine solver"),
        ({"device": "cpu"}, "--device means nothing with --engine openai; it goes with --from-checkpoint"),
        (
            {"engine": "solver", "model": None, "base_url": None, "price_in": 3.0},
            "--price-in means nothing with --engine solver; it goes with --engine openai",
        ),
        ({"max_dollars": 1.0}, "--max-dollars needs --price-in and --price-out"),
        ({"num_train": 60}, "gives at most .* 64 were asked for: more tasks"),
        ({"base_url": "https://example.com/v1"}, "20 plans of tasks are sent to https://example.com/v1: agree with --yes"),
        ({"price_in": 300.0, "price_out": 300.0}, r"about \$\d+\.\d\d are spent \(more than --ask-above-dollars 1\): agree with --yes"),
    ],
)
def test_mistakes_are_one_line_and_cost_nothing(source, tmp_path, changes, message):
    changes = {"max_in_flight": PrimeSettings.max_in_flight} | changes
    with Endpoint() as server, pytest.raises(UserError, match=message) as caught:
        prime.run(settings(source, tmp_path / "out", server.url, **changes))
    assert "\n" not in str(caught.value) and not server.bodies and not (tmp_path / "out" / "train").exists()


def test_the_cost_is_said_before_and_after(source, tmp_path, capsys):
    run(source, tmp_path, price_in=1.0, price_out=2.0)
    said = re.search(r"plan of prime: 20 traces by fake: ([\d,]+) prompt tokens, ([\d,]+) answered, \$(\d+\.\d\d)", capsys.readouterr().out)
    asked, written, dollars = (float(found.replace(",", "")) for found in said.groups())
    assert dollars == pytest.approx((asked + 2 * written) / 1e6, abs=0.01) and asked > 5_000 and written > 500
    manifest = read_manifest(tmp_path)
    assert manifest.notes["dollars"] == pytest.approx((manifest.tokens["prompt"] + 2 * manifest.tokens["completion"]) / 1e6)
