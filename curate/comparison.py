"""`curate compare`: two ways of labelling the same documents (modes, models, engines), side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.agreement import kappa
from curate.records.manifest import Manifest
from curate.records.settings import option

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ["file_sha256", "source_row"]


@dataclass(frozen=True)
class CompareSettings:
    """Which labels are compared, and from which probability on a behavior counts as shown."""

    first: Path | None = option(None, "Output folder of `curate classify`, for example of --mode score.", hashed=False)
    second: Path | None = option(None, "Another of the same documents, for example of --mode rationale.", hashed=False)
    out: Path | None = option(None, "Folder to write to.", hashed=False)
    threshold: float = option(0.5, "A behavior counts as shown from this probability.")


def agreement(joined: "pl.DataFrame", behaviors: Sequence[str], threshold: float) -> list[dict[str, Any]]:
    """One row a behavior over documents that both have labelled (columns of the second end in `_second`): the shares, `kappa` (None where
    undefined), the share that `differ`, and how many of the first's and the second's labels alone say that it is shown."""
    rows = []
    for name in behaviors:
        first, second = ((joined[f"{name}_score{end}"] >= threshold).to_numpy() for end in ("", "_second"))
        rows.append(
            {
                "behavior": name,
                "documents": joined.height,
                "threshold": threshold,
                "share_first": float(first.mean()),
                "share_second": float(second.mean()),
                "kappa": kappa(first, second),
                "differ": float((first != second).mean()),
                "only_first": int((first & ~second).sum()),
                "only_second": int((~first & second).sum()),
            }
        )
    return rows


def ways(first: Manifest, second: Manifest) -> tuple[str, str]:
    """How each was labelled, in a few words: the mode, and engine and model where they differ."""
    facts = [(str(one.settings.get("preset") or one.settings.get("mode") or "score"), one.engine, one.model) for one in (first, second)]
    varied = [place for place in (1, 2) if facts[0][place] != facts[1][place]]
    named = [" ".join([fact[0], *[Path(str(fact[place])).name for place in varied if fact[place]]]) for fact in facts]
    return named[0], named[1]


def cost(manifest: Manifest) -> dict[str, Any]:
    """What one labelling took, a document, by its manifest: seconds (the engine's start included), requests, tokens."""
    documents = max(manifest.rows_out, 1)
    prompt, cached = manifest.tokens.get("prompt_tokens", 0), manifest.tokens.get("cached_tokens", 0)
    requests = manifest.notes.get("requests", 0)
    generated = manifest.tokens.get("completion_tokens", requests)  # a score is one token
    return {
        "documents": manifest.rows_out,
        "errors": sum(manifest.errors.values()),
        "unsupported": sum(manifest.notes.get("unsupported", {}).values()),
        "seconds": manifest.seconds,
        "seconds_per_document": manifest.seconds / documents,
        "requests_per_document": requests / documents,
        "prompt_tokens_per_document": prompt / documents,
        "uncached_tokens_per_document": (prompt - cached) / documents,
        "generated_tokens_per_document": generated / documents,
    }
