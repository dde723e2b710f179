"""Parquet with `prompt` and `completion` into token ids, each token accounted for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.records.errors import UserError
from curate.records.manifest import FILE_NAME as MANIFEST
from curate.records.manifest import InputFile, file_sha256, read_manifest

BATCH_ROWS = 1024


@dataclass(frozen=True)
class Documents:
    """Token ids of every example, BOS and EOS included; `loss_from[d]` is document d's first token that the loss sees.

    `dropped` counts rows without a completion, by reason. `data_sha256` is the hash of the files in order.
    """

    tokens: list[np.ndarray]
    loss_from: list[int]
    inputs: list[InputFile]
    data_sha256: str
    rows_in: int
    dropped: dict[str, int] = field(default_factory=dict)

    def count(self, chosen: Sequence[int]) -> tuple[int, int]:
        """(tokens, targets) of these documents. The first token of a document is never a target, whatever the prompt."""
        tokens = sum(len(self.tokens[i]) for i in chosen)
        return tokens, sum(len(self.tokens[i]) - min(max(self.loss_from[i], 1), len(self.tokens[i])) for i in chosen)


def parquet_files(data: Path) -> list[Path]:
    """The Parquet files of a folder (or of its one subfolder) in order of their names, or the one file given.

    Raises UserError when there is none, or more than one set.
    """
    if data.is_file():
        return [data]
    files = sorted(data.glob("*.parquet")) or sorted(data.rglob("*.parquet"))
    folders = sorted({path.relative_to(data).parts[0] for path in files if path.parent != data})
    if len(folders) > 1:
        raise UserError(f"{data} holds several sets ({', '.join(folders[:4])}); name one of them")
    if not files:
        raise UserError(f"no Parquet files in {data}" if data.exists() else f"{data} does not exist")
    return files


def check_loss_setting(data: Path, loss: str) -> None:
    """Raise UserError when the arms were matched on other tokens (`curate match --count`) than `loss` would train."""
    found = [folder for folder in (data, data.parent) if (folder / MANIFEST).is_file()]
    manifest = read_manifest(found[0]) if found else None
    if manifest is None or "count" not in manifest.settings:
        return
    counted = manifest.settings["count"]
    if counted in ("completion", "all") and counted != loss:
        raise UserError(
            f"{data} was matched with --count {counted}, but --loss is {loss}: the arms would not be equal; use --loss {counted}"
        )


def load_documents(data: Path, tokenizer: Any, *, loss: str, bos: str) -> Documents:
    """Read and tokenise a folder (or file) of Parquet.

    A document is [BOS] prompt completion EOS; prompt and completion are tokenised apart, as a sampler sees them. `bos`: `auto` (as the
    tokenizer does with plain text), `always`, `never`. Text that spells a special token stays text. A table without these columns but
    with `text` is read as completions without a prompt. Raises UserError for an empty set, absent columns or a tokenizer without EOS.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token: the model would never learn to stop; set `eos_token` in its tokenizer_config.json")
    head = _bos_ids(tokenizer, bos)
    tokens: list[np.ndarray] = []
    loss_from: list[int] = []
    inputs: list[InputFile] = []
    dropped: dict[str, int] = {}
    rows_in = 0
    for path in parquet_files(data):
        prompts, completions = _read_texts(path)
        inputs.append(InputFile(str(path), file_sha256(path), len(completions), path.stat().st_size))
        rows_in += len(completions)
        for start in range(0, len(completions), BATCH_ROWS):
            kept = []
            for prompt, completion in zip(prompts[start : start + BATCH_ROWS], completions[start : start + BATCH_ROWS]):
                if completion:
                    kept.append((prompt or "", completion))
                else:
                    dropped["no completion"] = dropped.get("no completion", 0) + 1
            if not kept:
                continue
            before, after = (encode(tokenizer, texts) for texts in zip(*kept))
            for prompt_ids, completion_ids in zip(before, after):
                ids = [*head, *prompt_ids, *completion_ids, tokenizer.eos_token_id]
                tokens.append(np.array(ids, dtype=np.int32))
                loss_from.append(len(head) + len(prompt_ids) if loss == "completion" else 0)
    if not tokens:
        raise UserError(f"{data} holds no examples ({rows_in} rows, {sum(dropped.values())} without a completion)")
    digest = hashlib.sha256("".join(item.sha256 for item in inputs).encode()).hexdigest()
    documents = Documents(tokens, loss_from, inputs, digest, rows_in, dropped)
    assert documents.rows_in == len(tokens) + sum(dropped.values())
    return documents


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts: no special tokens added, none recognised inside the text."""
    return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]


def split_heldout(documents: Documents, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Document numbers to train on and to hold out: a seeded draw of `fraction`, at least one of each when `fraction` > 0."""
    count = len(documents.tokens)
    if fraction == 0:
        return list(range(count)), []
    if count < 2:
        raise UserError("one example cannot be divided into training and held-out; use --heldout-fraction 0 or --heldout-data")
    chosen = min(max(1, round(count * fraction)), count - 1)
    order = np.random.default_rng([seed, 0x4E1D]).permutation(count)
    return sorted(order[chosen:].tolist()), sorted(order[:chosen].tolist())


def _bos_ids(tokenizer: Any, bos: str) -> list[int]:
    if bos == "never" or (bos == "auto" and tokenizer.bos_token_id not in tokenizer("a")["input_ids"][:1]):
        return []
    if tokenizer.bos_token_id is None:
        raise UserError("--bos always, but the tokenizer has no BOS token; use --bos auto")
    return [tokenizer.bos_token_id]


def _read_texts(path: Path) -> tuple[list[str | None], list[str | None]]:
    try:
        names = pq.read_schema(path).names
        if {"prompt", "completion"} <= set(names):
            table = pq.read_table(path, columns=["prompt", "completion"])
            for name in ("prompt", "completion"):
                kind = table.schema.field(name).type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
                    raise UserError(f"{path}: column `{name}` is {kind}, not text")
            return table["prompt"].to_pylist(), table["completion"].to_pylist()
        if "text" in names:
            texts = pq.read_table(path, columns=["text"])["text"].to_pylist()
            return [None] * len(texts), texts
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    raise UserError(f"{path} has neither `prompt` and `completion` nor `text`; its columns are {', '.join(names)}")
