"""Documents into rows: best fit decreasing, over-long documents split, nothing dropped, documents kept apart.

A document of L tokens gives L - 1 pairs (token, next token). Pairs, not tokens, are what is split and packed: a split between two pairs
loses no target, because the last pair of one piece already holds the first token of the next as its target. Labels are therefore
*already shifted*: `labels[i]` is the target of position i. Every piece starts again at position 0, which is what keeps pieces apart
(`train.attention`), and no pair joins two documents.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

IGNORED = -100


@dataclass(frozen=True)
class Piece:
    """Pairs `start` to `end` (exclusive) of document `document`; a document no longer than the context is one piece."""

    document: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Pairs, which is also positions in a row."""
        return self.end - self.start


@dataclass(frozen=True)
class Row:
    """One packed row: arrays of equal length T, and where its pieces begin and end.

    `input_ids_T`, `labels_T` (shifted, -100 = no loss), `position_ids_T` (from 0 in each piece), `boundaries` (0, …, T).
    """

    input_ids_T: np.ndarray
    labels_T: np.ndarray
    position_ids_T: np.ndarray
    boundaries: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Positions of the row."""
        return len(self.input_ids_T)

    @property
    def num_loss_tokens(self) -> int:
        """Targets that the loss sees."""
        return int((self.labels_T != IGNORED).sum())


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity`: longest first, each into the fullest bin that still holds it.

    Deterministic (ties go to the lower index, then to the older bin). Raises ValueError for a length over the capacity or below 1.
    """
    if any(not 0 < length <= capacity for length in lengths):
        raise ValueError(f"lengths must be from 1 to the capacity {capacity}")
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # free room -> heap of the bins with exactly that room
    rooms = 0  # bit r is set when some bin has room r: the smallest fitting room is one shift and one mask away
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            waiting = by_room[room]
            chosen = heapq.heappop(waiting)
            if not waiting:
                rooms ^= 1 << room
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        if left := room - length:
            heapq.heappush(by_room.setdefault(left, []), chosen)
            rooms |= 1 << left
    return bins


def split_pieces(num_tokens: Sequence[int], context: int) -> list[Piece]:
    """Pieces of at most `context` positions that cover each document's pairs once, in order. A document of one token gives none."""
    return [
        Piece(document, start, min(start + context, length - 1))
        for document, length in enumerate(num_tokens)
        for start in range(0, length - 1, context)
    ]


def pack_pieces(pieces: Sequence[Piece], context: int) -> list[list[Piece]]:
    """Rows of pieces, best fit decreasing; inside a row in document order."""
    return [
        sorted((pieces[i] for i in row), key=lambda piece: (piece.document, piece.start))
        for row in best_fit_decreasing([piece.length for piece in pieces], context)
    ]


def make_row(pieces: Iterable[Piece], tokens: Sequence[np.ndarray], loss_from: Sequence[int], pad_to: int = 0, pad_id: int = 0) -> Row:
    """The arrays of one row. `tokens[d]` are document d's ids, `loss_from[d]` its first token that is a target (0 or 1: all of them).

    With `pad_to`, the row is filled up with a last piece of `pad_id` that has no targets, for fixed shapes.
    """
    ids, labels, positions, boundaries = [], [], [], [0]
    for piece in pieces:
        document = tokens[piece.document]
        ids.append(document[piece.start : piece.end])
        target = document[piece.start + 1 : piece.end + 1].astype(np.int64)
        target[: max(loss_from[piece.document] - 1 - piece.start, 0)] = IGNORED
        labels.append(target)
        positions.append(np.arange(piece.length))
        boundaries.append(boundaries[-1] + piece.length)
    if (missing := pad_to - boundaries[-1]) > 0:
        ids.append(np.full(missing, pad_id))
        labels.append(np.full(missing, IGNORED))
        positions.append(np.arange(missing))
        boundaries.append(pad_to)
    ids_T, labels_T, positions_T = (np.concatenate(parts).astype(np.int64) for parts in (ids, labels, positions))
    return Row(ids_T, labels_T, positions_T, np.array(boundaries, dtype=np.int32))


def pack_rows(tokens: Sequence[np.ndarray], context: int, loss_from: Sequence[int] | None = None) -> list[Row]:
    """Pack documents into rows of at most `context` positions: `split_pieces`, `pack_pieces`, `make_row` in one call.

    `tokens` are documents' ids, special tokens included. Every document's pairs appear exactly once.
    """
    pieces = split_pieces([len(document) for document in tokens], context)
    starts = loss_from if loss_from is not None else [0] * len(tokens)
    return [make_row(row, tokens, starts) for row in pack_pieces(pieces, context)]


def join_rows(rows: Sequence[Row]) -> Row:
    """Rows one after another as a single row, which is how a micro-batch is fed: (1, T) with no padding between them."""
    offsets = np.cumsum([0, *(row.num_tokens for row in rows)])
    ends = [row.boundaries[1:] + offset for row, offset in zip(rows, offsets)]
    return Row(
        np.concatenate([row.input_ids_T for row in rows]),
        np.concatenate([row.labels_T for row in rows]),
        np.concatenate([row.position_ids_T for row in rows]),
        np.concatenate([np.zeros(1, np.int32), *ends]).astype(np.int32),
    )
