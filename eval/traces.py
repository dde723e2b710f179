"""`evals traces`: which behaviors responses show, by the exact parser and by a judge, and whether they are of use.

Usefulness is asked within a task: of several responses to one task, do those with a behavior succeed more often, at equal length? By
conditional logistic regression (statsmodels' `ConditionalLogit`), which only tasks with both a right and a wrong response inform.
It describes what goes with success in one model's samples; it is not an experiment.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.engines.settings import EngineSettings
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.parts import write_json, write_part
from curate.records.settings import did_you_mean, option, to_dict
from eval.curves import BEHAVIORS
from eval.statistics import half_width
from rl import traces

SUMMARY, TABLE = "traces.json", "traces.parquet"
FEWEST_TASKS = 10  # informative tasks below which no odds ratio is given
NEEDED = ("numbers", "target", "response")
QUALITIES = ("success_per_try", "checks_right", "arithmetic_right")


@dataclass(frozen=True)
class TracesSettings:
    """Settings of `evals traces`."""

    responses: tuple[Path, ...] = option((), "Folders or Parquet files of responses (rollouts/, evaluations/, `evals countdown`); repeat")
    models: tuple[str, ...] = option((), "Models to sample and profile instead; repeat; needs --data")
    data: Path | None = option(None, "Tasks for --models: a folder of `rl tasks`")
    preset: str = option("four-habits", "Prompt and limits for --models", choices=("four-habits", "modern", "tiny"))
    out: Path | None = option(None, "Folder for traces.parquet, traces.json and manifest.json", hashed=False)
    limit: int | None = option(None, "Only so many responses of each, drawn at random", at_least=1)
    judge: str = option("none", "Also ask a language model: none, openai, or vllm", choices=("none", "openai", "vllm"))
    judge_model: str = option("gpt-4o-mini", "Model of the judge")
    base_url: str | None = option(None, "Address of the judge's endpoint (openai)", hashed=False)
    api_key_env: str = option("OPENAI_API_KEY", "Environment variable with the endpoint's key (openai)", hashed=False)
    max_requests: int | None = option(None, "Stop the judge after so many requests", hashed=False, at_least=0)
    max_in_flight: int = option(64, "Requests to the judge at once", hashed=False, at_least=1)
    require: tuple[str, ...] = option(
        (), f"Stop with an error when a source is below this: NAME=SHARE, NAME one of {', '.join(QUALITIES)}; repeat", hashed=False
    )
    seed: int = option(0, "Seed of the draw", at_least=0)


def run(settings: TracesSettings) -> None:
    """Count behaviors in responses, compare parser and judge, and say which go with success."""
    started = time.monotonic()
    out, least = require(settings.out, "out"), _least(settings.require)
    sources = list(settings.responses)
    for place, model in enumerate(settings.models):
        sources.append(_sampled(model, settings, out / f"model-{place}"))
    if not sources:
        raise UserError("--responses (folders of responses) or --models with --data is needed")
    names = [*map(str, settings.responses), *settings.models]
    read = [(name, *read_responses(source, settings)) for name, source in zip(names, sources)]
    rows = [{"source": name} | row for name, found, _ in read for row in found]
    for row in rows:
        row |= traces.parse(row["response"], row["numbers"], row["target"]).counts()
    summary: dict[str, Any] = {"sources": {}}
    if settings.judge != "none":
        from eval.judge import judge

        for row, counts in zip(rows, judge(rows, _engine(settings))):
            row |= {f"judge_{name}": count for name, count in counts.items()}
    for name, _, _ in read:
        summary["sources"][name] = profile([row for row in rows if row["source"] == name])
    files = [file for _, _, used in read for file in used]
    total = sum(file.rows for file in files)
    manifest = Manifest(
        stage="traces",
        settings=to_dict(settings),
        inputs=files,
        rows_in=total,
        rows_out=len(rows),
        dropped={"not drawn (--limit)": total - len(rows)} if total > len(rows) else {},
        model=settings.judge_model if settings.judge != "none" else None,
        engine=settings.judge if settings.judge != "none" else None,
        seed=settings.seed,
        seconds=time.monotonic() - started,
    )
    write_part(out / TABLE, pa.Table.from_pylist(rows))
    write_json(out / SUMMARY, summary)
    manifest.write(out)
    for name, found in summary["sources"].items():
        show(name, found)
    for name, found in summary["sources"].items():
        for quality, share in least.items():
            value = found["qualities"][quality]
            if value is None or value < share:
                said = "nothing to judge it by" if value is None else f"{value:.3f}"
                raise UserError(f"{name}: {quality} is {said}, --require asks for {share:g}")


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


def read_responses(source: Path, settings: TracesSettings) -> tuple[list[dict[str, Any]], list[InputFile]]:
    """Rows with numbers, target, response and what of task, correct and num_tokens there is; and the files. Raises UserError."""
    files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
    if not files:
        raise UserError(f"no Parquet files in {source}" if source.exists() else f"{source} does not exist")
    rows: list[dict[str, Any]] = []
    inputs = []
    for file in files:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {file}: {str(error).splitlines()[0]}") from None
        if missing := [name for name in NEEDED if name not in table.column_names]:
            raise UserError(f"{file} has no column {missing[0]}; responses need {', '.join(NEEDED)}")
        inputs.append(InputFile(str(file), file_sha256(file), table.num_rows, file.stat().st_size))
        kept = [name for name in (*NEEDED, "task", "correct", "num_tokens", "step") if name in table.column_names]
        rows += table.select(kept).to_pylist()
    if settings.limit is not None and settings.limit < len(rows):
        chosen = np.random.default_rng([settings.seed, len(rows)]).choice(len(rows), settings.limit, replace=False)
        rows = [rows[place] for place in sorted(chosen.tolist())]
    return rows, inputs


def profile(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and shares of every count with 95 % intervals, agreement with the judge, and usefulness."""
    found: dict[str, Any] = {"responses": len(rows), "counts": {}}
    for name in traces.COUNTS:
        values = np.array([row[name] for row in rows], dtype=np.float64)
        half = half_width(values) if len(values) > 1 else None
        found["counts"][name] = {"mean": values.mean(), "half_width": half, "share": float((values > 0).mean())}
    found["qualities"] = qualities(rows)
    if rows and "judge_verification" in rows[0]:
        found["judge"] = {name: agreement(rows, name) for name in BEHAVIORS}
    if rows and all(key in rows[0] for key in ("task", "correct", "num_tokens")):
        found["accuracy"] = float(np.mean([row["correct"] for row in rows]))
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
    """Judge against parser on one behavior: mean counts, kappa of presence, answers without a number."""
    from sklearn.metrics import cohen_kappa_score

    pairs = [(row[name], row[f"judge_{name}"]) for row in rows if row[f"judge_{name}"] is not None]
    found: dict[str, Any] = {"answered": len(pairs), "unanswered": len(rows) - len(pairs)}
    if pairs:
        parser, judged = np.array(pairs).T
        found |= {"parser_mean": parser.mean(), "judge_mean": judged.mean(), "same_presence": float(((parser > 0) == (judged > 0)).mean())}
        both = len(set(parser > 0)) > 1 or len(set(judged > 0)) > 1
        found["kappa"] = float(cohen_kappa_score(parser > 0, judged > 0)) if both else None
    return found


