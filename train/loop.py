"""The training loop of `train cpt` and `train sft`: one process, DDP or FSDP2, the same updates in the same order.

An output folder holds `checkpoints/`, `metrics.jsonl`, `model/` (plain Hugging Face, at the end) and `manifest.json` (finished).
"""

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor

from curate.records.command import require
from curate.records.errors import EngineError, UserError
from curate.records.manifest import FILE_NAME as MANIFEST
from curate.records.manifest import Manifest
from curate.records.settings import to_dict
from train.allocator import keep_freed_memory
from train.attention import check_isolation
from train.batches import Batches, StepRows, empty_row
from train.checkpoint import check_settings, checkpoints, generator_states, load_latest, restore_generators, save_checkpoint
from train.data import Documents, check_loss_setting, load_documents, split_heldout
from train.export import export_model
from train.flops import peak_flops, training_flops
from train.lora import add_lora, merge_lora
from train.metrics import FILE_NAME as METRICS
from train.metrics import Live, MetricsFile, Tracker, make_trackers, peak_memory_gb
from train.model import DTYPES, CausalLoss, compute_dtype, is_tied, load_model, load_tokenizer, loss_inputs, source_dtype
from train.norms import use_few_passes
from train.onednn import use_onednn
from train.optimizers import make_optimizer
from train.rows import account, count_steps, describe, make_batches
from train.schedule import learning_rate
from train.settings import TrainSettings, resolve
from train.signals import StopRequest, stop_on_signals
from train.state import load_model_state, load_optimizer_state, model_state, optimizer_state, unwrap

MICRO_BATCH_TOKENS = {"cuda": 16_384, "cpu": 2_048}


@dataclass
class Progress:
    """What a checkpoint needs beside weights and optimizer. `step` counts updates tried, `skipped` those without a finite gradient."""

    step: int = 0
    tokens: int = 0
    skipped: int = 0
    metrics_offset: int = 0


def train(stage: str, settings: TrainSettings) -> None:
    """Run or resume `stage` to its end. Raises UserError and OutputError as one line each, Requeue when asked to stop."""
    out, data = require(settings.out, "out"), require(settings.data, "data")
    settings = resolve(settings)
    assert settings.loss is not None and settings.bos is not None
    started = time.monotonic()
    accelerator = make_accelerator(settings)
    folder = out / "checkpoints"
    if checkpoints(folder) and not settings.resume:
        raise UserError(f"{folder} holds checkpoints; choose another --out, remove the folder, or leave out --no-resume")
    check_loss_setting(data, settings.loss)
    tokenizer = load_tokenizer(settings.model)
    documents = load_documents(data, tokenizer, loss=settings.loss, bos=settings.bos)
    heldout = Path(settings.heldout_data) if settings.heldout_data else None
    heldout_documents = load_documents(heldout, tokenizer, loss=settings.loss, bos=settings.bos) if heldout else documents
    chosen, kept_out = split_heldout(documents, settings.heldout_fraction, settings.seed)
    batches = make_batches(documents, chosen, settings)
    measured = list(range(len(heldout_documents.tokens))) if heldout else kept_out
    heldout_batches = make_batches(heldout_documents, measured, settings) if measured else None
    num_steps = count_steps(batches, settings)
    tokens = account(documents, batches, chosen, kept_out)
    if accelerator.is_main_process:
        print(describe(documents, batches, num_steps, settings, tokens), file=sys.stderr, flush=True)
    hashed = {**to_dict(settings, hashed_only=True), "data_sha256": documents.data_sha256}
    run = Run(stage, settings, out, hashed, accelerator, tokenizer, documents, tokens, batches, heldout_batches, num_steps)
    if run.progress.step == num_steps and (out / MANIFEST).is_file():
        if accelerator.is_main_process:
            print(f"{out} is finished ({num_steps} updates); nothing to do", file=sys.stderr)
        return
    with stop_on_signals() as stop:
        try:
            run.go(stop)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"the GPU is out of memory in step {run.progress.step + 1} with micro-batches of {run.micro_batch_tokens:,} tokens: halve "
                f"--micro-batch-tokens, or see what `train plan` names ({str(error).strip().splitlines()[0]})"
            ) from None
    if accelerator.is_main_process:
        run.finish(time.monotonic() - started)
    accelerator.wait_for_everyone()


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """accelerate's view of the processes; bfloat16 compute only where asked for or on a GPU."""
    on_gpu = torch.cuda.is_available()
    dtype = compute_dtype(settings.dtype, torch.device("cuda" if on_gpu else "cpu"))
    # without views DDP holds the gradients twice
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if dtype == torch.bfloat16 else "no", kwargs_handlers=[ddp])


