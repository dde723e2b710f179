"""What a row of text becomes: which tokens, which of them are targets, and in which order rows are trained."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from train.batches import Batches
from train.data import Documents, load_documents
from train.packing import IGNORED
from train.tiny import make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer()
PAD, BOS, EOS = 0, 1, 2


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("bos", "head"), [("auto", [BOS]), ("always", [BOS]), ("never", [])])
@pytest.mark.parametrize("prompt", ["12+3=", ""])
def test_a_completion_is_trained_from_its_first_token_to_its_end(tmp_path, bos, head, prompt):
    path = write(tmp_path / "a.parquet", prompt=[prompt], completion=["15 ok"])
    documents = load_documents(path, TOKENIZER, loss="completion", bos=bos)
    assert documents.tokens[0].tolist() == [*head, *ids(prompt), *ids("15 ok"), EOS]
    batches = Batches(documents, [0], context=64, pack=True, rows_per_step=1, seed=0)
    row = batches.joined([0])
    trained = row.labels_T[row.labels_T != IGNORED].tolist()
    # without anything before it, the first token has nothing to be predicted from
    expected = [*ids("15 ok"), EOS]
    assert trained == (expected if head or prompt else expected[1:]) and documents.count([0])[1] == len(trained)
    every = load_documents(path, TOKENIZER, loss="all", bos=bos)
    row = Batches(every, [0], context=64, pack=True, rows_per_step=1, seed=0).joined([0])
    assert row.labels_T.tolist() == every.tokens[0][1:].tolist()


def test_text_that_spells_a_special_token_stays_text(tmp_path):
    path = write(tmp_path / "a.parquet", text=["a<|eos|>b", None, ""])
    documents = load_documents(path, TOKENIZER, loss="completion", bos="never")
    assert documents.tokens[0].tolist().count(EOS) == 1 and documents.tokens[0][-1] == EOS
    assert documents.rows_in == 3 and documents.dropped == {"no completion": 2}


def test_every_row_once_an_epoch_in_another_order(tmp_path):
    tokens = [np.arange(5) for _ in range(23)]
    documents = Documents(tokens, [0] * 23, [], "", 23)
    batches = Batches(documents, list(range(23)), context=8, pack=False, rows_per_step=4, seed=1)
    epochs = [[row for step in range(6) for row in batches.step(6 * epoch + step).rows] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != sorted(epochs[0])
    other = Batches(documents, list(range(23)), context=8, pack=False, rows_per_step=4, seed=2)
    assert other.step(0).rows != batches.step(0).rows


def test_a_row_longer_than_a_micro_batch_is_cut_between_documents_only():
    """Every document whole and once, within the limit unless it is longer itself, and the same for any number of processes."""
    lengths = [3, 9, 20, 4, 5, 11, 2, 7, 30, 6]
    tokens = [np.arange(100 * i, 100 * i + length + 1) for i, length in enumerate(lengths)]
    documents = Documents(tokens, [0] * len(tokens), [], "", len(tokens))
    batches = Batches(documents, list(range(len(tokens))), context=64, pack=True, rows_per_step=2, seed=0)
    assert max(batches.row_tokens) > 16
    for world in (1, 2):
        every = [list(batches.micro_batches(range(len(batches.rows)), 16, rank, world)) for rank in range(world)]
        assert len({len(own) for own in every}) == 1
        found = []
        for row in (row for own in every for row in own if row is not None):
            bounds = row.boundaries.tolist()
            found += [tuple(row.input_ids_T[low:high]) for low, high in pairwise(bounds)]
            assert row.num_tokens <= 16 or len(bounds) == 2
        assert sorted(found) == sorted(tuple(own[:-1]) for own in tokens)
    padded = Batches(documents, list(range(len(tokens))), context=64, pack=True, rows_per_step=2, seed=0, pad_to=64)
    assert all(row.num_tokens == 64 for row in padded.micro_batches(range(len(padded.rows)), 16))
