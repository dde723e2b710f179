"""`evals traces`: which behaviors responses show, by the exact parser and by a judge, and whether they are of use (`usefulness`)."""

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.consent import agree, leaves_machine
from curate.engines.settings import EngineSettings
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import Manifest
from curate.records.parts import write_json, write_part
from curate.records.settings import did_you_mean, option, same, to_dict
from eval import responses
from eval.curves import BEHAVIORS
from eval.statistics import half_width
from eval.usefulness import FEWEST_TASKS, usefulness
from rl import traces

SUMMARY, TABLE = "traces.json", "traces.parquet"
QUALITIES = ("success_per_try", "checks_right", "arithmetic_right")


@dataclass(frozen=True)
class TracesSettings:
    """Settings of `evals traces`."""

    responses: tuple[Path, ...] = option(
        (), "Folders or Parquet files of responses (rollouts/, evaluations/, `evals countdown`); greedy files only by name; repeat"
    )
    models: tuple[str, ...] = option((), "Models to sample and profile instead; repeat; needs --data")
    data: Path | None = option(None, "Tasks for --models: a folder of `rl tasks`")
    preset: str = option("four-habits", "Prompt and limits for --models", choices=("four-habits", "modern", "tiny"))
    template: str | None = option(None, "Prompt for --models: tinyzero, short, set, or a text with {numbers} and {target} [preset]")
    max_prompt_tokens: int | None = option(None, "Longer prompts of --models are refused and counted [preset]", at_least=1)
    max_response_tokens: int | None = option(None, "Tokens of a response of --models [preset]", at_least=1)
    sampler: str = option("torch", "Where the responses of --models come from", choices=("torch", "vllm"))
    out: Path | None = option(None, "Folder for traces.parquet, traces.json and manifest.json", hashed=False)
    limit: int | None = option(None, "Only so many responses of each, drawn at random", at_least=1)
    judge: str = option("none", "Also ask a language model: none, openai, or vllm", choices=("none", "openai", "vllm"))
    judge_model: str = option("gpt-4o-mini", "Model of the judge")
    base_url: str | None = option(None, "Address of the judge's endpoint (openai)", hashed=False)
    api_key_env: str = option("OPENAI_API_KEY", "Environment variable with the endpoint's key (openai)", hashed=False)
    max_requests: int | None = option(None, "Stop the judge after so many requests", hashed=False, at_least=0)
    max_in_flight: int = option(64, "Requests to the judge at once", hashed=False, at_least=1)
    max_dollars: float | None = same(EngineSettings, "max_dollars")
    price_in: float = same(EngineSettings, "price_in")
    price_out: float = same(EngineSettings, "price_out")
    yes: bool = same(EngineSettings, "yes")
    ask_above_dollars: float = same(EngineSettings, "ask_above_dollars")
    require: tuple[str, ...] = option(
        (), f"Stop with an error when a source is below this: NAME=SHARE, NAME one of {', '.join(QUALITIES)}; repeat", hashed=False
    )
    seed: int = option(0, "Seed of the draw, and of sampling", at_least=0)


# Options that mean something beside another one only.
BESIDE = {
    "models": ("data", "preset", "template", "max_prompt_tokens", "max_response_tokens", "sampler"),
    "judge": (
        *("judge_model", "base_url", "api_key_env", "max_requests", "max_in_flight"),
        *("max_dollars", "price_in", "price_out", "yes", "ask_above_dollars"),
    ),
}


