"""Tasks to prompts, prompts to scored responses, responses to Parquet rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from curate.records.errors import EngineError, UserError
from rl import scoring, tinyzero, traces
from rl.countdown import Task
from rl.prompts import render
from rl.samplers.base import Sample, Sampler, Sampling, check_prompts, uniform_noise
from rl.scoring import Score
from rl.settings import PPOSettings
from train.data import encode

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("task", pa.int64(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("numbers", pa.list_(pa.int64()), nullable=False),
        pa.field("target", pa.int64(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        *[pa.field(name, pa.int32(), nullable=False) for name in traces.COUNTS],
        pa.field("weight_version", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Prompted:
    """Tasks with their prompts, as text and as tokens, one to one."""

    tasks: list[Task]
    texts: list[str]
    tokens: list[list[int]]


@dataclass(frozen=True)
class Rollout:
    """One scored response. `group` is the place of its task in the step."""

    task: int
    group: int
    sample_number: int
    sample: Sample
    text: str
    score: Score
    trace: traces.Trace


def prompts_for(tasks: Sequence[Task], settings: PPOSettings, tokenizer: Any) -> tuple[Prompted, int]:
    """Prompts of all tasks, and how many tasks were refused because their prompt is over the limit. UserError when all are."""
    texts = [render(settings.template, numbers, target) for numbers, target in tasks]
    head = _bos(tokenizer, settings.bos)
    tokens = [head + ids for ids in encode(tokenizer, texts)] if texts else []
    refused = set(check_prompts(tokens, settings.max_prompt_tokens))
    if refused and len(refused) == len(tasks):
        longest = max(map(len, tokens))
        raise UserError(
            f"every prompt is longer than --max-prompt-tokens {settings.max_prompt_tokens} (the longest has {longest}); raise the limit"
        )
    kept = [place for place in range(len(tasks)) if place not in refused]
    return Prompted([tasks[i] for i in kept], [texts[i] for i in kept], [tokens[i] for i in kept]), len(refused)


def roll_out(
    sampler: Sampler,
    prompted: Prompted,
    places: Sequence[tuple[int, int]],
    settings: PPOSettings,
    tokenizer: Any,
    *,
    samples_per_prompt: int,
    sampling: Sampling,
    noise_seed: tuple[int, ...],
    num_groups: int,
) -> list[Rollout]:
    """Sample and score. `places` are (group, task): this rank's tasks with their places in the step of `num_groups` tasks.

    The noise is drawn for the whole step on every rank and indexed by (group, sample), so responses do not depend on who makes them.
    Raises EngineError when the sampler dies, naming the knob when memory ran out.
    """
    rows = [(group, task, number) for group, task in places for number in range(samples_per_prompt)]
    noise = uniform_noise(num_groups * samples_per_prompt, sampling.max_new_tokens, generator_for(*noise_seed))
    mine = noise[[group * samples_per_prompt + number for group, _, number in rows]]
    try:
        samples = sampler.generate([prompted.tokens[task] for _, task, _ in rows], mine, sampling)
    except (RuntimeError, OSError, MemoryError) as error:
        if out_of_memory(error):
            name, now = "max-sampler-rows", str(settings.max_sampler_rows)
            if settings.sampler == "vllm":
                name, now = "vllm-memory-share", str(settings.vllm_memory_share)
            raise EngineError(f"out of memory while sampling: lower --{name} (now {now})") from error
        raise EngineError(f"the {settings.sampler} sampler died: {str(error).strip().splitlines()[0]}") from error
    texts = tokenizer.batch_decode([sample.tokens for sample in samples], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    rollouts = []
    for (group, task, number), sample, text in zip(rows, samples, texts):
        numbers, target = prompted.tasks[task]
        trace = traces.parse(text, numbers, target)
        score = score_response(prompted.texts[task], text, numbers, target, settings)
        rollouts.append(Rollout(task, group, number, sample, text, score, trace))
    return rollouts


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or (where torch raises a plain RuntimeError) on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def score_response(prompt: str, response: str, numbers: Sequence[int], target: int, settings: PPOSettings) -> Score:
    """The score under the run's scorer."""
    if settings.scorer == "tinyzero":
        return tinyzero.score(prompt + response, numbers, target, format_reward=settings.format_reward)
    return scoring.score(
        response, numbers, target, syntax=settings.syntax, rule=settings.numbers_rule, format_reward=settings.format_reward
    )


def table(step: int, prompted: Prompted, rollouts: Sequence[Rollout]) -> pa.Table:
    """Rows of the rollouts file of one step."""
    rows = []
    for item in rollouts:
        numbers, target = prompted.tasks[item.task]
        row = {
            "step": step,
            "task": item.task,
            "sample": item.sample_number,
            "numbers": list(numbers),
            "target": target,
            "response": item.text,
            "num_tokens": len(item.sample.tokens),
            "truncated": item.sample.truncated,
            "score": item.score.value,
            "correct": item.score.correct,
            "reason": item.score.reason,
            "weight_version": item.sample.weight_version,
        }
        rows.append(row | item.trace.counts())
    return pa.Table.from_pylist(rows, SCHEMA)


def step_tasks(num_tasks: int, per_step: int, step: int, seed: int) -> list[int]:
    """Tasks of step 1, 2, …: seeded shuffles of all tasks one after another, cut into steps. Depends on nothing but its arguments."""
    first = (step - 1) * per_step
    chosen = []
    for place in range(first, first + per_step):
        epoch, index = divmod(place, num_tasks)
        chosen.append(int(_order(num_tasks, seed, epoch)[index]))
    return chosen


def generator_for(*seed: int) -> torch.Generator:
    """A torch generator from several numbers (run seed, purpose, step); different numbers, unrelated streams."""
    digest = hashlib.sha256(",".join(map(str, seed)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


_orders: dict[tuple[int, int, int], np.ndarray] = {}


def _order(num_tasks: int, seed: int, epoch: int) -> np.ndarray:
    key = (num_tasks, seed, epoch)
    if key not in _orders:
        _orders.clear()
        _orders[key] = np.random.default_rng([seed, epoch, 0x7A5C]).permutation(num_tasks)
    return _orders[key]


def _bos(tokenizer: Any, how: str) -> list[int]:
    if how == "never" or (how == "auto" and tokenizer.bos_token_id not in tokenizer("a")["input_ids"][:1]):
        return []
    if tokenizer.bos_token_id is None:
        raise UserError("--bos always, but the tokenizer has no BOS token; use --bos auto")
    return [tokenizer.bos_token_id]
