"""What a PPO run consists of: models, optimizers, sampler, tasks, files; made from settings, saved and restored whole."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from curate.records.command import require
from curate.records.errors import UserError, output_error
from curate.records.manifest import InputFile, Manifest, file_sha256
from curate.records.settings import to_dict
from rl.forward import Critic, MicroBatch, Policy
from rl.ranks import Ranks
from rl.report import STOPPED, MetricsLog, Timer
from rl.rollouts import Prompted, prompts_for
from rl.samplers.base import Sampler, stop_ids
from rl.settings import PPOSettings
from rl.tasks import FILE_NAME, read_tasks
from train.attention import check_isolation
from train.checkpoint import check_settings, load_latest, save_checkpoint
from train.export import export_model
from train.model import compute_dtype, load_model, load_tokenizer, source_dtype
from train.state import load_model_state, load_optimizer_state, model_state, optimizer_state


@dataclass
class Setup:
    """Everything alive in a run. What changes from step to step is exactly what `save` writes.

    `actor` is the language model, `policy` and `reference` are `Policy` modules (`policy` around the actor).
    """

    settings: PPOSettings
    out: Path
    ranks: Ranks
    tokenizer: Any
    vocab_size: int
    compute: torch.dtype
    wide: torch.dtype
    layout: str
    train: Prompted
    test: Prompted
    refused_prompts: int
    actor: Any
    policy: Any
    actor_optimizer: torch.optim.Optimizer
    critic: Critic | None
    critic_optimizer: torch.optim.Optimizer | None
    reference: Any
    sampler: Sampler
    manifest: Manifest
    timer: Timer
    log: MetricsLog | None = None
    kl_coefficient: float = 0.0
    weight_version: int = 0
    bad_in_a_row: int = 0
    skipped_updates: int = 0
    started: float = 0.0

    def trained(self, which: str) -> tuple[nn.Module, torch.optim.Optimizer]:
        """`actor` or `critic` with its optimizer."""
        if which == "actor":
            return self.actor, self.actor_optimizer
        assert self.critic is not None and self.critic_optimizer is not None
        return self.critic, self.critic_optimizer

    def idle_pass(self, which: str, micro: MicroBatch) -> torch.Tensor:
        """A pass of `actor` or `critic` for the sake of the other ranks, a scalar."""
        if which == "actor":
            return self.policy(micro, self.settings.temperature, self.vocab_size)[0].sum()
        assert self.critic is not None
        return self.critic(micro).sum()

    def finish(self) -> None:
        """Write the model and the manifest: the run is complete. Every rank must call it."""
        weights = model_state(self.actor)
        if not self.ranks.is_main:
            return
        export_model(self.actor, self.tokenizer, self.out / "model", dtype=source_dtype(str(self.settings.model)), weights=weights)
        self.manifest.seconds = time.monotonic() - self.started
        self.manifest.notes |= {"skipped_updates": self.skipped_updates, "refused_prompts": self.refused_prompts}
        self.manifest.write(self.out)
        print(f"done: model in {self.out / 'model'}, metrics.jsonl, evaluations.jsonl and rollouts/ beside it", flush=True)


def build(settings: PPOSettings) -> Setup:
    """Load everything. `settings` are resolved. Raises UserError or EngineError before anything is written."""
    name, data, out = require(settings.model, "model"), require(settings.data, "data"), require(settings.out, "out")
    ranks = Ranks(settings.device)
    compute = compute_dtype(settings.dtype, ranks.device)
    weights = torch.float64 if compute == torch.float64 else torch.float32
    tokenizer = load_tokenizer(name)
    actor = _model(settings, name, tokenizer, ranks, weights, trained=True)
    check_isolation(actor, ranks.device, compute)
    vocab_size = min(len(tokenizer), actor.get_input_embeddings().weight.shape[0])

    train, refused = prompts_for(read_tasks(data, "train"), settings, tokenizer)
    test, refused_test = prompts_for(read_tasks(data, "test")[: settings.eval_tasks], settings, tokenizer)
    if not train.tasks:
        raise UserError(f"{data} has no training tasks (rows with split = train)")
    if (refused or refused_test) and ranks.is_main:
        limit = settings.max_prompt_tokens
        print(f"warning: refused {refused} training and {refused_test} test prompts of over {limit} tokens", file=sys.stderr, flush=True)

    if settings.prompts_per_step < ranks.world:
        raise UserError(f"--prompts-per-step {settings.prompts_per_step} leaves some of the {ranks.world} processes without a prompt")

    policy = ranks.shard(Policy(actor), _layers(actor))
    critic = critic_optimizer = reference = None
    if settings.advantage == "gae":
        lm = _model(settings, settings.critic or name, tokenizer, ranks, weights, trained=True)
        critic = Critic(lm.base_model).to(ranks.device)
        ranks.shard(critic, _layers(lm))
        critic_optimizer = _optimizer(critic.parameters(), settings, settings.critic_learning_rate)
    if settings.kl_place != "none" and (settings.kl_coefficient > 0 or settings.kl_target > 0):
        # in the compute dtype: it is never updated, so it needs no float32 weights
        frozen = _model(settings, name, tokenizer, ranks, compute, trained=False)
        reference = ranks.shard(Policy(frozen), _layers(frozen))
    file = data / FILE_NAME if data.is_dir() else data
    inputs = [InputFile(str(data), file_sha256(file), len(train.tasks) + len(test.tasks), file.stat().st_size)]
    manifest = Manifest(stage="ppo", settings=to_dict(settings), inputs=inputs, model=name, engine=settings.sampler, seed=settings.seed)
    setup = Setup(
        settings=settings,
        out=out,
        ranks=ranks,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        compute=compute,
        wide=torch.float64 if weights == torch.float64 else torch.float32,
        layout="packed" if settings.layout == "auto" else settings.layout,  # a third less time on a CPU as well, docs/BENCHMARKS.md
        train=train,
        test=test,
        refused_prompts=refused,
        actor=actor,
        policy=policy,
        actor_optimizer=_optimizer(actor.parameters(), settings, settings.actor_learning_rate),
        critic=critic,
        critic_optimizer=critic_optimizer,
        reference=reference,
        sampler=make_sampler(settings, actor, tokenizer, vocab_size, out),
        manifest=manifest,
        timer=Timer(ranks.device),
        kl_coefficient=settings.kl_coefficient if settings.kl_place != "none" else 0.0,
        started=time.monotonic(),
    )
    _prepare_folder(setup)
    return setup


def save(setup: Setup, step: int) -> None:
    """One checkpoint with everything that changes: both models, both optimizers, KL controller, counters, metrics offsets.

    The same file for any number of processes, sharded or not. Every rank must call it.
    """
    models: dict[str, Any] = {"actor": model_state(setup.actor), "actor_optimizer": optimizer_state(setup.actor, setup.actor_optimizer)}
    if setup.critic is not None and setup.critic_optimizer is not None:
        models |= {"critic": model_state(setup.critic), "critic_optimizer": optimizer_state(setup.critic, setup.critic_optimizer)}
    if setup.ranks.is_main:
        assert setup.log is not None
        settings = setup.settings
        state = {
            **models,
            "kl_coefficient": setup.kl_coefficient,
            "weight_version": setup.weight_version,
            "bad_in_a_row": setup.bad_in_a_row,
            "skipped_updates": setup.skipped_updates,
            "metrics_offsets": setup.log.offsets(),
        }
        folder = setup.out / "checkpoints"
        agreed = _must_agree(setup)
        save_checkpoint(folder, step, state, settings=agreed, keep_last=settings.keep_last, keep_every=settings.keep_every_steps)
    setup.ranks.barrier()


def restore(setup: Setup) -> int:
    """Go on from the newest complete checkpoint; returns its step, 0 when there is none. Raises UserError when settings differ.

    Task order, sampling noise and shuffles are functions of (seed, step), and no global generator is used: the step is their whole state.
    """
    found = load_latest(setup.out / "checkpoints")
    offsets: dict[str, int] = {}
    step = 0
    if found is not None:
        check_settings(found, _must_agree(setup))
        state, step = found.state, found.step
        load_model_state(setup.actor, state["actor"])
        load_optimizer_state(setup.actor, setup.actor_optimizer, state["actor_optimizer"])
        if setup.critic is not None and setup.critic_optimizer is not None:
            load_model_state(setup.critic, state["critic"])
            load_optimizer_state(setup.critic, setup.critic_optimizer, state["critic_optimizer"])
        setup.kl_coefficient = state["kl_coefficient"]
        setup.weight_version = state["weight_version"]
        setup.bad_in_a_row, setup.skipped_updates = state["bad_in_a_row"], state["skipped_updates"]
        offsets = state["metrics_offsets"]
        for later in (setup.out / "rollouts").glob("step-*.parquet"):
            if int(later.stem.removeprefix("step-")) > step and setup.ranks.is_main:
                later.unlink()  # made after the checkpoint, and about to be made again
        if setup.ranks.is_main:
            print(f"going on after step {step} ({found.path})", file=sys.stderr, flush=True)
    if setup.ranks.is_main:
        (setup.out / STOPPED).unlink(missing_ok=True)
        setup.log = MetricsLog(setup.out, offsets)
    return step


def autocast(setup: Setup) -> Any:
    """bfloat16 matrix products on float32 weights, when so asked; nothing else."""
    if setup.compute == torch.bfloat16:
        return torch.autocast(setup.ranks.device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _must_agree(setup: Setup) -> dict[str, Any]:
    return to_dict(setup.settings, hashed_only=True) | {"data_sha256": setup.manifest.inputs[0].sha256}


def _model(settings: PPOSettings, name: str, tokenizer: Any, ranks: Ranks, dtype: torch.dtype, *, trained: bool) -> Any:
    model = load_model(name, seed=settings.seed, dtype=dtype, tokenizer=tokenizer).to(ranks.device)
    model.requires_grad_(trained)
    if trained and settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train(trained)


def _layers(lm: Any) -> list[nn.Module]:
    """What is gathered at a time when sharded: the decoder's layers."""
    return list(getattr(lm.base_model, "layers", ()))


