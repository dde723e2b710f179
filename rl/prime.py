"""`rl prime`: priming sets for Countdown, one for each profile of behaviors; every trace is read by the exact parser.

Kinds: `all`; `backtracking` alone and with `verification`, `subgoals` or `backward`; `empty` (no thoughts), `placeholder` (dots, as many
tokens as the trace of `all`), `linear` (facts about the same numbers, about as long, no check, no retry), `incorrect-all` (all behaviors, a
wrong answer). An exact solver writes them: all kinds of one seed (and one --tokenizer) are about the same tasks with the same
attempts, so sets differ in the profile alone. `--engine openai` has a model put the solver's plans into words; a plan that it cannot word
gives way to another. `--from-checkpoint` takes wrong answers of a primed model as `incorrect-all`.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from curate.engines.settings import EngineSettings
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import read_manifest
from curate.records.settings import difference, option, same, to_dict
from rl import prime_solver, primed
from rl.prime_prompts import ASKED_KINDS
from rl.prime_traces import PROFILES, VOICES
from rl.settings import PRESETS
from rl.tasks import read_tasks

ENGINES = ("solver", "openai")


@dataclass(frozen=True)
class PrimeSettings:
    """Settings of `rl prime`."""

    out: Path | None = option(None, "Folder for train/, heldout/ and manifest.json", hashed=False)
    kind: str = option("all", "Profile of the traces", choices=tuple(PROFILES))
    tasks: Path | None = option(None, "Folder or file of `rl tasks`; only its training split is used")
    num_train: int = option(1_000, "Traces to train on", at_least=1)
    num_heldout: int = option(200, "Further traces, to watch the held-out loss; of other tasks where --traces-per-task is 1", at_least=0)
    traces_per_task: int = option(1, "Different traces of one task, for tiny models that need many", at_least=1)
    min_failures: int = option(1, "Least number of attempts that fail before the solution", at_least=1)
    max_failures: int = option(4, "Most attempts that fail", at_least=1)
    max_result: int | None = option(
        None, "Largest result of an operation; left out: any. Small ones are less for a tiny model to learn", at_least=1
    )
    voice: str = option("prose", "Words: varied prose, or terse lines for tiny models", choices=tuple(VOICES))
    preset: str = option("four-habits", "Preset of `rl ppo` whose prompt and limits are meant", choices=tuple(PRESETS))
    template: str | None = option(None, "Prompt template, as in `rl ppo`; with tinyzero and set the thoughts end with </think> [preset]")
    tokenizer: str | None = option(
        None,
        "Whose tokens make `placeholder` and `linear` as long as `all`: a folder, a name, or tiny (`linear` without it: characters)",
    )
    seed: int = option(0, "Seed of tasks, attempts and words (or of sampling)", at_least=0)

    max_response_tokens: int | None = option(
        None, "Tokens of a response of a checkpoint (EOS included) or an endpoint's answer [preset]", at_least=1
    )

    from_checkpoint: Path | None = option(
        None, "Sample this primed model at T=1 and keep its wrong answers (--kind incorrect-all); its tokenizer lies beside it"
    )
    whole_profile: bool = option(False, "Of a checkpoint's wrong answers, keep only those that show all four behaviors")
    max_sampler_rows: int = option(1024, "Responses of a checkpoint generated at once: less memory when lower", hashed=False, at_least=1)
    device: str = option("auto", "Where a checkpoint runs: auto, cpu or cuda", hashed=False)
    dtype: str = option("auto", "Compute dtype of a checkpoint", choices=("auto", "float32", "bfloat16", "float64"))

    engine: str = option(
        "solver", "Who words the traces: the exact solver, or openai: a model behind any OpenAI-compatible endpoint", choices=ENGINES
    )
    model: str | None = option(None, "Model of the endpoint, by the name that it has there (openai)")
    base_url: str | None = same(EngineSettings, "base_url")
    api_key_env: str = same(EngineSettings, "api_key_env")
    temperature: float = option(0.5, "Of the endpoint's model (openai)", at_least=0)
    tries: int = option(3, "Answers that the parser may refuse before another task takes the place of one (openai)", at_least=1)
    max_in_flight: int = option(16, "Requests to the endpoint at once (openai)", hashed=False, at_least=1)
    max_requests: int | None = same(EngineSettings, "max_requests")
    max_dollars: float | None = same(EngineSettings, "max_dollars")
    price_in: float = same(EngineSettings, "price_in")
    price_out: float = same(EngineSettings, "price_out")
    yes: bool = same(EngineSettings, "yes")
    ask_above_dollars: float = same(EngineSettings, "ask_above_dollars")


# Options that mean something for some sources of traces only.
OF_PLANS, OF_WORDS = ("min_failures", "max_failures", "max_result"), ("voice", "tokenizer")
OF_CHECKPOINT = ("max_response_tokens", "whole_profile", "max_sampler_rows", "device", "dtype")
OF_ENDPOINT = (
    *("max_response_tokens", "engine", "model", "base_url", "api_key_env", "temperature", "tries", "max_in_flight", "max_requests"),
    *("max_dollars", "price_in", "price_out", "yes", "ask_above_dollars"),
)
OF_SOURCE = {"--from-checkpoint": OF_CHECKPOINT, "--engine openai": (*OF_PLANS, *OF_ENDPOINT), "--engine solver": (*OF_PLANS, *OF_WORDS)}


def run(settings: PrimeSettings) -> None:
    """Write a priming set with exactly the behaviors of --kind, each trace confirmed by the exact parser, or of wrong answers."""
    started = time.monotonic()
    out, source = require(settings.out, "out"), require(settings.tasks, "tasks")
    check(settings)
    settings = dataclasses.replace(settings, template=settings.template or PRESETS[settings.preset]["template"])
    refuse_other(out, settings)
    tasks = read_tasks(source, "train")
    if not tasks:
        raise UserError(f"{source} has no training tasks (rows with split = train)")
    wanted = settings.num_train + settings.num_heldout
    file = primed.tasks_file(source, len(tasks))
    if settings.from_checkpoint is not None:
        from rl import prime_sampling

        made = prime_sampling.make(settings, tasks, wanted, file.sha256)
    elif settings.engine == "openai":
        from rl import prime_endpoint

        made = prime_endpoint.make(settings, tasks, wanted, file.sha256)
    else:
        made = prime_solver.make(settings, tasks, wanted)
    means = primed.write_set(out, made, settings.num_train, file, to_dict(settings), settings.seed, started)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in means.items() if value)
    print(f"{settings.num_train} + {settings.num_heldout} traces of kind {settings.kind} in {out}; a trace: {shown or 'no behavior'}")
    if made.dropped:
        print(f"passed over: {primed.reasons(made.dropped)}")


def refuse_other(out: Path, settings: PrimeSettings) -> None:
    """Raise UserError when `out` holds a finished set of other settings."""
    if (out / "manifest.json").is_file():
        asked, found = to_dict(settings, hashed_only=True), read_manifest(out).settings
        if changed := difference({name: found.get(name) for name in asked}, asked):
            raise UserError(f"{out} was made with other settings ({changed}); choose another --out")


def check(settings: PrimeSettings) -> None:
    """Raise UserError for settings that cannot go together."""
    if settings.min_failures > settings.max_failures:
        raise UserError("--min-failures is at most --max-failures")
    source = "--from-checkpoint" if settings.from_checkpoint is not None else f"--engine {settings.engine}"
    for item in dataclasses.fields(settings):
        meant_for = [name for name, names in OF_SOURCE.items() if item.name in names]
        if meant_for and source not in meant_for and getattr(settings, item.name) != item.default:
            raise UserError(f"--{item.name.replace('_', '-')} means nothing with {source}; it goes with {' and '.join(meant_for)}")
    if source == "--from-checkpoint" and settings.kind != "incorrect-all":
        raise UserError(f"--from-checkpoint gives wrong answers, which are no set {settings.kind}: add --kind incorrect-all")
    if source == "--engine openai":
        require(settings.model, "model", "the model of the endpoint, by the name that it has there")
        if settings.kind not in ASKED_KINDS:
            raise UserError(f"--engine openai words {', '.join(ASKED_KINDS)}; leave {settings.kind} to --engine solver")
        if settings.tries > 1 and settings.temperature == 0:
            raise UserError("--temperature 0 gives the same answer at every try: add --tries 1, or a temperature above 0")
    if source == "--engine solver" and settings.kind == "placeholder":
        require(settings.tokenizer, "tokenizer", "placeholder is matched to `all` token by token; name the model's tokenizer")
