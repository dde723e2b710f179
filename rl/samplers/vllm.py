"""Sampling with vLLM in this process; the only file of `rl` that imports it. Weights are pushed in place, nothing goes over disk.

vLLM's weight-update API for GPUs (NCCL, CUDA IPC) serves engines in other processes and has changed shape twice; here engine and trainer
share a process, so `reload_weights` with an iterator over the actor's tensors does, on GPUs and on the CPU build alike. (`apply_model` with
the model's own `load_weights` does not on the CPU: there the loaded weights were repacked, and know no loader any more.) Order: wake, push,
drop cached prefixes, generate, sleep.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curate.engines.lifeline import children_end_with_us
from curate.records.errors import EngineError
from rl.samplers.base import Sample, Sampling, Token
from train.state import full_tensor

OLDEST, NEWEST = (0, 28), (0, 33)


class VLLMSampler:
    """`actor` gives the weights, `folder` the configuration and tokenizer. `version` is what the engine holds now."""

    def __init__(
        self, actor: Any, folder: Path, vocab_size: int, stop: Sequence[Token], max_model_tokens: int, memory_share: float = 0.3
    ) -> None:
        # the engine must live in this process for weights to be pushed without copies
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            import vllm
        except ImportError:
            raise EngineError("--sampler vllm needs vLLM: pip install fourhabits[gpu]; or use --sampler torch") from None
        check_version(vllm.__version__)
        self.actor, self.vocab_size, self.stop, self.version = actor, vocab_size, list(stop), -1
        self.on_gpu = torch.cuda.is_available()
        arguments: dict[str, Any] = {
            "model": str(folder),
            "skip_tokenizer_init": True,
            "dtype": "bfloat16" if self.on_gpu else "float32",  # its `auto` makes half precision of float32 weights
            "logprobs_mode": "processed_logprobs",  # of the distribution that is sampled from; the default ignores the temperature
            "max_model_len": max_model_tokens,
            "gpu_memory_utilization": memory_share,
            "enable_sleep_mode": self.on_gpu,
            "enforce_eager": not self.on_gpu,
            "generation_config": "vllm",  # not the model's own sampling defaults
            "seed": 0,
        }
        try:
            # what vLLM starts beside this process must not outlive it with the memory it holds
            with children_end_with_us():
                self.engine = vllm.LLM(**arguments)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"vLLM cannot start with {folder}: {str(error).strip().splitlines()[-1]}") from error
        self.parameters = vllm.SamplingParams
        self.asleep = False

    def load_weights(self, version: int) -> None:
        """Push the actor's weights, all of them, and forget cached prefixes of the old ones."""
        if version == self.version:
            return
        assert not self.asleep, "weights pushed into a sleeping engine are lost: wake first"
        self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": _weights(self.actor)})
        if not self.on_gpu:
            self.engine.apply_model(_repack_head)
        if not self.engine.reset_prefix_cache():
            raise EngineError("vLLM did not drop its cached prefixes: requests are still running after a step")
        self.version = version

    def wake(self) -> None:
        """Take memory again. Weights were dropped by `sleep`, so they are pushed anew."""
        if self.asleep:
            self.engine.wake_up()
            self.asleep, self.version = False, -1

    def sleep(self) -> None:
        """Drop weights and cache (the CPU build has no such thing)."""
        if self.on_gpu and not self.asleep:
            self.engine.sleep(level=2)
            self.asleep = True

    def generate(self, prompts: Sequence[Sequence[Token]], noise_BT: Tensor, sampling: Sampling) -> list[Sample]:
        """See `Sampler.generate`. vLLM draws its own numbers: each row's noise is its seed, so equal noise gives equal responses only
        for the same batch."""
        seeds = (noise_BT[:, 0] * 2**62).long().tolist()
        # sampling is limited to the tokenizer's ids, as in the torch sampler
        limited: Any = {"allowed_token_ids": list(range(self.vocab_size))} if self.vocab_size < self._rows() else {}
        parameters = [
            self.parameters(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=1.0,
                top_k=-1,
                logprobs=0,
                seed=seed if sampling.temperature > 0 else None,
                stop_token_ids=self.stop,
                detokenize=False,
                **limited,
            )
            for seed in seeds
        ]
        requests: Any = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        try:
            outputs = self.engine.generate(requests, parameters, use_tqdm=False)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # vLLM's own errors have no common base
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EngineError(f"the vllm sampler died: {reason}") from error
        return [self._sample(output.outputs[0]) for output in outputs]

    def _rows(self) -> int:
        return self.actor.get_input_embeddings().weight.shape[0]

    def _sample(self, output: Any) -> Sample:
        tokens = list(output.token_ids)
        logprobs = [step[token].logprob for token, step in zip(tokens, output.logprobs)]
        return Sample(tokens, logprobs, output.finish_reason == "length", self.version)


def check_version(version: str) -> None:
    """Raise EngineError for a vLLM whose interface has not been tried."""
    found = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.split("+")[0].split(".")[:2])
    if not OLDEST <= found <= NEWEST:
        known = f"{'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
        raise EngineError(f"vLLM {version} is not known to work ({known} are): pip install 'vllm==0.32.0', or use --sampler torch")


def _repack_head(model: Any) -> bool:
    """The CPU build multiplies by a packed copy of a tied head, which reloading leaves as it was: old head on new layers, no error."""
    model.lm_head.quant_method.process_weights_after_loading(model.lm_head)
    return True


def _weights(actor: Any) -> Iterator[tuple[str, Tensor]]:
    """Named tensors as in the checkpoint; a tied head is left out, as there."""
    tied = set(actor._tied_weights_keys or ()) if actor.config.tie_word_embeddings else set()
    for name, parameter in actor.state_dict().items():
        if name not in tied:
            yield name, full_tensor(parameter, parameter.device)
