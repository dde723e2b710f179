"""From documents to the rows of a run: how they are packed, how many updates they make, and where every token goes."""

import math

from curate.records.errors import UserError
from train.batches import Batches
from train.data import Documents
from train.settings import TrainSettings


def make_batches(documents: Documents, chosen: list[int], settings: TrainSettings) -> Batches:
    """Rows as the settings say. Raises UserError for an over-long document under `--over-long error`."""
    assert settings.context_tokens is not None
    longest = max(chosen, key=lambda i: len(documents.tokens[i]))
    if settings.over_long == "error" and len(documents.tokens[longest]) - 1 > settings.context_tokens:
        count = sum(len(documents.tokens[i]) - 1 > settings.context_tokens for i in chosen)
        raise UserError(
            f"{count} of {len(chosen)} examples are longer than --context-tokens {settings.context_tokens} (the longest, example "
            f"{longest}, has {len(documents.tokens[longest])} tokens); raise --context-tokens, or use --over-long split"
        )
    rows = settings.examples_per_step or max((settings.tokens_per_step or 0) // settings.context_tokens, 1)
    pad_to = settings.context_tokens if settings.compile else 0
    return Batches(
        documents, chosen, context=settings.context_tokens, pack=bool(settings.pack), rows_per_step=rows, seed=settings.seed, pad_to=pad_to
    )


def count_steps(batches: Batches, settings: TrainSettings) -> int:
    """Updates of the whole run. Raises UserError when there is nothing to train on."""
    if not batches.rows or not batches.row_loss_tokens.sum():
        raise UserError("the set has no targets: every example is a single token, or all of it is masked")
    by_epochs = math.ceil(batches.steps_per_epoch * settings.epochs - 1e-9) if settings.epochs is not None else None
    return min(count for count in (by_epochs, settings.max_steps) if count is not None)


def account(documents: Documents, batches: Batches, chosen: list[int], kept_out: list[int]) -> dict[str, int]:
    """Tokens of one epoch by what becomes of them: in = trained + masked + held_out, and rows hold exactly the trained ones."""
    (num_in, _), (num_chosen, trained), (held_out, _) = (documents.count(part) for part in (range(len(documents.tokens)), chosen, kept_out))
    assert trained == int(batches.row_loss_tokens.sum()), "packing lost or repeated a target"
    assert num_in == num_chosen + held_out
    return {"in": num_in, "trained": trained, "masked": num_chosen - trained, "held_out": held_out}


def describe(documents: Documents, batches: Batches, num_steps: int, settings: TrainSettings, tokens: dict[str, int]) -> str:
    """What is about to happen: where the tokens go, and the updates an epoch."""
    dropped = "".join(f", {count:,} dropped ({reason})" for reason, count in documents.dropped.items())
    held_out = f" + {tokens['held_out']:,} held out" if tokens["held_out"] else ""
    unit = f"{settings.tokens_per_step:,} tokens" if settings.tokens_per_step else f"{settings.examples_per_step} rows"
    return (
        f"{len(documents.tokens):,} examples{dropped}: {tokens['in']:,} tokens in = {tokens['trained']:,} trained + "
        f"{tokens['masked']:,} masked{held_out}; {batches.num_split:,} examples longer than {settings.context_tokens} were split\n"
        f"{len(batches.rows):,} rows, {batches.utilisation:.1%} of {settings.context_tokens} tokens full; {unit} an update: "
        f"{batches.steps_per_epoch:,} updates an epoch, {num_steps:,} in all (recipe {settings.recipe})"
    )