def run(settings: TracesSettings) -> None:
    """Count behaviors in responses, compare parser and judge, and say which go with success."""
    started = time.monotonic()
    out, least = require(settings.out, "out"), _least(settings.require)
    engine = check(settings)
    if engine is not None and settings.models and leaves_machine(engine):  # before the models are sampled, which takes long
        agree(f"what the models answer is sent to {engine.base_url}", engine.yes)
    sources: dict[str, Path] = {str(path): path for path in settings.responses}
    for place, model in enumerate(settings.models):
        sources[model] = _sampled(model, settings, out / f"model-{place}")
    read = {name: responses.read(path, settings.limit, settings.seed) for name, path in sources.items()}
    rows = [{"source": name} | row for name, found in read.items() for row in found.rows]
    for row in rows:
        row |= traces.parse(row["response"], row["numbers"], row["target"]).counts()
    if engine is not None:
        from eval.judge import judge

        for row, columns in zip(rows, judge(rows, engine, out, agreed=bool(settings.models))):
            row |= columns
    summary = {"sources": {name: profile([row for row in rows if row["source"] == name]) for name in sources}}
    files = [file for found in read.values() for file in found.files]
    left_out = [file for found in read.values() for file in found.left_out]
    manifest = Manifest(
        stage="traces",
        settings=to_dict(settings),
        inputs=files,
        rows_in=sum(file.rows for file in files),
        rows_out=len(rows),
        dropped=dict(sum((found.dropped for found in read.values()), Counter[str]())),
        model=settings.judge_model if engine is not None else None,
        engine=settings.judge if engine is not None else None,
        seed=settings.seed,
        seconds=time.monotonic() - started,
        notes={"files left out": left_out} if left_out else {},
    )
    table = pa.Table.from_pylist(rows, responses.schema(rows, traces.COUNTS, BEHAVIORS if engine is not None else ()))
    write_part(out / TABLE, table, {"stage": responses.STAGE})
    write_json(out / SUMMARY, summary)
    manifest.write(out)
    for name, found in read.items():
        show(name, summary["sources"][name])
        for file in found.left_out:
            print(f"  left out: {file} (greedy, or a table of this command; it is read when it is named)")
        for reason, count in found.dropped.items():
            print(f"  dropped: {count} × {reason}")
    for name, profiled in summary["sources"].items():
        for quality, share in least.items():
            value = profiled["qualities"][quality]
            if value is None or value < share:
                said = "nothing to judge it by" if value is None else f"{value:.3f}"
                raise UserError(f"{name}: {quality} is {said}, --require asks for {share:g}")


def check(settings: TracesSettings) -> EngineSettings | None:
    """How the judge is driven, None without one. Raises UserError for settings that cannot go together."""
    names = [*map(str, settings.responses), *settings.models]
    if not names:
        raise UserError("--responses (folders of responses) or --models with --data is needed")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{twice[0]} is named twice: its responses would be counted twice")
    given = {"models": bool(settings.models), "judge": settings.judge != "none"}
    for item in dataclasses.fields(settings):
        for other, beside in BESIDE.items():
            if item.name in beside and not given[other] and getattr(settings, item.name) != item.default:
                raise UserError(f"--{item.name.replace('_', '-')} means nothing without --{other}")
    if settings.models:
        require(settings.data, "data", "the tasks that --models answer")
    if not given["judge"]:
        return None
    if settings.judge == "openai":
        require(settings.base_url, "base-url", "the address of --judge openai")
    shared = {item.name for item in dataclasses.fields(EngineSettings)} & {*BESIDE["judge"], "seed"}
    values = {name: getattr(settings, name) for name in shared}
    return EngineSettings(engine=settings.judge, model=settings.judge_model, **values)


def _least(required: Sequence[str]) -> dict[str, float]:
    least = {}
    for item in required:
        name, _, share = item.partition("=")
        try:
            least[name] = float(share)
        except ValueError:
            raise UserError(f"--require {item!r} is not NAME=SHARE") from None
        if name not in QUALITIES:
            raise UserError(f"--require: no quality {name!r}{did_you_mean(name, QUALITIES)}; there are {', '.join(QUALITIES)}")
    return least


