"""`curate run`: every stage in order, each with its own folder, each also a command of its own."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from curate.arms import ARM_DESIGNS
from curate.behaviors import load_behaviors
from curate.card import PublishSettings
from curate.classification import DEFAULT_DATASET, ClassifySettings
from curate.consent import is_loopback
from curate.dose import check_dose
from curate.engines.models import DEFAULT_MODEL
from curate.engines.settings import ENGINES, LABEL_ENGINES, keep_engines
from curate.hub import check_repository
from curate.matching import BUDGET_TOKENS, DEFAULT_TOKENIZER, MatchSettings, load_tokenizer
from curate.prevalence import FrequenciesSettings
from curate.records.command import require
from curate.records.errors import PartialFailure, UserError
from curate.records.settings import build, did_you_mean, option
from curate.reporting import ReportSettings
from curate.rewriting import ARMS, RewriteSettings, check_arms
from curate.selection import SelectSettings, choose_habits
from curate.topic_clusters import TopicsSettings
from curate.verification import VerifySettings

STAGES = ("classify", "frequencies", "topics", "select", "rewrite", "verify", "match", "report", "publish")


@dataclass(frozen=True)
class RunSettings:
    """The settings that matter in most runs; any other one of any stage goes into the `--stages` file."""

    dataset: tuple[str, ...] = option(
        DEFAULT_DATASET, "openwebmath, finemath-3plus, finemath-4plus, sample, or paths of files, folders, globs."
    )
    out: Path | None = option(None, "Folder of the whole run; each stage gets its own in it.")
    limit: int | None = option(None, "Read only the first N documents.", at_least=1)
    sample: int | None = option(None, "Read N documents drawn at random (seeded) from all.", at_least=1)
    seed: int = option(0, "Seed of everything random.", at_least=0)
    model: str = option(DEFAULT_MODEL, "Model that labels and rewrites; smollm2-135m is the embedded stand-in for machines without a GPU.")
    judge_engine: str | None = option(None, "Engine that labels the rewrites (default: --label-engine).", choices=LABEL_ENGINES)
    judge_model: str | None = option(None, "Model that labels the rewrites (default: --model, with a warning).")
    judge_base_url: str | None = option(None, "Address of the judge's endpoint (default: --base-url).")
    judge_api_key_env: str | None = option(None, "Environment variable with the key of the judge's endpoint.")
    revision: str | None = option(None, "Commit or tag of --model on the hub.")
    label_engine: str = option("vllm", "Engine of classify and verify; student needs no language model.", choices=LABEL_ENGINES)
    student: Path | None = option(None, "Student of `curate distill` (default: the one that ships).")
    rewrite_engine: str = option(
        "vllm", "Engine of rewrite; extract takes human questions and answers as they are.", choices=(*ENGINES, "extract")
    )
    base_url: str | None = option(None, "Address of the endpoint (openai).")
    price_in: float = option(0.0, "Dollars per million prompt tokens (openai).", at_least=0)
    price_out: float = option(0.0, "Dollars per million generated tokens (openai).", at_least=0)
    yes: bool = option(
        False, "Agree beforehand to what would be asked: texts that leave this machine, work above a threshold.", secret=True
    )
    ask_above_hours: float = option(24.0, "Ask before work of more than this many hours, GPU-hours where there are GPUs.")
    ask_above_dollars: float = option(1.0, "Ask before spending more than this (needs the prices).")
    behaviors: Path | None = option(None, "TOML file that adds or replaces behaviors.")
    arms: str = option("pairs", "pairs: each selected document twice; 2x2: each free one too; paper: the published pair.", choices=ARMS)
    habits: tuple[str, ...] = option(("any",), "Behaviors that make a document selected: any, or names.")
    present: str = option("0.5", "Probability from which a behavior counts as shown, or top:SHARE.")
    absent: str = option("0.2", "Probability below which it counts as absent, or bottom:SHARE.")
    problem: str = option("0.5", "Least probability that the document states a problem, or top:SHARE.")
    solution: str = option("0.5", "Least probability that the document contains a solution, or top:SHARE.")
    budget_tokens: int = option(BUDGET_TOKENS, "Tokens of each arm.", at_least=1)
    tokenizer: str = option(DEFAULT_TOKENIZER, "Tokenizer that the tokens are counted with.")
    dose: float = option(1.0, "Share of the examples of an arm with behavior that carry it; the others are their siblings.", at_least=0)
    push_to_hub: str | None = option(None, "At the end send the sets to this dataset repository (user/name) on the Hugging Face hub.")
    private: bool = option(True, "Make a new repository private.")
    executor: str = option("local", "Where tasks run.", choices=("local", "slurm"))
    tasks: int = option(1, "Tasks that share the work; each drives one engine.", at_least=1)
    slurm: tuple[str, ...] = option((), "Slurm settings as name=value.")
    stages: Path | None = option(
        None, "TOML file with tables [classify], [rewrite], … for any other setting of a stage; may be the --config file itself."
    )


def run(settings: RunSettings) -> None:
    """From a corpus to matched sets: classify, frequencies, topics, select, rewrite, verify, match, report, publish (the card).

    Each stage reads the folder of the one before and writes its own below --out; repeat the command after an interruption and it
    goes on. A file that fails is named at the end, and the rest is done.
    """
    import pipelines.classify
    import pipelines.frequencies
    import pipelines.match
    import pipelines.plan
    import pipelines.publish
    import pipelines.report
    import pipelines.rewrite
    import pipelines.select
    import pipelines.topics
    import pipelines.verify

    out = require(settings.out, "out", "the folder of the run")
    commands: dict[str, tuple[type, Callable[[Any], Any]]] = {
        "classify": (ClassifySettings, pipelines.classify.classify),
        "frequencies": (FrequenciesSettings, pipelines.frequencies.frequencies),
        "topics": (TopicsSettings, pipelines.topics.topics),
        "select": (SelectSettings, pipelines.select.select),
        "rewrite": (RewriteSettings, pipelines.rewrite.rewrite),
        "verify": (VerifySettings, pipelines.verify.verify),
        "match": (MatchSettings, pipelines.match.match),
        "report": (ReportSettings, pipelines.report.report),
        "publish": (PublishSettings, pipelines.publish.publish),
    }
    overrides = stage_overrides(settings.stages)
    built: dict[str, Any] = {
        name: build(kind, stage_settings(settings, name, kind, out), overrides.get(name, {})) for name, (kind, _) in commands.items()
    }
    check_judge(settings, built["verify"])
    preflight(built)
    planned = pipelines.plan.before_run(built["classify"], built["rewrite"], built["verify"])
    if planned:  # it was asked for once: the stages need not ask again
        commands["classify"] = (ClassifySettings, partial(pipelines.classify.classify, planned=True))
        built |= {name: replace(built[name], yes=True) for name in ("classify", "rewrite", "verify")}
    failures = []
    with keep_engines():
        for number, name in enumerate(STAGES, start=1):
            print(f"[{number}/{len(STAGES)}] {name}", flush=True)
            try:
                commands[name][1](built[name])
            except PartialFailure as error:
                failures.append(str(error))
    if failures:
        raise PartialFailure("; ".join(failures))


def check_judge(settings: RunSettings, verify: VerifySettings) -> None:
    """Raise UserError for a judge's model or address that its engine would not use, and for a key that would go to another's endpoint."""
    engine = verify.cascade_engine if verify.engine == "cascade" else verify.engine
    if settings.judge_model is not None and engine == "student":
        raise UserError(f"--judge-model {settings.judge_model}: the student judges and uses no model; name an engine with --judge-engine")
    if settings.judge_base_url is not None and engine != "openai":
        raise UserError(
            f"--judge-base-url is for a judge behind an endpoint, not for the engine {engine}; use --judge-engine openai, "
            "or a cascade onto one ([verify] cascade_engine in --stages)"
        )
    elsewhere = settings.judge_base_url not in (None, settings.base_url) and not is_loopback(str(settings.judge_base_url))
    if elsewhere and settings.judge_api_key_env is None:
        raise UserError(
            f"--judge-base-url {settings.judge_base_url} is not --base-url, whose key it would be sent: "
            "name the judge's with --judge-api-key-env"
        )


def preflight(built: dict[str, Any]) -> None:
    """Tell before anything is labelled what would stop a later stage: a tokenizer that cannot be loaded, an unknown habit, …"""
    classify, rewrite, match = built["classify"], built["rewrite"], built["match"]
    check_arms(rewrite)
    if classify.preset is not None:
        raise UserError(
            f"the labels of --preset {classify.preset} say nothing of problem and solution, which select needs; use --mode rationale"
        )
    kind = "extract" if rewrite.engine == "extract" else rewrite.arms
    check_dose(match.dose, ARM_DESIGNS[kind], kind)
    if built["publish"].push_to_hub is not None:
        check_repository(built["publish"].push_to_hub)
    choose_habits(built["select"].habits, [behavior.name for behavior in load_behaviors(classify.behaviors)])
    for stage in (classify, rewrite, built["verify"]):
        if "openai" in (stage.engine, stage.cascade_engine if stage.engine == "cascade" else "") and not stage.base_url:
            raise UserError("the engine openai needs --base-url, for example http://localhost:8000/v1")
    load_tokenizer(match.tokenizer)


def stage_settings(settings: RunSettings, name: str, settings_class: type, out: Path) -> dict[str, Any]:
    """What the run's settings mean for one stage: those of the same name, its engine, and the folders that it reads and writes."""
    known = {item.name for item in fields(settings_class)}
    if settings_class is FrequenciesSettings:  # it could label by itself; here it counts what classify has labelled
        known -= {item.name for item in fields(ClassifySettings)}
    shared = {
        item.name: getattr(settings, item.name) for item in fields(settings) if item.name in known - {"out", "limit", "sample", "model"}
    }
    folders = {
        "labels": out / "labels",
        "topics": out / "topics",
        "candidates": out / "candidates",
        "qa": out / "qa",
        "verified": out / "verified",
    }
    folders |= {"run": out, "sets": out / "sets"}
    targets = {
        "classify": "labels",
        "frequencies": "frequencies",
        "topics": "topics",
        "select": "candidates",
        "rewrite": "qa",
        "verify": "verified",
        "match": "sets",
    }
    values = shared | {key: folder for key, folder in folders.items() if key in known}
    if name != "publish":
        values["out"] = out / targets[name] if name in targets else out / "report.html"
    if name == "classify":
        values |= {"limit": settings.limit, "sample": settings.sample}
    if "engine" in known:
        values["engine"] = settings.rewrite_engine if name == "rewrite" else settings.label_engine
        values |= {"model": settings.model, "revision": settings.revision}
    if name == "verify":
        values["engine"] = settings.judge_engine or settings.label_engine
        values["base_url"] = settings.judge_base_url or settings.base_url
        if settings.judge_api_key_env is not None:
            values["api_key_env"] = settings.judge_api_key_env
        if settings.judge_model is not None:
            values |= {"model": settings.judge_model, "revision": None}
    return values


def stage_overrides(path: Path | None) -> dict[str, dict[str, Any]]:
    """Tables of the `--stages` file by stage; its top-level keys are the run's own. Raises UserError for an unknown table."""
    if path is None:
        return {}
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read the stages file {path}: {error}") from None
    tables = {key: value for key, value in raw.items() if isinstance(value, dict) and key != "run"}
    build(RunSettings, {key: value for key, value in raw.items() if not isinstance(value, dict)})  # refuses unknown keys
    for key in tables:
        if key not in STAGES:
            raise UserError(f"{path}: {key!r} is not a table of a stage{did_you_mean(key, STAGES)}; stages are {', '.join(STAGES)}")
    return tables
