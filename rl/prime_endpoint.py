"""Priming traces by a model behind any OpenAI-compatible endpoint: it words the plans of the exact solver, the parser confirms each trace.

Every answer is stored when it arrives (OUT/answers, a file a trace), so an interrupted run goes on and no stored answer is paid for
twice. What is kept depends on the answers alone, never on the order in which they came.
"""

import dataclasses
import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.consent import agree_to_cost
from curate.engines.base import GenerateRequest, Generation
from curate.engines.openai import CHARS_PER_TOKEN
from curate.engines.settings import EngineSettings, make_engine
from curate.parsing import TAG, parse_tags
from curate.records.errors import EngineError, UserError
from curate.records.manifest import json_sha256
from curate.records.parts import write_json
from curate.records.progress import progress
from curate.records.settings import difference
from rl import prime_prompts, prime_solver, primed, traces
from rl.countdown import Task
from rl.prime_plans import Plan
from rl.prime_traces import attempts_of, write
from rl.primed import Made
from rl.settings import PRESETS

if TYPE_CHECKING:
    from rl.prime import PrimeSettings

FOLDER, RECORD = "answers", "settings.json"
PLANNED_FROM = 50  # traces whose lengths the costs are reckoned from
CHARS_PER_TRACE_TOKEN = 2.5  # arithmetic is dense in tokens
STORED = ("text", "truncated", "prompt_tokens", "completion_tokens")
ASKED_WITH = ("kind", "model", "temperature", "max_response_tokens", "preset", "seed", "min_failures", "max_failures", "max_result")
HOPELESS = 50  # answers of which none could be used: something is wrong with the endpoint or the model, and each costs


def make(settings: "PrimeSettings", tasks: list[Task], wanted: int, tasks_sha256: str) -> Made:
    """`wanted` confirmed traces.

    Raises UserError when there are too few or the user does not agree to what is sent and spent; EngineError when the endpoint cannot be
    used, a budget is spent, or nothing that it answers can be used.
    """
    assert settings.out is not None
    engine = engine_settings(settings)
    made = Made(about={"model": settings.model, "engine": "openai", "prompt_hash": json_sha256(prime_prompts.head(settings.kind))})
    record = {"tasks": tasks_sha256, "prompt": made.about["prompt_hash"]} | {name: getattr(settings, name) for name in ASKED_WITH}
    check_folder(settings.out / FOLDER, record)
    work = Work(settings, prime_solver.plans(settings, tasks, made.dropped), wanted)
    work.open_plans()
    if work.kept + work.unsettled < wanted:  # known before anything is spent
        raise UserError(
            f"{settings.tasks} gives at most {work.kept + work.unsettled} traces ({primed.reasons(made.dropped)}), {wanted} were asked "
            f"for: {prime_solver.MORE}"
        )
    if work.waiting:
        ask(settings, engine, work)
        write_json(settings.out / FOLDER / RECORD, record)
        with make_engine(engine) as endpoint, progress("traces", wanted, unit="traces", done=work.kept) as advance:
            for answer in endpoint.generate(work):
                advance(work.take(answer))
    for trace in work.traces:
        made.dropped.update(trace.refused)
        if trace.kept is not None:
            text = prime_solver.completion(trace.plan, settings.kind, settings, thoughts=trace.kept)
            made.rows.append(primed.row(settings.kind, str(settings.template), (trace.plan.numbers, trace.plan.target), text))
    answers = [answer for trace in work.traces for answer in trace.answers]
    tokens = {name: sum(answer[f"{name}_tokens"] for answer in answers) for name in ("prompt", "completion")}
    made.about["tokens"] = tokens
    made.notes["answers"] = len(answers)
    if settings.price_in or settings.price_out:
        made.notes["dollars"] = (tokens["prompt"] * settings.price_in + tokens["completion"] * settings.price_out) / 1e6
    made.cut(wanted, str(settings.tasks), "more --tries or --traces-per-task, or fewer traces: what was answered is kept")
    return made