def profile(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and shares of every count with 95 % intervals, agreement with the judge, accuracy of what was scored, and usefulness."""
    found: dict[str, Any] = {"responses": len(rows), "counts": {}}
    for name in traces.COUNTS:
        values = np.array([row[name] for row in rows], dtype=np.float64)
        half = half_width(values) if len(values) > 1 else None
        found["counts"][name] = {"mean": values.mean(), "half_width": half, "share": float((values > 0).mean())}
    found["qualities"] = qualities(rows)
    if "judge_verification" in rows[0]:
        found["judge"] = {name: agreement(rows, name) for name in BEHAVIORS}
    correct = [row["correct"] for row in rows if row["correct"] is not None]
    if correct:
        found |= {"accuracy": float(np.mean(correct)), "scored": len(correct)}
        found["usefulness"] = {name: usefulness(rows, name) for name in (*BEHAVIORS, "implicit_verification")}
    return found


def qualities(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """How good the tries, the checks and the arithmetic are, over all responses together; None where there are none."""
    total = {name: sum(row[name] for row in rows) for name in traces.COUNTS}
    good = (
        (total["fitting_attempts"], total["attempts"]),
        (total["verification"] - total["wrong_verification"], total["verification"]),
        (total["arithmetic"] - total["wrong_arithmetic"], total["arithmetic"]),
    )
    return {name: part / of if of else None for name, (part, of) in zip(QUALITIES, good, strict=True)}


def agreement(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Judge against parser on one behavior: mean counts, kappa of presence, answers without a number, requests that failed and why."""
    from sklearn.metrics import cohen_kappa_score

    from eval.judge import CUT_OFF, FAILED

    pairs = [(row[name], row[f"judge_{name}"]) for row in rows if row[f"judge_{name}"] is not None]
    problems = [row[f"judge_{name}_problem"] for row in rows if row[f"judge_{name}"] is None]
    failed = [problem.removeprefix(FAILED) for problem in problems if problem.startswith(FAILED)]
    found: dict[str, Any] = {"answered": len(pairs), "no_number": len(problems) - len(failed), "failed": len(failed)}
    found |= {"cut_off": problems.count(CUT_OFF)}  # of those without a number
    if failed:
        found["last_failure"] = failed[-1]
    if pairs:
        parser, judged = np.array(pairs).T
        found |= {"parser_mean": parser.mean(), "judge_mean": judged.mean(), "same_presence": float(((parser > 0) == (judged > 0)).mean())}
        both = len(set(parser > 0)) > 1 or len(set(judged > 0)) > 1
        found["kappa"] = float(cohen_kappa_score(parser > 0, judged > 0)) if both else None
    return found


def show(name: str, found: dict[str, Any]) -> None:
    """One source in plain text."""
    accuracy = f", accuracy {found['accuracy']:.3f}" if "accuracy" in found else ""
    if found.get("scored", found["responses"]) < found["responses"]:
        accuracy += f" of the {found['scored']} that were scored"
    print(f"{name}: {found['responses']} responses{accuracy}; a response (share with any):")
    for key, item in found["counts"].items():
        if item["mean"]:
            spread = "" if item["half_width"] is None else f" ± {item['half_width']:.2f}"
            print(f"  {key} {item['mean']:.2f}{spread} ({item['share']:.0%})")
    print("  " + ", ".join(f"{key} {'–' if value is None else f'{value:.3f}'}" for key, value in found["qualities"].items()))
    for key, item in found.get("judge", {}).items():
        if item["answered"]:
            kappa = "undefined" if item["kappa"] is None else f"{item['kappa']:.2f}"
            print(f"  judge, {key}: mean {item['judge_mean']:.2f} (parser {item['parser_mean']:.2f}), kappa {kappa}", end="")
        else:
            print(f"  judge, {key}: no number at all", end="")
        cut_off = f" ({item['cut_off']} of them cut off)" if item["cut_off"] else ""
        print(f"; {item['no_number']} answers without a number{cut_off}, {item['failed']} requests failed", end="")
        print(f", the last: {item['last_failure']}" if item["failed"] else "")
    for key, item in found.get("usefulness", {}).items():
        if item["odds_ratio"] is not None:
            print(f"  with {key}, odds of success × {item['odds_ratio']:.2f} [{item['low']:.2f}, {item['high']:.2f}] ", end="")
            print(f"at equal length, from {item['informative_tasks']} tasks", end="")
            print(f", without {item['cut_off']} responses that were cut off" if item["cut_off"] else "")
        elif item["informative_tasks"] >= FEWEST_TASKS:
            print(f"  {key}: {item['informative_tasks']} tasks cannot tell it from length, or give the odds no bound")
        elif found["counts"][key]["mean"]:
            print(f"  {key}: only {item['informative_tasks']} tasks can tell whether it helps; {FEWEST_TASKS} are the least")


def _sampled(model: str, settings: TracesSettings, out: Path) -> Path:
    from eval import countdown

    assert settings.data is not None
    given = {name: getattr(settings, name) for name in (*BESIDE["models"], "seed") if name != "data"}
    countdown.run(countdown.CountdownSettings(model=model, data=(settings.data,), out=out, greedy=False, **given))
    return out / "responses"
