"""Which rows make which step, the same for any number of processes, micro-batch size and resume point."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from train.data import Documents
from train.packing import IGNORED, Piece, Row, join_rows, make_row, pack_pieces, split_pieces

Item = TypeVar("Item")


@dataclass(frozen=True)
class StepRows:
    """Rows (numbers into `Batches.rows`) of one update, in its epoch, and how many targets they hold in all."""

    epoch: int
    rows: tuple[int, ...]
    num_loss_tokens: int
    num_tokens: int


class Batches:
    """Rows and their order. A row is packed from many documents, or one document (one piece) when `pack` is off.

    Packed once; every epoch shuffles rows with a generator made from (seed, epoch). Every row is used once an epoch: the last step of
    an epoch may be smaller, and its loss is normalised by its own targets.
    """

    def __init__(
        self, documents: Documents, chosen: Sequence[int], *, context: int, pack: bool, rows_per_step: int, seed: int, pad_to: int = 0
    ) -> None:
        self.documents, self.seed, self.rows_per_step, self.pad_to = documents, seed, rows_per_step, pad_to
        lengths = [len(documents.tokens[i]) for i in chosen]
        pieces = [Piece(chosen[piece.document], piece.start, piece.end) for piece in split_pieces(lengths, context)]
        self.num_split = sum(length - 1 > context for length in lengths)
        self.rows: list[list[Piece]] = pack_pieces(pieces, context) if pack else [[piece] for piece in pieces]
        self.row_tokens = np.array([sum(piece.length for piece in row) for row in self.rows], dtype=np.int64)
        self.row_loss_tokens = np.array([sum(self._targets(piece) for piece in row) for row in self.rows], dtype=np.int64)
        self.row_square = np.array([sum(piece.length**2 for piece in row) for row in self.rows], dtype=np.int64)
        self.utilisation = float(self.row_tokens.sum() / max(len(self.rows) * context, 1))

    def _targets(self, piece: Piece) -> int:
        return piece.length - min(max(self.documents.loss_from[piece.document] - 1 - piece.start, 0), piece.length)

    @property
    def steps_per_epoch(self) -> int:
        """Updates an epoch."""
        return -(-len(self.rows) // self.rows_per_step)

    def step(self, step: int) -> StepRows:
        """Rows of update `step` (0-based, over all epochs)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        rows = order[place * self.rows_per_step : (place + 1) * self.rows_per_step]
        return StepRows(epoch, tuple(rows.tolist()), int(self.row_loss_tokens[rows].sum()), int(self.row_tokens[rows].sum()))

    def micro_batches(self, rows: Sequence[int], micro_batch_tokens: int, rank: int = 0, world: int = 1) -> Iterator[Row | None]:
        """This rank's share of `rows`, joined to at most `micro_batch_tokens` positions (one document at least).

        A longer row is cut between its documents, which changes nothing but memory and speed; padded rows stay whole. Every rank
        yields the same number of times, None where it has nothing left: collectives must match.
        """
        parts = [part for row in rows for part in self._parts(row, micro_batch_tokens)]
        parts.sort(key=_num_tokens, reverse=True)
        shares = [self._group(parts[r::world], micro_batch_tokens) for r in range(world)]
        for index in range(max(map(len, shares))):
            yield self._joined(shares[rank][index]) if index < len(shares[rank]) else None

    def joined(self, rows: Sequence[int]) -> Row:
        """The rows, one after another."""
        return self._joined([self.rows[row] for row in rows])

    def _joined(self, parts: Sequence[Sequence[Piece]]) -> Row:
        return join_rows([make_row(part, self.documents.tokens, self.documents.loss_from, pad_to=self.pad_to) for part in parts])

    def _parts(self, row: int, micro_batch_tokens: int) -> list[list[Piece]]:
        pieces = self.rows[row]
        if self.pad_to or self.row_tokens[row] <= micro_batch_tokens:
            return [pieces]
        return _runs(pieces, [piece.length for piece in pieces], micro_batch_tokens)

    def _group(self, parts: Sequence[list[Piece]], micro_batch_tokens: int) -> list[list[list[Piece]]]:
        return _runs(parts, [max(_num_tokens(part), self.pad_to) for part in parts], micro_batch_tokens)


def _runs(items: Sequence[Item], sizes: Sequence[int], capacity: int) -> list[list[Item]]:
    """The items in their order, in as many runs as it takes for none to exceed `capacity` unless it is one item."""
    runs: list[list[Item]] = []
    room = 0
    for item, size in zip(items, sizes, strict=True):
        if size > room:
            runs.append([])
            room = capacity
        runs[-1].append(item)
        room -= size
    return runs


def _num_tokens(pieces: Sequence[Piece]) -> int:
    return sum(piece.length for piece in pieces)


def empty_row() -> Row:
    """Two positions without a target: what a rank computes when it has nothing left, so that collectives match."""
    zeros = np.zeros(2, dtype=np.int64)
    return Row(zeros, np.full(2, IGNORED, dtype=np.int64), np.arange(2), np.array([0, 2], dtype=np.int32))