@dataclass
class Trace:
    """The answers to one plan, as they are stored in `path`. `kept` are the thoughts that passed; `refused` counts why others did not."""

    plan: Plan
    path: Path
    answers: list[dict[str, Any]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    kept: str | None = None

    def judge(self, answer: Generation, settings: "PrimeSettings") -> None:
        """Keep the thoughts of an answer, or count why not."""
        thoughts, reason = read(answer, self.plan, settings)
        if reason is None:
            self.kept = thoughts
        else:
            self.refused[reason] += 1


class Work:
    """Requests for as many plans as are needed: an iterator for `Engine.generate`, which asks it again after every answer."""

    def __init__(self, settings: "PrimeSettings", plans: Iterator[Plan], wanted: int) -> None:
        self.settings, self.plans, self.wanted = settings, plans, wanted
        self.traces: list[Trace] = []
        self.waiting: deque[int] = deque()  # places in `traces`
        self.kept = self.unsettled = self.num_answers = self.num_used = 0

    def open_plans(self) -> None:
        """Take plans, and what is stored of them, until there would be enough traces if all that are unsettled were kept."""
        while self.kept + self.unsettled < self.wanted and (plan := next(self.plans, None)) is not None:
            trace = stored(plan, self.settings)
            self.traces.append(trace)
            if trace.kept is not None:
                self.kept += 1
            elif trace.refused.total() < self.settings.tries:
                self.unsettled += 1
                self.waiting.append(len(self.traces) - 1)

    def __iter__(self) -> "Work":
        return self

    def __next__(self) -> GenerateRequest:
        self.open_plans()
        if not self.waiting:
            raise StopIteration
        place, settings = self.waiting.popleft(), self.settings
        trace = self.traces[place]
        return GenerateRequest(
            place,
            prime_prompts.prompt(trace.plan, settings.kind),
            settings.max_response_tokens or PRESETS[settings.preset]["max_response_tokens"],
            settings.temperature,
            settings.seed + trace.refused.total(),
            stop=(f"</{prime_prompts.TAG}>",),
        )

    def take(self, answer: Generation) -> int:
        """Store and judge an answer. Returns how many traces it finished: 1 or 0. Raises EngineError when none of many can be used."""
        place = answer.key
        assert isinstance(place, int)
        trace = self.traces[place]
        if answer.error is None:  # a request that was refused cost nothing, and may be made again in a later run
            trace.answers.append({name: getattr(answer, name) for name in STORED})
            write_json(trace.path, {"seed": trace.plan.seed, "answers": trace.answers})
        trace.judge(answer, self.settings)
        self.num_answers += 1
        if trace.kept is None:
            if trace.refused.total() < self.settings.tries:
                self.waiting.appendleft(place)
            else:
                self.unsettled -= 1
            if self.num_answers >= HOPELESS and not self.num_used:
                reasons = sum((trace.refused for trace in self.traces), Counter())
                last = f"; the endpoint said: {answer.error}" if answer.error else f"; they lie in {trace.path.parent}"
                raise EngineError(f"of {self.num_answers} answers none could be used ({primed.reasons(reasons)}){last}")
            return 0
        self.kept, self.unsettled, self.num_used = self.kept + 1, self.unsettled - 1, self.num_used + 1
        return 1


def read(answer: Generation, plan: Plan, settings: "PrimeSettings") -> tuple[str, str | None]:
    """The thoughts in an answer, and why they are no trace of the kind (None when they are)."""
    if answer.error is not None:
        return "", f"refused by the endpoint ({answer.error.split(':')[0]})"
    parsed = parse_tags(answer.text, (prime_prompts.TAG,), answer.truncated)
    if parsed.problem is not None:
        return "", parsed.problem
    thoughts = parsed.fields[prime_prompts.TAG]
    if TAG.search(thoughts):
        return "", "a tag inside the thoughts"
    text = prime_solver.completion(plan, settings.kind, settings, thoughts=thoughts)
    if reason := prime_solver.fault(plan, settings.kind, text):
        return thoughts, reason
    planned = attempts_of(plan, settings.kind)
    if traces.results(text, plan.numbers, plan.target) != [node.value for node in planned]:
        return thoughts, "other attempts than planned"
    return thoughts, None


def stored(plan: Plan, settings: "PrimeSettings") -> Trace:
    """What earlier runs have of a plan, judged anew. Raises UserError for a file that is none of ours."""
    assert settings.out is not None
    trace = Trace(plan, settings.out / FOLDER / f"{plan.seed.replace(':', '-')}.json")
    if trace.path.exists():
        try:
            trace.answers = json.loads(trace.path.read_text())["answers"]
            answers = [Generation(plan.seed, **answer) for answer in trace.answers]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{trace.path} is damaged: remove it and run the same command again") from None
        for answer in answers:
            trace.judge(answer, settings)
    return trace


def engine_settings(settings: "PrimeSettings") -> EngineSettings:
    """How the endpoint is driven: every setting that both have."""
    names = {item.name for item in dataclasses.fields(EngineSettings)} & {item.name for item in dataclasses.fields(settings)}
    return EngineSettings(**{name: getattr(settings, name) for name in names})


def check_folder(folder: Path, record: dict[str, Any]) -> None:
    """Raise UserError when `folder` holds answers that were asked for with other settings."""
    path = folder / RECORD
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            raise UserError(f"{path} is damaged: choose another --out") from None
        if changed := difference(found, record):
            raise UserError(f"{folder} was made with other settings ({changed}); choose another --out")


def ask(settings: "PrimeSettings", engine: EngineSettings, work: Work) -> None:
    """Say what the missing traces will take, and ask before plans leave the machine or more than --ask-above-dollars is spent."""
    missing = [work.traces[place].plan for place in work.waiting]
    some = missing[:PLANNED_FROM]
    prompts = [prime_prompts.prompt(plan, settings.kind) for plan in some]
    asked = sum(len(prompt.head + prompt.body + prompt.tail) for prompt in prompts) / len(some) / CHARS_PER_TOKEN * len(missing)
    written = sum(len(write(plan, settings.kind, "prose")) for plan in some) / len(some) / CHARS_PER_TRACE_TOKEN * len(missing)
    dollars = (asked * settings.price_in + written * settings.price_out) / 1e6
    cost = f", ${dollars:,.2f} (up to {settings.tries} times that, when each takes every try)" if dollars else ""
    print(
        f"plan of prime: {len(missing):,} traces by {settings.model}: {asked:,.0f} prompt tokens, {written:,.0f} answered{cost}", flush=True
    )
    agree_to_cost(f"{len(missing):,} plans of tasks are sent to {settings.base_url}", dollars, engine)
