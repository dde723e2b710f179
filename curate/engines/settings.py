"""Settings that every engine-driven command shares, and the one place where an engine is made from them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from curate.engines.base import Engine
from curate.engines.models import DEFAULT_MODEL
from curate.records.errors import UserError
from curate.records.manifest import json_sha256
from curate.records.settings import option

ENGINES = ("vllm", "openai")
STUDENT_ENGINES = ("student", "cascade")  # they label and cannot write
STUDENT_NAME = "student"
LABEL_ENGINES = (*ENGINES, *STUDENT_ENGINES)


@dataclass(frozen=True)
class EngineSettings:
    """Which engine, which model, and how it is driven."""

    engine: str = option(
        "vllm",
        "Engine: vllm in process; openai for any OpenAI-compatible endpoint; student, a small classifier on the CPU; cascade, the student "
        "on everything and a language model where it is not sure that there is nothing.",
        choices=LABEL_ENGINES,
    )
    model: str = option(DEFAULT_MODEL, "Hub name, local folder, or smollm2-135m (the embedded stand-in for machines without a GPU).")
    revision: str | None = option(None, "Commit or tag of the model on the hub.")
    student: Path | None = option(None, "Student of `curate distill`: its folder or file (default: the one that ships).", hashed=False)
    cascade_engine: str = option("vllm", "Engine of the cascade's language model.", choices=ENGINES)
    cascade_below: float = option(
        0.1, "The cascade leaves a document to the student when every score is below this (see the student's card).", at_least=0
    )
    audit_share: float = option(0.02, "Share of all documents that the cascade's language model labels in any case.", at_least=0)
    seed: int = option(0, "Seed of everything random in this stage.", at_least=0)
    max_model_tokens: int = option(8192, "Context length that the engine is started with.", at_least=64)
    min_label_mass: float = option(0.05, "Probability on yes and no together below which a label is an error.")
    max_in_flight: int = option(256, "Requests kept in flight.", hashed=False, at_least=1)
    tensor_parallel_size: int = option(1, "GPUs that one engine is spread over (vllm).", hashed=False, at_least=1)
    quantization: str | None = option(None, "vLLM quantization, for example fp8.")
    engine_args: tuple[str, ...] = option((), "Any other vLLM engine argument as name=value (value read as JSON), repeatable.")
    chat_template: Path | None = option(None, "File with a chat template, for a model that has none.")
    trust_remote_code: bool = option(False, "Let the model's repository run its own code.")
    base_url: str | None = option(None, "Address of the endpoint, for example http://localhost:8000/v1 (openai).", hashed=False)
    api_key_env: str = option("OPENAI_API_KEY", "Environment variable that holds the endpoint's key (openai).", hashed=False)
    timeout_seconds: float = option(120.0, "Longest wait for one answer (openai).", hashed=False, at_least=0.01)
    max_retries: int = option(6, "Tries after a time-out, a 429 or a 5xx, with back-off (openai).", hashed=False, at_least=0)
    max_requests: int | None = option(None, "Stop after this many requests (openai).", hashed=False, at_least=0)
    max_dollars: float | None = option(
        None, "Stop when the answers have cost this much (openai; needs the prices).", hashed=False, at_least=0
    )
    price_in: float = option(0.0, "Dollars per million prompt tokens (openai).", hashed=False, at_least=0)
    price_out: float = option(0.0, "Dollars per million generated tokens (openai).", hashed=False, at_least=0)

    yes: bool = option(
        False, "Agree beforehand to what would be asked: texts that leave this machine, work above a threshold.", secret=True
    )
    ask_above_hours: float = option(24.0, "Ask before work of more than this many hours, GPU-hours where there are GPUs.", hashed=False)
    ask_above_dollars: float = option(1.0, "Ask before spending more than this (needs the prices).", hashed=False)

    def chat_template_text(self) -> str | None:
        """The template's text, or None for the tokenizer's own."""
        if self.chat_template is None:
            return None
        try:
            return Path(self.chat_template).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the chat template {self.chat_template}: {error}") from None

    def extra_arguments(self) -> dict[str, Any]:
        """`engine_args` as a dictionary; a value that is not JSON is taken as text."""
        arguments: dict[str, Any] = {}
        for item in self.engine_args:
            name, equals, value = item.partition("=")
            if not equals:
                raise UserError(f"--engine-args {item!r} is not of the form name=value")
            try:
                arguments[name.replace("-", "_")] = json.loads(value)
            except json.JSONDecodeError:
                arguments[name.replace("-", "_")] = value
        return arguments


_kept: dict[str, Engine] | None = None


@contextmanager
def keep_engines() -> Iterator[None]:
    """Inside this block engines stay loaded and are shared by stages with the same settings: a model is loaded once a run."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        engines, _kept = _kept, None
        for engine in engines.values():
            engine.close()


@contextmanager
def make_engine(settings: EngineSettings) -> Iterator[Engine]:
    """The engine that the settings name, freed at the end of the block (unless `keep_engines` is around it).

    Raises EngineError or UserError with what to do.
    """
    key = json_sha256({item.name: str(getattr(settings, item.name)) for item in fields(EngineSettings)})
    engine = (_kept or {}).get(key) or _start_engine(settings)
    if _kept is not None:
        _kept[key] = engine
    try:
        yield engine
    finally:
        if _kept is None:
            engine.close()


def _start_engine(settings: EngineSettings) -> Engine:
    if settings.engine in STUDENT_ENGINES:
        raise UserError(f"the engine {settings.engine} labels documents; it cannot do this")
    if settings.engine == "openai":
        from curate.engines.openai import OpenAIEngine

        return OpenAIEngine(settings)
    from curate.engines.vllm import VllmEngine

    return VllmEngine(settings)
