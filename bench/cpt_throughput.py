"""Targets trained per CPU second: our loop against TRL's SFTTrainer and transformers' Trainer, alternating in one process.

    FOURHABITS_TEST_DATA=… python bench/cpt_throughput.py [--context 512 2048 4096] [--threads 1] [--rounds 3]

Same 10M-parameter Llama (vocabulary of 8,192, a byte-pair tokenizer trained on the corpus), same documents, float32, no gradient
checkpointing, AdamW, about 4,096 tokens an update. Each peer runs with its best micro-batch of two (one row, or about 4,096 tokens),
measured here, ours with its default. Ours splits over-long documents and packs them, isolated; TRL packs with `bfd_split`; Trainer pads
batches drawn with `group_by_length`, from the same pieces (it has no way to split). Counted: positions that have a target. Time: CPU
seconds (all threads) from the end of one update to the end of the next, collation included; the median over all updates of all rounds.
Needs trl; without it that peer is left out. A last part says whether the inputs that each way makes leak between documents.
"""

import argparse
import importlib.util
import itertools
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

TOKENS_PER_STEP = 4_096
VOCABULARY = 8_192


def clock() -> float:
    """CPU seconds of this process: other work on the machine does not count, and nothing here waits for anything."""
    return time.process_time()


def read_corpus(limit_characters: int, seed: int = 0) -> list[str]:
    """A seeded draw of whole documents of the test corpus."""
    if "FOURHABITS_TEST_DATA" not in os.environ:
        raise SystemExit("error: FOURHABITS_TEST_DATA is not set: name the folder with corpus/*.parquet")
    folder = Path(os.environ["FOURHABITS_TEST_DATA"]) / "corpus"
    texts = [
        text for path in sorted(folder.glob("*.parquet")) for text in pq.read_table(path, columns=["text"])["text"].to_pylist() if text
    ]
    drawn, total = [], 0
    for index in np.random.default_rng(seed).permutation(len(texts)):
        drawn.append(texts[index])
        total += len(texts[index])
        if total > limit_characters:
            break
    return drawn


def make_tokenizer(texts: list[str], folder: Path) -> Any:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|bos|>", "<|eos|>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], bos_token=special[1], eos_token=special[2])
    fast.save_pretrained(folder)
    return fast


def make_model() -> Any:
    """10.2M parameters with this vocabulary, heads of 64, tied."""
    from train.tiny import TinyConfig, make_tiny_model

    return make_tiny_model(TinyConfig(hidden=320, layers=6, heads=5, kv_heads=5, intermediate=832), VOCABULARY, 0)


class Ours:
    """Our loop: `train.loop.Run.update` as `train cpt` calls it."""

    def __init__(self, data: Path, model: Path, context: int, out: Path, compile: bool = False) -> None:
        import train.loop as loop
        from train.settings import CptSettings, resolve

        settings = resolve(
            CptSettings(
                data=data,
                model=str(model),
                out=out,
                context_tokens=context,
                tokens_per_step=TOKENS_PER_STEP,
                loss="all",
                max_steps=10**6,
                epochs=None,
                compile=compile,
            )
        )
        accelerator = loop.make_accelerator(settings)
        tokenizer = loop.load_tokenizer(str(model))
        documents = loop.load_documents(data, tokenizer, loss="all", bos="auto")
        batches = loop.make_batches(documents, list(range(len(documents.tokens))), settings)
        self.run = loop.Run("cpt", settings, out, {}, accelerator, tokenizer, documents, {}, batches, None, 10**6)
        self.documents, self.batches = documents, batches

    def steps(self, count: int) -> list[float]:
        """Seconds per target of `count` updates (one more is run first)."""
        times = []
        for _ in range(count + 1):
            began = clock()
            line = self.run.update(self.run.progress.step)
            times.append((clock() - began) / line["loss_tokens"])
        return times[1:]


def peer_steps(make_trainer: Any, model: Any, count: int) -> list[float]:
    """Seconds per target of `count` updates of a transformers-like trainer, the first one left out."""
    from transformers import TrainerCallback

    ends: list[tuple[float, int]] = []
    seen = [0]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append((clock(), seen[0]))

    def count_targets(_: Any, arguments: Any, keywords: Any) -> None:
        labels = keywords["labels"] if keywords.get("labels") is not None else keywords["shift_labels"]
        positions = keywords.get("position_ids")
        trained = labels[:, 1:] != -100
        seen[0] += int((trained & (positions[:, 1:] != 0)).sum() if positions is not None else trained.sum())

    hook = model.register_forward_pre_hook(count_targets, with_kwargs=True)
    make_trainer(count + 1, Clock()).train()
    hook.remove()
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(ends)]