def _optimizer(parameters: Iterable[nn.Parameter], settings: PPOSettings, learning_rate: float) -> torch.optim.Optimizer:
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, eps=settings.adam_epsilon, weight_decay=settings.weight_decay)


def make_sampler(settings: PPOSettings, actor: Any, tokenizer: Any, vocab_size: int, out: Path) -> Sampler:
    eos = {tokenizer.eos_token_id}
    configured = getattr(actor.generation_config, "eos_token_id", None)
    eos |= set(configured) if isinstance(configured, list) else {configured}
    stop = stop_ids(eos - {None})
    if settings.sampler == "torch":
        from rl.samplers.torch import TorchSampler

        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop[0]
        return TorchSampler(actor, vocab_size, stop, pad, settings.max_sampler_rows, compute_dtype(settings.dtype, actor.device))
    from rl.samplers.vllm import VLLMSampler

    folder = out / "sampler_model"
    export_model(actor, tokenizer, folder, dtype=compute_dtype("auto", actor.device))
    longest = settings.max_prompt_tokens + settings.max_response_tokens
    return VLLMSampler(actor, folder, vocab_size, stop, longest, settings.vllm_memory_share)


def ready_sampler(settings: PPOSettings, device_name: str, out: Path) -> tuple[Any, Sampler]:
    """Tokenizer and sampler of `settings.model`, with nothing around them that is trained. Raises UserError or EngineError."""
    name = str(settings.model)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device_name == "auto" else device_name)
    tokenizer = load_tokenizer(name)
    model = load_model(name, seed=settings.seed, dtype=compute_dtype(settings.dtype, device), tokenizer=tokenizer).to(device).eval()
    model.requires_grad_(False)
    vocab_size = min(len(tokenizer), model.get_input_embeddings().weight.shape[0])
    sampler = make_sampler(settings, model, tokenizer, vocab_size, out)
    sampler.wake()
    sampler.load_weights(0)
    return tokenizer, sampler


def _prepare_folder(setup: Setup) -> None:
    out = setup.out
    if (out / "manifest.json").is_file():
        raise UserError(f"{out} holds a finished run; choose another --out")
    if not setup.ranks.is_main:
        return
    try:
        (out / "rollouts").mkdir(parents=True, exist_ok=True)
        text = json.dumps(to_dict(setup.settings), indent=2)
        (out / "settings.json").write_text(text + "\n")
    except OSError as error:
        raise output_error(out, error) from error
