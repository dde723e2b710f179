"""The labelling and rewriting engine on vLLM, in process. The one file of curate/ that imports vLLM."""

import asyncio
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

from curate.engines.base import EngineInfo, GenerateRequest, Generation, Prompt, Score, ScoreRequest, label_score
from curate.engines.lifeline import children_end_with_us
from curate.engines.models import has_gpu, resolve_model
from curate.engines.rendering import PromptRenderer
from curate.engines.rolling import EventLoopThread
from curate.engines.settings import EngineSettings
from curate.records.errors import EngineError, UserError


class VllmEngine:
    """One AsyncLLM for both kinds of request, kept full by a rolling window.

    Scoring reads the log-probabilities of the label tokens after one prefill (`logprob_token_ids`); never `prompt_logprobs`, which
    turns reads of the prefix cache off. Requests that share a prefix must be adjacent in the iterable.
    """

    def __init__(self, settings: EngineSettings) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            from vllm import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineError(
                f"the vllm engine cannot be imported ({error}); `make install` for a CPU, `pip install 'fourhabits[gpu]'` for a GPU"
            ) from None
        if not has_gpu():  # by default vLLM binds every engine of a machine to the same cores, and leaves one core idle
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        source = resolve_model(settings.model, settings.revision, settings.trust_remote_code)
        self.info = EngineInfo("vllm", source.name, source.revision, source.stand_in)
        self._renderer = PromptRenderer(_tokenizer(source.location, settings), settings.chat_template_text())
        self._window = settings.max_in_flight
        self._min_label_mass = settings.min_label_mass
        self._count = 0
        self._label_ids: dict[str, dict[str, list[int]]] = {}
        self._threads = EventLoopThread()
        arguments = AsyncEngineArgs(**_engine_arguments(source.location, settings))
        try:
            with children_end_with_us():
                self._llm: Any = self._threads.run(_start(AsyncLLM, arguments))
        except Exception as error:
            self._threads.close()
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EngineError(f"vLLM could not start {settings.model}: {reason}") from error
        self._context = int(self._llm.model_config.max_model_len)

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        return len(self._renderer.encode(prompt)) + max_tokens <= self._context

    def prefix_chars(self, text: str, max_tokens: int) -> int:
        return self._renderer.prefix_chars(text, max_tokens)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        return self._threads.stream(requests, self._score_one, self._window)

    def generate(self, requests: Iterable[GenerateRequest]) -> Iterator[Generation]:
        return self._threads.stream(requests, self._generate_one, self._window)

    async def _score_one(self, request: ScoreRequest) -> Score:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        opening = request.prompt.opening
        if opening not in self._label_ids:
            self._label_ids[opening] = self._renderer.label_ids(opening)
        ids = self._label_ids[opening]
        prompt_ids = self._renderer.encode(request.prompt)
        if len(prompt_ids) + 1 > self._context:
            return Score(request.key, error=f"prompt of {len(prompt_ids)} tokens exceeds the context of {self._context}")
        wanted = [*ids["yes"], *ids["no"]]
        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=wanted, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        output = await self._run(prompt_ids, parameters)
        logprobs = output.outputs[0].logprobs[0]
        yes, no = (sum(math.exp(logprobs[token].logprob) for token in ids[label] if token in logprobs) for label in ("yes", "no"))
        cached = output.num_cached_tokens or 0
        return label_score(request.key, yes, no, self._min_label_mass, len(prompt_ids), cached)

    async def _generate_one(self, request: GenerateRequest) -> Generation:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt_ids = self._renderer.encode(request.prompt)
        if len(prompt_ids) + request.max_tokens > self._context:
            return Generation(
                request.key, error=f"prompt of {len(prompt_ids)} tokens and {request.max_tokens} more exceed the context of {self._context}"
            )
        parameters = SamplingParams(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed if request.temperature > 0 else None,
            stop=list(request.stop) or None,
            frequency_penalty=request.frequency_penalty,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._run(prompt_ids, parameters)
        done = output.outputs[0]
        return Generation(
            request.key,
            request.prompt.opening + done.text,
            done.finish_reason == "length",
            len(prompt_ids),
            len(done.token_ids),
            output.num_cached_tokens or 0,
        )

    async def _run(self, prompt_ids: list[int], parameters: Any) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        self._count += 1
        stream = self._llm.generate({"prompt_token_ids": prompt_ids}, parameters, request_id=str(self._count))
        try:
            return [output async for output in stream][-1]
        except EngineDeadError as error:
            raise EngineError(f"vLLM died while running {self.info.model}; finished chunks are kept, run the same command again") from error

    def close(self) -> None:
        self._threads.run(_stop_reading(self._llm))
        self._llm.shutdown()
        self._llm = None  # its destructor shuts down once more, which fails noisily at interpreter exit
        self._threads.close()


async def _start(async_llm: Any, arguments: Any) -> Any:
    await asyncio.sleep(0)
    return async_llm.from_engine_args(arguments)


async def _stop_reading(llm: Any) -> None:
    """End the task that reads the core's outputs: vLLM ends the core first, and the task may report its death before it is told to go."""
    reader = getattr(llm, "output_handler", None)
    if reader is not None:
        reader.cancel()
        await asyncio.wait([reader], timeout=10)


def _tokenizer(location: str, settings: EngineSettings) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(location, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the tokenizer of {settings.model!r}: {str(error).splitlines()[0]}") from None


def _engine_arguments(location: str, settings: EngineSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": location,
        "revision": None if os.path.isdir(location) else settings.revision,
        "max_model_len": settings.max_model_tokens,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "trust_remote_code": settings.trust_remote_code,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "seed": settings.seed,
    }
    if settings.quantization:
        arguments["quantization"] = settings.quantization
    if not has_gpu():
        # Small blocks waste less of a shared prefix; compiling costs more than it returns on short CPU runs. A prompt prefilled in
        # pieces together with a seed of its own kills vLLM's CPU worker ("CPU Generator does not use offset").
        arguments |= {"block_size": 32, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 30, "max_num_seqs": 32}
        arguments |= {"enable_chunked_prefill": False, "max_num_batched_tokens": settings.max_model_tokens}
    return arguments | settings.extra_arguments()
