"""`curate match`: two arms with equal tokens that the loss sees and equal numbers of examples."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.records.errors import UserError
from curate.records.settings import option

if TYPE_CHECKING:
    import polars as pl

DEFAULT_TOKENIZER = "meta-llama/Llama-3.2-3B"
BUDGET_TOKENS = 8_300_000
ARM_NAMES = ("enriched", "control")
# Which cell each arm is made of, by the arms that were rewritten; `extract` keeps the cells of the selection.
ARM_CELLS = {"pairs": ("selected", "selected_stripped"), "paper": ("paper_enriched", "paper_control"), "extract": ("selected", "free")}
PROMPT = """A conversation between User and Assistant. The user asks a question and the assistant solves it: it thinks, then answers.
User: {question}
Assistant: Let me solve this step by step.
<think>"""
COMPLETION = """
{thoughts}
</think>
<answer>{answer}</answer>"""


@dataclass(frozen=True)
class MatchSettings:
    """How large the arms are, in whose tokens, and how closely they are matched."""

    qa: Path | None = option(None, "Output folder of `curate rewrite`.", hashed=False)
    verified: Path | None = option(None, "Output folder of `curate verify`; adds the labels of the rewrites to the sets.", hashed=False)
    out: Path | None = option(None, "Folder to write to; one folder an arm is made in it.", hashed=False)
    budget_tokens: int = option(BUDGET_TOKENS, "Tokens of each arm.", at_least=1)
    count: str = option("completion", "Which tokens are counted: those of the completion, or all.", choices=("completion", "all"))
    tokenizer: str = option(DEFAULT_TOKENIZER, "Tokenizer of the model that will be trained: hub name, local folder, or smollm2-135m.")
    tolerance: float = option(0.005, "Largest difference of the arms' tokens, as a share.", at_least=0)
    length_tolerance: float = option(0.10, "Largest difference in words of the two thoughts of a pair, as a share.", at_least=0)
    seed: int = option(0, "Seed of the draw.", at_least=0)


def load_tokenizer(name: str) -> Any:
    """The tokenizer that the sets are counted with. Raises UserError with the way out when it is gated or unknown."""
    from transformers import AutoTokenizer

    from curate.engines.models import EMBEDDED, embedded_model

    location = str(embedded_model()) if name == EMBEDDED else name
    try:
        return AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        gated = "gated: ask for access on its page and log in with `hf auth login`, or " if "llama" in name.lower() else ""
        raise UserError(
            f"cannot load the tokenizer {name!r} ({gated}choose another with --tokenizer NAME, FOLDER or {EMBEDDED}): {reason}"
        ) from None


def prompt_and_completion(row: dict[str, Any]) -> tuple[str, str]:
    """What training reads: the question in the frame of the RL stage's prompt, the thoughts and the answer as its continuation."""
    return PROMPT.format(question=row["question"]), COMPLETION.format(thoughts=row["thoughts"], answer=row["answer"])


def count_tokens(tokenizer: Any, prompts: Sequence[str], completions: Sequence[str], count: str) -> np.ndarray:
    """Tokens of each example that the loss sees, shape (N,): its completion and the end-of-text token, and the prompt for `all`."""

    def lengths(texts: Sequence[str]) -> np.ndarray:
        ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return np.array([len(item) for item in ids], dtype=np.int64)

    tokens = lengths(completions) + 1
    return tokens + lengths(prompts) if count == "all" else tokens


def draw_order(keys: Sequence[str], seed: int) -> list[int]:
    """A seeded order of `keys` that depends on their content alone, not on the order of files."""
    return sorted(range(len(keys)), key=lambda index: hashlib.sha256(f"{seed}:{keys[index]}".encode()).digest())


def pair_within_strata(enriched: "pl.DataFrame", control: "pl.DataFrame", strata: Sequence[str], seed: int) -> list[tuple[int, int]]:
    """Pair rows of two arms one to one inside equal values of `strata` (coarsened exact matching), nearest in `num_loss_tokens`.

    Both frames need the strata columns, `pair_id` and `num_loss_tokens`. In each stratum the rows of the smaller side choose, in a
    seeded order, so that a surplus on the other side serves to make the arms equal. Returns pairs of row numbers; the rest stays
    unmatched.
    """
    tokens = [arm["num_loss_tokens"].to_list() for arm in (enriched, control)]
    groups: dict[tuple[Any, ...], tuple[list[int], list[int]]] = {}
    for side, arm in enumerate((enriched, control)):
        for index, key in enumerate(arm.select(strata).iter_rows()):
            groups.setdefault(key, ([], []))[side].append(index)
    pairs: list[tuple[int, int]] = []
    for rows in groups.values():
        choosing = 0 if len(rows[0]) <= len(rows[1]) else 1
        names = (enriched, control)[choosing]["pair_id"]
        free = list(rows[1 - choosing])
        for place in draw_order([names[index] for index in rows[choosing]], seed):
            index = rows[choosing][place]
            nearest = min(free, key=lambda other: (abs(tokens[1 - choosing][other] - tokens[choosing][index]), other))
            free.remove(nearest)
            pairs.append((index, nearest) if choosing == 0 else (nearest, index))
    return pairs


