"""The protocol of an engine, and the records that go in and come out.

Requests are read lazily from an iterable and results come back as they finish, in any order, each with the key of its request, so
an engine is kept full across documents and chunks. A request that the engine cannot serve comes back with `error`; an engine that
dies raises EngineError.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

LABELS = ("yes", "no")


@dataclass(frozen=True)
class Prompt:
    """One user turn in three pieces, and the opening of the assistant's.

    `head` (instructions and definitions) is the same for a whole run and `body` (a window of a document) for several questions, so
    both are served from the prefix cache; `tail` is the question. `opening` starts the assistant's turn. All four are data: control
    tokens inside them are encoded as text.
    """

    head: str
    body: str
    tail: str
    opening: str = ""


@dataclass(frozen=True)
class ScoreRequest:
    """Ask for the probability of a yes against a no as the next word after `prompt`."""

    key: Hashable
    prompt: Prompt


@dataclass(frozen=True)
class Score:
    """`probability` of yes among yes and no; `label_mass` is what the model gives to both together (near 0: it did not understand)."""

    key: Hashable
    probability: float = float("nan")
    label_mass: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class GenerateRequest:
    """Ask for a text after `prompt`, ending at `stop`, the end of the turn, or `max_tokens`."""

    key: Hashable
    prompt: Prompt
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class Generation:
    """`text` begins with the prompt's opening where the engine continued it; `truncated` says that `max_tokens` ended it."""

    key: Hashable
    text: str = ""
    truncated: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What goes into manifests: which engine, which model, which revision. `calibrated`: its probabilities were fitted to labels."""

    engine: str
    model: str
    revision: str | None
    stand_in: bool = False
    calibrated: bool = False


class Engine(Protocol):
    """What every engine offers; `curate.engines.settings.make_engine` starts one and frees it."""

    info: EngineInfo

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        """Probabilities for each request."""
        ...

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generation]:
        """Texts for each request."""
        ...

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether the prompt and `max_tokens` more fit into the model's context; True where only the server knows."""
        ...

    def prefix_chars(self, text: str, max_tokens: int) -> int:
        """Characters of `text` in its first `max_tokens` tokens; four a token where only the server knows."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def label_score(key: Hashable, yes: float, no: float, min_label_mass: float, prompt_tokens: int, cached_tokens: int) -> Score:
    """A `Score` from the probabilities of the two labels; with too little mass on them it is an error, never a silent 0.5."""
    mass = yes + no
    if not mass > min_label_mass:
        problem = f"label mass {mass:.2g} is not above {min_label_mass:g}: the model did not answer yes or no"
        return Score(key, label_mass=mass, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, error=problem)
    return Score(key, yes / mass, mass, prompt_tokens, cached_tokens)
