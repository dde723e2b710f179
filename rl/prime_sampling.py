"""The incorrect set as the reference code makes it: answers of a primed model, sampled at T=1, that are wrong.

What counts is a complete answer that reads as an expression, in a response that ended by itself; everything else is dropped and counted.
Which behaviors the traces show is the model's affair (`--whole-profile` asks for all four). Responses are stored part by part, so a run
that was interrupted goes on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from curate.records.errors import UserError
from curate.records.manifest import InputFile
from curate.records.parts import write_part
from curate.records.progress import progress
from rl import primed, rollouts
from rl.build import ready_sampler
from rl.countdown import Task
from rl.parts import part_is_done
from rl.prime_solver import seeded_order
from rl.prime_traces import EVERY
from rl.primed import Made
from rl.samplers.base import Sampling
from rl.settings import PPOSettings, resolve
from train.model import model_files, model_folder

if TYPE_CHECKING:
    from rl.prime import PrimeSettings

TASKS_PER_PART = 256
NOISE = 12  # purpose number of these random streams, unlike those of `rl ppo` and `evals`
WRONG = ("wrong_value", "numbers")  # a complete expression: another value, or not the numbers given
DROPPED = {"correct": "correct", "no_answer": "no answer", "empty": "no answer", "division_by_zero": "division by zero"}


def make(settings: "PrimeSettings", tasks: Sequence[Task], wanted: int, tasks_sha256: str) -> Made:
    """`wanted` wrong answers in a seeded order of tasks, at most `traces_per_task` of one task.

    Raises UserError when the folder holds no model or no tokenizer, or when the model gives too few wrong answers; EngineError when
    memory runs out.
    """
    assert settings.out is not None and settings.from_checkpoint is not None
    ordered = [tasks[place] for place in seeded_order(len(tasks), settings.seed)]
    made = Made(inputs=files_of(settings.from_checkpoint), about={"model": str(settings.from_checkpoint), "engine": "torch"})
    record = {
        "model": [file.sha256 for file in made.inputs],
        "tasks": tasks_sha256,
        **{name: getattr(settings, name) for name in ("preset", "template", "max_response_tokens", "dtype", "seed")},
    }
    seen: set[tuple[Any, ...]] = set()
    num_responses = 0
    with progress("wrong answers", wanted, unit="traces") as advance:
        for found in _responses(settings, ordered, record, made):
            before, num_responses = len(made.rows), num_responses + len(found)
            for response in found:
                if reason := why_not(response, settings.whole_profile, seen):
                    made.dropped[reason] += 1
                else:
                    task = (tuple(response["numbers"]), response["target"])
                    made.rows.append(primed.row(settings.kind, str(settings.template), task, response["response"]))
            advance(min(len(made.rows), wanted) - min(before, wanted))
            if len(made.rows) >= wanted:
                break
    made.notes["responses"] = num_responses
    made.cut(
        wanted,
        f"{settings.from_checkpoint}, after {num_responses} responses,",
        "more tasks (`rl tasks --num-train`), --traces-per-task, or fewer traces",
    )
    return made


def why_not(response: dict[str, Any], whole_profile: bool, seen: set[tuple[Any, ...]]) -> str | None:
    """Why a response (a row of `rollouts`) is not kept; None when it is. `seen` gathers the kept ones."""
    reason = response["reason"]
    if reason == "correct":
        return "correct"
    if response["truncated"]:
        return "truncated"
    if reason not in WRONG:
        return DROPPED.get(reason, "the answer is no expression")
    if whole_profile and not all(response[name] for name in EVERY):
        return "not all four behaviors"
    key = (*response["numbers"], response["target"], response["response"])
    if key in seen:
        return "the same trace again"
    seen.add(key)
    return None


def files_of(checkpoint: Path) -> list[InputFile]:
    """The files that decide what the model says: weights, configuration, tokenizer. Raises UserError when the folder holds no model."""
    folder = Path(model_folder(str(checkpoint)))
    weights = any(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        lacks = "no config.json" if weights else "no *.safetensors" if folder.is_dir() else "no such folder"
        raise UserError(f"--from-checkpoint {checkpoint} is no model ({lacks}): give the output of `train sft`, or a Hugging Face folder")
    return model_files(str(folder))


def ppo_settings(settings: "PrimeSettings") -> PPOSettings:
    """The settings of `rl ppo` with which the checkpoint is asked."""
    return resolve(
        PPOSettings(
            model=str(settings.from_checkpoint),
            preset=settings.preset,
            template=str(settings.template),
            max_response_tokens=settings.max_response_tokens,  # type: ignore[arg-type]  # None: the preset's
            max_sampler_rows=settings.max_sampler_rows,
            dtype=settings.dtype,
        )
    )


def _responses(settings: "PrimeSettings", ordered: Sequence[Task], record: dict[str, Any], made: Made) -> Iterator[list[dict[str, Any]]]:
    """Rows of `rollouts`, a part at a time: one response a task, then the next round. Parts that exist are read, not made again."""
    assert settings.out is not None
    asked = ppo_settings(settings)
    tokenizer, sampler = ready_sampler(asked, settings.device, settings.out)
    prompted, refused = rollouts.prompts_for(ordered, asked, tokenizer)
    if refused:
        made.dropped[f"prompt over {asked.max_prompt_tokens} tokens"] = refused
    number_of_tasks = len(prompted.tasks)
    for number in range(settings.traces_per_task):
        for first in range(0, number_of_tasks, TASKS_PER_PART):
            path = settings.out / "responses" / f"round-{number:04d}-{first:07d}.parquet"
            if not part_is_done(path, record):
                places = range(first, min(first + TASKS_PER_PART, number_of_tasks))
                found = rollouts.roll_out(
                    sampler,
                    prompted,
                    list(zip(range(len(places)), places)),
                    asked,
                    tokenizer,
                    samples_per_prompt=1,
                    sampling=Sampling(asked.max_response_tokens, 1.0),
                    noise_seed=(settings.seed, NOISE, number, first),
                    num_groups=len(places),
                )
                write_part(path, rollouts.table(number, prompted, found), {"settings": record})
            yield pq.read_table(path).to_pylist()