class Run:
    """One run from its first or resumed update to the last."""

    def __init__(
        self,
        stage: str,
        settings: TrainSettings,
        out: Path,
        hashed: dict[str, Any],
        accelerator: Accelerator,
        tokenizer: Any,
        documents: Documents,
        tokens: dict[str, int],
        batches: Batches,
        heldout: Batches | None,
        num_steps: int,
    ) -> None:
        self.stage, self.settings, self.out, self.hashed, self.accelerator = stage, settings, out, hashed, accelerator
        self.tokenizer, self.documents, self.tokens, self.batches = tokenizer, documents, tokens, batches
        self.heldout, self.num_steps = heldout, num_steps
        self.device, self.dtype = accelerator.device, compute_dtype(settings.dtype, accelerator.device)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.micro_batch_tokens = settings.micro_batch_tokens or MICRO_BATCH_TOKENS.get(self.device.type, 2_048)
        self.peak = peak_flops(self.device, self.dtype)
        self.progress = Progress()
        self.build()

    def build(self) -> None:
        """Load the model, check it, shard it, and take up the newest checkpoint."""
        settings = self.settings
        # nothing here draws from the global generators; seeded so that a library that does is repeatable and resumable too
        set_seed(settings.seed)
        found = load_latest(self.out / "checkpoints", verbose=self.rank == 0)
        if found is not None:
            check_settings(found, self.hashed)
        master = torch.float64 if self.dtype == torch.float64 else torch.float32
        # weights that LoRA freezes need no master copy
        frozen = self.dtype if settings.lora_rank else master
        lm = load_model(settings.model, seed=settings.seed, dtype=frozen, tokenizer=self.tokenizer).to(self.device)
        difference = check_isolation(lm, self.device, self.dtype)
        if self.rank == 0:
            print(f"packing self-check: packed and separate logits differ by {difference:.1g}", file=sys.stderr, flush=True)
        if self.device.type == "cpu" and not settings.compile:
            use_onednn(lm)
            use_few_passes(lm)
            keep_freed_memory()
        self.lm, self.config, tied = lm, lm.config, is_tied(lm)
        if settings.lora_rank:
            add_lora(lm, settings.lora_rank)
        if settings.gradient_checkpointing:
            lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if settings.compile:
            for layer in lm.base_model.layers:
                layer.compile()
        model = CausalLoss(lm).train()
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(model.parameters(), settings))
        assert is_tied(unwrap(self.model).lm) == tied, "preparing the model untied its embeddings"
        assert all(p.dtype == master for p in self.model.parameters() if p.requires_grad), "master weights lost precision"
        if found is not None:
            load_model_state(self.model, found.state["model"])
            load_optimizer_state(self.model, self.optimizer.optimizer, found.state["optimizer"])
            restore_generators(found.state["generators"])
            self.progress = Progress(**found.state["progress"])
            if self.rank == 0:
                print(f"resuming after step {self.progress.step} from {found.path}", file=sys.stderr, flush=True)

    def go(self, stop: StopRequest) -> None:
        """Updates until the end, a stop request, or too many updates without a finite gradient."""
        settings, main = self.settings, self.rank == 0
        metrics = MetricsFile(self.out / METRICS, self.progress.metrics_offset) if main else None
        live = Live(self.num_steps, self.progress.step)
        trackers: list[Tracker] = []
        if main:
            trackers = make_trackers(self.out, settings.tensorboard, settings.wandb, to_dict(settings), self.progress.step + 1)
        with contextlib.ExitStack() as closing:
            for tracker in trackers:
                closing.callback(tracker.close)
            self.updates(stop, metrics, trackers, live)

    def updates(self, stop: StopRequest, metrics: MetricsFile | None, trackers: list[Tracker], live: Live) -> None:
        """The updates themselves."""
        settings = self.settings

        def write(line: dict[str, Any]) -> None:
            if metrics:
                metrics.write(line)
            for tracker in trackers:
                tracker.log(line["step"], line)

        if self.heldout and self.progress.step == 0:
            write({"step": 0, "heldout_loss": self.heldout_loss()})
        while self.progress.step < self.num_steps:
            line = self.update(self.progress.step)
            step, last = self.progress.step, self.progress.step == self.num_steps
            if self.heldout and (last or step % settings.heldout_every_steps == 0):
                line["heldout_loss"] = self.heldout_loss()
            write(line)
            if metrics:
                live.show(line)
            if self.progress.skipped > settings.max_skipped_steps:
                newest = next(reversed(checkpoints(self.out / "checkpoints")), None)
                raise UserError(
                    f"step {step}: {self.progress.skipped} updates had NaN or infinite gradients; stopped. "
                    f"Last good checkpoint: {newest or 'none'}. Lower --learning-rate, or look at the data of these steps in {METRICS}"
                )
            stopping = self.any_rank(stop.requested)
            if last or stopping or step % settings.save_every_steps == 0:
                self.save(metrics)
            if stopping and not last:
                raise stop.requeue(step, self.out / "checkpoints")

    def update(self, index: int) -> dict[str, Any]:
        """One update: gradients of the mean loss over all targets of the step, clipped, applied when finite."""
        began, settings = time.perf_counter(), self.settings
        step_rows = self.batches.step(index)
        rate = learning_rate(
            index, self.num_steps, settings.learning_rate or 0.0, settings.schedule or "cosine", settings.warmup_fraction or 0.0
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.accumulate_gradients(step_rows)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        finite = bool(torch.isfinite(norm))
        if finite and step_rows.num_loss_tokens:
            if settings.clip_grad_norm and norm > settings.clip_grad_norm:
                torch._foreach_mul_(gradients, float(settings.clip_grad_norm / (norm + 1e-6)))
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += step_rows.num_tokens
        self.progress.skipped += not finite
        seconds = time.perf_counter() - began
        flops = training_flops(
            self.config, step_rows.num_tokens, step_rows.num_loss_tokens, int(self.batches.row_square[list(step_rows.rows)].sum())
        )
        return {
            "step": self.progress.step,
            "epoch": step_rows.epoch,
            "loss": loss / max(step_rows.num_loss_tokens, 1),
            "learning_rate": rate,
            "grad_norm": norm.item() if finite else None,
            "tokens": step_rows.num_tokens,
            "loss_tokens": step_rows.num_loss_tokens,
            "tokens_total": self.progress.tokens,
            "seconds": seconds,
            "tokens_per_second": step_rows.num_tokens / seconds,
            "mfu": flops / seconds / (self.peak * self.world) if self.peak else None,
            "memory_gb": peak_memory_gb(),
            "skipped": self.progress.skipped,
        }

    def accumulate_gradients(self, step_rows: StepRows) -> float:
        """Backward over the step's micro-batches; returns the summed loss over all ranks.

        DDP and FSDP2 average gradients over ranks, hence the factor `world`; the denominator is the step's number of targets everywhere.
        """
        micro_batches = list(self.batches.micro_batches(step_rows.rows, self.micro_batch_tokens, self.rank, self.world))
        scale = self.world / max(step_rows.num_loss_tokens, 1)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, row in enumerate(micro_batches):
            waits = number < len(micro_batches) - 1
            with self.accelerator.no_sync(self.model) if waits else contextlib.nullcontext():
                loss = self.model(*loss_inputs(row if row is not None else empty_row(), self.device))
                self.accelerator.backward(loss * scale)
            total += loss.detach().double()
        return self.sum_over_ranks(total)

    @torch.no_grad()
    def heldout_loss(self) -> float:
        """Mean loss over the held-out targets."""
        assert self.heldout is not None
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.model.eval()
        for row in self.heldout.micro_batches(range(len(self.heldout.rows)), self.micro_batch_tokens, self.rank, self.world):
            total += self.model(*loss_inputs(row if row is not None else empty_row(), self.device)).double()
        self.model.train()
        return self.sum_over_ranks(total) / max(int(self.heldout.row_loss_tokens.sum()), 1)

    def save(self, metrics: MetricsFile | None) -> None:
        """Write a checkpoint. Sharded state is gathered by all ranks, rank 0 writes."""
        model, optimizer = model_state(self.model), optimizer_state(self.model, self.optimizer.optimizer)
        if metrics is not None:
            self.progress.metrics_offset = metrics.offset
            state = {"model": model, "optimizer": optimizer, "progress": vars(self.progress), "generators": generator_states()}
            kept = {"keep_last": self.settings.keep_last, "keep_every": self.settings.keep_every_steps}
            save_checkpoint(self.out / "checkpoints", self.progress.step, state, settings=self.hashed, **kept)
        self.accelerator.wait_for_everyone()

    def finish(self, seconds: float) -> None:
        """Export the model and write the manifest; rank 0 only, from the checkpoint just saved (the weights may be sharded)."""
        lm = unwrap(self.model).lm
        found = load_latest(self.out / "checkpoints")
        assert found is not None
        weights = {name.removeprefix("lm."): value for name, value in found.state["model"].items()}
        if self.settings.lora_rank:
            weights = merge_lora(weights)
        name = self.settings.export_dtype
        dtype = source_dtype(self.settings.model) if name == "auto" else DTYPES[name]
        export_model(lm, self.tokenizer, self.out / "model", dtype=dtype, weights=weights)
        documents = self.documents
        Manifest(
            stage=self.stage,
            settings=to_dict(self.settings),
            inputs=documents.inputs,
            rows_in=documents.rows_in,
            rows_out=len(documents.tokens),
            dropped=documents.dropped,
            model=self.settings.model,
            seed=self.settings.seed,
            tokens={**self.tokens, "seen": self.progress.tokens},
            seconds=seconds,
            notes={
                "updates": self.progress.step,
                "skipped": self.progress.skipped,
                "processes": self.world,
                "data_sha256": documents.data_sha256,
            },
        ).write(self.out)
        print(
            f"{self.out / 'model'}: {self.progress.step} updates, {self.progress.tokens:,} tokens; {self.out / MANIFEST}", file=sys.stderr
        )

    def sum_over_ranks(self, value: Tensor) -> float:
        """The sum of a scalar over all processes."""
        return float(self.accelerator.reduce(value, reduction="sum")) if self.world > 1 else float(value)

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.sum_over_ranks(torch.tensor(float(flag), device=self.device)) > 0