@dataclass(frozen=True)
class Choice:
    """Chosen pairs (indices), the tokens of each arm, and how many pairs were taken out or exchanged to even the tokens."""

    chosen: list[int]
    tokens: tuple[int, int]
    removed: int


def choose_pairs(first: np.ndarray, second: np.ndarray, order: Sequence[int], budget: int, tolerance: float) -> Choice:
    """Choose pairs in `order` until neither arm has room for another, then even out the arms.

    `first` and `second` are the tokens of each pair's two examples, shape (N,). A pair that would overflow `budget` is passed over
    for a later one that fits. While the totals differ by more than `tolerance`, one change at a time brings them closer: an unused
    pair comes in, else one is exchanged for an unused one, else one goes out; it ends when no change helps. What fits into the room
    that is left then, without making the arms uneven again, comes in at last. Equal numbers of examples are kept throughout.
    """
    tokens = np.stack([first, second]).astype(np.int64)  # (2, N)
    gaps = tokens[0] - tokens[1]
    inside = np.zeros(tokens.shape[1], dtype=bool)
    totals = np.zeros(2, dtype=np.int64)
    for index in order:
        if (totals + tokens[:, index]).max() <= budget:
            inside[index] = True
            totals += tokens[:, index]
    removed = _exchange(tokens, gaps, inside, totals, budget, tolerance)
    while inside.sum() > 1 and abs(totals[0] - totals[1]) > tolerance * totals.max():
        change = _evening(tokens, gaps, inside, totals, budget)
        if change is None:
            break
        for index in change:
            removed += bool(inside[index])
            totals += -tokens[:, index] if inside[index] else tokens[:, index]
            inside[index] = not inside[index]
    for index in order:
        after = totals + tokens[:, index]
        if not inside[index] and after.max() <= budget and abs(after[0] - after[1]) <= tolerance * after.max():
            inside[index] = True
            totals = after
    return Choice([index for index in order if inside[index]], (int(totals[0]), int(totals[1])), removed)


def _exchange(tokens: np.ndarray, gaps: np.ndarray, inside: np.ndarray, totals: np.ndarray, budget: int, tolerance: float) -> int:
    """Exchange the pairs with the largest gap for unused ones with the most opposite, or take them out where none are left, as long as
    that does not overshoot: in one pass over sorted pairs, because `_evening` searches them all for each change. Changes `inside` and
    `totals`, returns the number of pairs that left."""
    sign = int(np.sign(totals[0] - totals[1]))
    pull = (sign * gaps).tolist()
    first, second = tokens.tolist()
    waiting = sorted(np.flatnonzero(~inside).tolist(), key=pull.__getitem__)
    left, kept = 0, int(inside.sum())
    for worst in sorted(np.flatnonzero(inside).tolist(), key=pull.__getitem__, reverse=True):
        gap = sign * int(totals[0] - totals[1])
        if gap <= tolerance * int(totals.max()) or pull[worst] <= 0:
            break
        room = budget - int(totals[0]) + first[worst], budget - int(totals[1]) + second[worst]
        chosen = None
        for place, other in enumerate(waiting):
            if pull[other] >= pull[worst]:
                break
            if pull[worst] - pull[other] <= gap and first[other] <= room[0] and second[other] <= room[1]:
                chosen = waiting.pop(place)
                break
        if chosen is None:
            if pull[worst] > gap or kept == 1 or (waiting and pull[waiting[0]] < 0):
                continue
            kept -= 1
        for index in (worst, chosen) if chosen is not None else (worst,):
            totals += -tokens[:, index] if inside[index] else tokens[:, index]
            inside[index] = not inside[index]
        left += 1
    return left


def _evening(tokens: np.ndarray, gaps: np.ndarray, inside: np.ndarray, totals: np.ndarray, budget: int) -> tuple[int, ...] | None:
    """The pairs whose change of side (in or out) brings the totals closer, at the least cost in examples; None when nothing helps."""
    gap = int(totals[0] - totals[1])

    def nearest(candidates: np.ndarray, after: np.ndarray) -> int | None:
        best = int(after.argmin()) if len(after) else 0
        return int(candidates[best]) if len(after) and after[best] < abs(gap) else None

    unused, used = np.flatnonzero(~inside), np.flatnonzero(inside)
    fits = unused[(totals[:, None] + tokens[:, unused]).max(axis=0) <= budget]
    if (added := nearest(fits, np.abs(gap + gaps[fits]))) is not None:
        return (added,)
    worst = int(used[(np.sign(gap) * gaps[used]).argmax()])
    room = totals - tokens[:, worst]
    fits = unused[(room[:, None] + tokens[:, unused]).max(axis=0) <= budget]
    if (exchanged := nearest(fits, np.abs(gap - gaps[worst] + gaps[fits]))) is not None:
        return worst, exchanged
    out = nearest(used, np.abs(gap - gaps[used]))
    return None if out is None else (out,)


def standardised_difference(first: np.ndarray, second: np.ndarray) -> float | None:
    """Difference of means over the pooled standard deviation; 0 for equal constants, None where there is nothing to compare."""
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not len(first) or not len(second):
        return None
    spread = float(np.sqrt((first.var() + second.var()) / 2))
    difference = float(first.mean() - second.mean())
    return difference / spread if spread > 0 else (0.0 if difference == 0 else None)
