"""A model ready to answer Countdown tasks, through the samplers of `rl`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from rl import rollouts
from rl.build import make_sampler
from rl.countdown import Task
from rl.rollouts import Prompted, Rollout
from rl.samplers.base import Sampler, Sampling
from rl.scoring import CLOSE
from rl.settings import PPOSettings, resolve
from train.model import compute_dtype, load_model, load_tokenizer

if TYPE_CHECKING:
    from eval.countdown import CountdownSettings

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
        name = str(settings.model)
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if given.device == "auto" else given.device)
        tokenizer = load_tokenizer(name)
        dtype = compute_dtype(settings.dtype, device)
        model = load_model(name, seed=settings.seed, dtype=dtype, tokenizer=tokenizer).to(device).eval()
        model.requires_grad_(False)
        vocab_size = min(len(tokenizer), model.get_input_embeddings().weight.shape[0])
        assert given.out is not None
        sampler = make_sampler(settings, model, tokenizer, vocab_size, given.out)
        sampler.wake()
        sampler.load_weights(0)
        return cls(settings, tokenizer, sampler)

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


def rollout_settings(given: "CountdownSettings") -> PPOSettings:
    """The settings of `rl ppo` that put and score tasks as `given` asks; the preset fills in the rest. Raises UserError."""
    names = {item.name for item in dataclasses.fields(PPOSettings)}
    values = {
        item.name: getattr(given, item.name)
        for item in dataclasses.fields(given)
        if item.name in names - {"data", "out"} and getattr(given, item.name) is not None
    }
    return dataclasses.replace(resolve(PPOSettings(**values)), format_reward=0.0)