def usefulness(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Odds ratio of success for a response with the behavior against one without, same task (and step), same length (log tokens)."""
    from statsmodels.discrete.conditional_models import ConditionalLogit

    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row.get("step"), row["task"]), []).append(row)
    mixed = [group for group in groups.values() if len({row["correct"] for row in group}) == 2]
    varied = [group for group in mixed if len({row[name] > 0 for row in group}) == 2]
    found: dict[str, Any] = {"informative_tasks": len(varied), "odds_ratio": None, "low": None, "high": None}
    if len(varied) < FEWEST_TASKS:
        return found
    correct = [int(row["correct"]) for group in mixed for row in group]
    shown = [int(row[name] > 0) for group in mixed for row in group]
    length = [np.log(max(row["num_tokens"], 1)) for group in mixed for row in group]
    of_group = [place for place, group in enumerate(mixed) for _ in group]
    exog = np.column_stack([shown, np.array(length) - np.mean(length)])
    if np.std(length) == 0:
        exog = exog[:, :1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # groups without both outcomes were left out; a fit that fails shows in its interval
        fitted = ConditionalLogit(np.array(correct), exog, groups=np.array(of_group)).fit(disp=False)
    low, high = fitted.conf_int()[0]
    if not np.isfinite([fitted.params[0], low, high]).all():
        return found
    return found | {"odds_ratio": float(np.exp(fitted.params[0])), "low": float(np.exp(low)), "high": float(np.exp(high))}


def show(name: str, found: dict[str, Any]) -> None:
    """One source in plain text."""
    accuracy = f", accuracy {found['accuracy']:.3f}" if "accuracy" in found else ""
    print(f"{name}: {found['responses']} responses{accuracy}; a response (share with any):")
    for key, item in found["counts"].items():
        if item["mean"]:
            spread = "" if item["half_width"] is None else f" ± {item['half_width']:.2f}"
            print(f"  {key} {item['mean']:.2f}{spread} ({item['share']:.0%})")
    print("  " + ", ".join(f"{key} {'–' if value is None else f'{value:.3f}'}" for key, value in found["qualities"].items()))
    for key, item in found.get("judge", {}).items():
        if item["answered"]:
            kappa = "undefined" if item["kappa"] is None else f"{item['kappa']:.2f}"
            print(f"  judge, {key}: mean {item['judge_mean']:.2f} (parser {item['parser_mean']:.2f}), kappa {kappa}, ", end="")
            print(f"{item['unanswered']} without a number")
        else:
            print(f"  judge, {key}: no answer held a number")
    for key, item in found.get("usefulness", {}).items():
        if item["odds_ratio"] is not None:
            print(f"  with {key}, odds of success × {item['odds_ratio']:.2f} [{item['low']:.2f}, {item['high']:.2f}] ", end="")
            print(f"at equal length, from {item['informative_tasks']} tasks")
        elif found["counts"][key]["mean"]:
            print(f"  {key}: only {item['informative_tasks']} tasks can tell whether it helps; {FEWEST_TASKS} are the least")


def _sampled(model: str, settings: TracesSettings, out: Path) -> Path:
    from eval import countdown

    data = require(settings.data, "data", "the tasks that --models answer")
    countdown.run(countdown.CountdownSettings(model=model, data=(data,), out=out, preset=settings.preset, greedy=False, seed=settings.seed))
    return out / "responses"


def _engine(settings: TracesSettings) -> EngineSettings:
    return EngineSettings(
        engine=settings.judge,
        model=settings.judge_model,
        base_url=settings.base_url,
        api_key_env=settings.api_key_env,
        max_requests=settings.max_requests,
        max_in_flight=settings.max_in_flight,
        seed=settings.seed,
    )
