"""A model ready to answer Countdown tasks, through the samplers of `rl`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rl import rollouts
from rl.build import ready_sampler
from rl.countdown import Task
from rl.rollouts import Prompted, Rollout
from rl.samplers.base import Sampler, Sampling, uniform_noise
from rl.scoring import CLOSE
from rl.settings import PPOSettings, resolve

if TYPE_CHECKING:
    from eval.countdown import CountdownSettings
    from eval.mathematics import MathSettings

TO_ANSWER = "tokens_to_answer"


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
        """Responses to the tasks at `places` as a table `rollouts`, with `tokens_to_answer`: tokens to the end of the last answer, or
        of the response when there is none."""
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
        return rollouts.table(0, prompted, found).append_column(
            TO_ANSWER, pa.array([self.tokens_to_answer(item) for item in found], pa.int32())
        )

    def tokens_to_answer(self, item: Rollout) -> int:
        """Tokens up to the end of the answer that was scored; all of them when there is none."""
        tokens, wanted = item.sample.tokens, item.text.count(CLOSE)
        if not wanted:
            return len(tokens)
        low, high = 1, len(tokens)
        while low < high:
            middle = (low + high) // 2
            if self.tokenizer.decode(tokens[:middle], skip_special_tokens=True).count(CLOSE) < wanted:
                low = middle + 1
            else:
                high = middle
        return low


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
