"""A model ready to answer Countdown tasks, through the samplers of `rl`."""

import dataclasses
import functools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from curate.records.manifest import InputFile
from curate.records.settings import to_dict
from rl import rollouts
from rl.build import ready_sampler
from rl.countdown import Task
from rl.rollouts import Prompted
from rl.samplers.base import Sampler, Sampling, Token, uniform_noise
from rl.scoring import CLOSE
from rl.settings import PPOSettings, resolve
from rl.tinyzero import MARKERS

if TYPE_CHECKING:
    from eval.countdown import CountdownSettings
    from eval.mathematics import MathSettings

VERDICTS = pa.field("verdicts", pa.list_(pa.struct([("tokens", pa.int32()), ("correct", pa.bool_())])))
# where a scorer's verdict on a prefix can change: the reference's reads the last line of what follows a marker
MARKS = {"exact": (CLOSE,), "tinyzero": (CLOSE, "\n", *MARKERS)}


@dataclass
class Loaded:
    """Model, tokenizer and sampler, with the settings of `rl ppo` that say how tasks are put and scored."""

    settings: PPOSettings
    tokenizer: Any
    sampler: Sampler

    @classmethod
    def load(cls, given: "CountdownSettings") -> "Loaded":
        """Raises UserError when the model or its tokenizer cannot be loaded, EngineError when the sampler cannot start."""
        settings = rollout_settings(given)
        assert given.out is not None
        return cls(settings, *ready_sampler(settings, given.device, given.out))

    def prompts(self, tasks: Sequence[Task]) -> tuple[Prompted, int]:
        """Tasks as prompts, and how many were refused as too long."""
        return rollouts.prompts_for(tasks, self.settings, self.tokenizer)

    def respond(self, prompted: Prompted, places: range, samples: int, temperature: float, seed: tuple[int, ...]) -> pa.Table:
        """Responses to the tasks at `places` as a table `rollouts`, with their `verdicts`."""
        found = rollouts.roll_out(
            self.sampler,
            prompted,
            list(zip(range(len(places)), places)),
            self.settings,
            self.tokenizer,
            samples_per_prompt=samples,
            sampling=Sampling(self.settings.max_response_tokens, temperature),
            noise_seed=seed,
            num_groups=len(places),
        )
        verdicts = [self.verdicts(item.sample.tokens, prompted.texts[item.task], prompted.tasks[item.task]) for item in found]
        return rollouts.table(0, prompted, found).append_column(VERDICTS, pa.array(verdicts, VERDICTS.type))

    def verdicts(self, tokens: Sequence[Token], prompt: str, task: Task) -> list[dict[str, Any]]:
        """What the scorer says of a response's prefixes: `correct` from `tokens` tokens on, until the next one; before the first, wrong.

        There is one for every closed answer (and for what else changes the verdict of the scorer), so a right answer that is followed by
        another problem's is right within a budget that ends between the two.
        """
        marks = MARKS[self.settings.scorer]

        @functools.cache
        def prefix(length: int) -> str:
            return self.tokenizer.decode(tokens[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)

        def seen(length: int) -> int:
            return sum(prefix(length).count(mark) for mark in marks)

        found: list[dict[str, Any]] = []
        length, before, total = 0, 0, seen(len(tokens))
        while before < total:
            length = min(bisect_left(range(len(tokens) + 1), before + 1, lo=length, key=seen), len(tokens))
            before = max(before + 1, seen(length))
            correct = rollouts.score_response(prompt, prefix(length), *task, self.settings).correct
            found.append({"tokens": length, "correct": correct})
        return found


def record_of(given: "CountdownSettings | MathSettings", model: Sequence[InputFile], data: Sequence[InputFile]) -> dict[str, Any]:
    """What stored responses depend on: settings, and the contents of the model's files and of the tasks. A path alone says neither."""
    hashes = {"model_sha256": [file.sha256 for file in model], "data_sha256": [file.sha256 for file in data]}
    return to_dict(given, hashed_only=True) | hashes


def load_sampler(given: "MathSettings") -> tuple[Any, Sampler]:
    """Tokenizer and sampler of a model, without any task. Raises UserError or EngineError."""
    assert given.out is not None
    settings = dataclasses.replace(
        resolve(PPOSettings(model=given.model, sampler=given.sampler, dtype=given.dtype, max_sampler_rows=given.max_sampler_rows)),
        max_prompt_tokens=given.max_prompt_tokens,
        max_response_tokens=given.max_response_tokens,
    )
    tokenizer, sampler = ready_sampler(settings, given.device, given.out)
    return tokenizer, sampler


def generate_texts(
    tokenizer: Any, sampler: Sampler, prompts: Sequence[Sequence[int]], given: "MathSettings", noise_seed: tuple[int, ...]
) -> list[dict[str, Any]]:
    """One response a prompt: text, tokens, whether it was cut off."""
    noise = uniform_noise(len(prompts), given.max_response_tokens, rollouts.generator_for(*noise_seed))
    made = sampler.generate(prompts, noise, Sampling(given.max_response_tokens, given.temperature))
    texts = tokenizer.batch_decode([sample.tokens for sample in made], skip_special_tokens=True)
    return [{"response": text, "num_tokens": len(s.tokens), "truncated": s.truncated} for text, s in zip(texts, made)]


def rollout_settings(given: "CountdownSettings") -> PPOSettings:
    """The settings of `rl ppo` that put and score tasks as `given` asks; the preset fills in the rest. Raises UserError."""
    names = {item.name for item in dataclasses.fields(PPOSettings)}
    values = {
        item.name: getattr(given, item.name)
        for item in dataclasses.fields(given)
        if item.name in names - {"data", "out"} and getattr(given, item.name) is not None
    }
    return dataclasses.replace(resolve(PPOSettings(**values)), format_reward=0.0)