def common_arguments(out: Path, context: int, rows: int, count: int) -> dict[str, Any]:
    """What both peers are told: about `TOKENS_PER_STEP` tokens an update in micro-batches of `rows`, nothing else running."""
    return {
        "output_dir": str(out), "max_steps": count, "per_device_train_batch_size": rows, "report_to": [], "save_strategy": "no",
        "gradient_accumulation_steps": max(TOKENS_PER_STEP // (context * rows), 1), "learning_rate": 1e-5, "logging_strategy": "no",
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "dataloader_num_workers": 0, "seed": 0,
        "optim": "adamw_torch_fused", "max_grad_norm": 1.0,
    }  # fmt: skip


def trainer_steps(pieces: list[list[int]], tokenizer: Any, context: int, rows: int, count: int, out: Path, mean: float) -> list[float]:
    """transformers' Trainer, batches of similar lengths, padded. More rows a step where pieces are short, for the same tokens an update."""
    from datasets import Dataset
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    model = make_model()
    data = Dataset.from_dict({"input_ids": pieces, "length": [len(piece) for piece in pieces]})
    arguments = common_arguments(out, context, rows, count)
    arguments["gradient_accumulation_steps"] = max(round(TOKENS_PER_STEP / (mean * rows)), 1)

    def make(number: int, clock: Any) -> Any:
        arguments["max_steps"] = number
        return Trainer(
            model=model,
            args=TrainingArguments(**arguments, train_sampling_strategy="group_by_length"),
            train_dataset=data,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=[clock],
        )

    return peer_steps(make, model, count)


def trl_steps(documents: list[list[int]], tokenizer: Any, context: int, rows: int, count: int, out: Path) -> list[float]:
    """TRL's SFTTrainer with its packing; over-long documents split, nothing dropped."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model = make_model()
    data = Dataset.from_dict({"input_ids": documents})

    def make(number: int, clock: Any) -> Any:
        arguments = {**common_arguments(out, context, rows, count), "max_steps": number}
        config = SFTConfig(**arguments, packing=True, packing_strategy="bfd_split", max_length=context)
        return SFTTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])

    return peer_steps(make, model, count)


def leaks() -> dict[str, float]:
    """How much the logits of a second document change when the first one does, with the inputs that each way gives the model."""
    from train.attention import packed_inputs, use_packed_attention
    from train.packing import join_rows, pack_rows

    model, ids = make_model().eval(), np.random.default_rng(0).integers(3, VOCABULARY, 48)
    documents = [ids[:25], ids[25:]]
    changed = [(documents[0] + 1) % VOCABULARY, documents[1]]
    positions = torch.cat([torch.arange(24), torch.arange(22)])[None]
    flat = [torch.from_numpy(np.concatenate([document[:-1] for document in pair]))[None] for pair in (documents, changed)]

    def difference(inputs: Any) -> float:
        with torch.no_grad():
            first, second = (model(**inputs(index)).logits[0, 24:] for index in (0, 1))
        return float((first - second).abs().max())

    found = {
        "trl: position_ids, default cache": difference(lambda i: {"input_ids": flat[i], "position_ids": positions}),
        "position_ids, cache off": difference(lambda i: {"input_ids": flat[i], "position_ids": positions, "use_cache": False}),
        "trainer: one document a row": 0.0,
    }
    use_packed_attention(model)
    rows = [join_rows(pack_rows(pair, 64)) for pair in (documents, changed)]
    found["ours"] = difference(lambda i: packed_inputs(rows[i], "cpu"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--context", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="updates of each competitor in a round")
    parser.add_argument("--characters", type=int, default=2_000_000)
    parser.add_argument("--compile", action="store_true", help="also measure ours with --compile")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    has_trl = importlib.util.find_spec("trl") is not None
    texts = read_corpus(options.characters)
    parts: dict[str, Any] = {"documents": len(texts), "threads": options.threads, "leak (logits)": leaks()}
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = make_tokenizer(texts, folder / "model")
        make_model().save_pretrained(folder / "model")
        (folder / "data").mkdir()
        pq.write_table(pa.table({"text": texts}), folder / "data" / "part-0.parquet")
        for context in options.context:
            ours = {"ours": Ours(folder / "data", folder / "model", context, folder / f"out-{context}")}
            if options.compile:
                ours["ours compiled"] = Ours(folder / "data", folder / "model", context, folder / f"out-c-{context}", compile=True)
            documents = [ids.tolist() for ids in ours["ours"].documents.tokens]
            pieces = [ids[start : start + context] for ids in documents for start in range(0, len(ids), context)]
            mean = statistics.mean(map(len, pieces))
            times: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                for label, loop in ours.items():
                    times.setdefault(label, []).extend(loop.steps(options.steps))
                for rows in sorted({1, max(4096 // context, 1)}):
                    made = trainer_steps(pieces, tokenizer, context, rows, options.steps, folder / "t", mean)
                    times.setdefault(f"trainer x{rows}", []).extend(made)
                    if has_trl:
                        made = trl_steps(documents, tokenizer, context, rows, options.steps, folder / "trl")
                        times.setdefault(f"trl x{rows}", []).extend(made)
            speeds = {label: 1 / statistics.median(values) for label, values in times.items()}
            best_peer = max(speed for label, speed in speeds.items() if not label.startswith("ours"))
            best_ours = max(speed for label, speed in speeds.items() if label.startswith("ours"))
            ratios.append(best_ours / best_peer)
            parts[f"context {context}"] = {**{k: round(v, 1) for k, v in speeds.items()}, "ratio": round(ratios[-1], 3)}
            print(context, parts[f"context {context}"], flush=True)
    print(json.dumps(parts))
    print(f"ratio: {min(ratios):.3f}")


if __name__ == "__main__":
    main()
