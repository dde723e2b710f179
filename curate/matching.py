"""`curate match`: arms with equal tokens that the loss sees and equal numbers of examples. The examples, and how they are counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curate.cleaning import CleaningSettings
from curate.dose import DoseSettings
from curate.frame import COMPLETION, PROMPT
from curate.matching_strata import MatchingSettings
from curate.records.errors import UserError
from curate.records.settings import option

DEFAULT_TOKENIZER = "meta-llama/Llama-3.2-3B"
BUDGET_TOKENS = 8_300_000


@dataclass(frozen=True)
class MatchSettings(MatchingSettings, CleaningSettings, DoseSettings):
    """How large the arms are, in whose tokens, and how closely they are matched."""

    qa: Path | None = option(None, "Output folder of `curate rewrite`.", hashed=False)
    verified: Path | None = option(None, "Output folder of `curate verify`; adds the labels of the rewrites to the sets.", hashed=False)
    out: Path | None = option(None, "Folder to write to; one folder an arm is made in it.", hashed=False)
    budget_tokens: int = option(BUDGET_TOKENS, "Tokens of each arm.", at_least=1)
    count: str = option("completion", "Which tokens are counted: those of the completion, or all.", choices=("completion", "all"))
    tokenizer: str = option(DEFAULT_TOKENIZER, "Tokenizer of the model that will be trained: hub name, local folder, or smollm2-135m.")
    tolerance: float = option(0.001, "Largest difference of the arms' tokens, as a share.", at_least=0)
    length_tolerance: float = option(0.10, "Largest difference in words of the two thoughts of a pair, as a share.", at_least=0)
    shard_rows: int = option(25_000, "Most rows of a Parquet file of the sets.", at_least=1)
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
