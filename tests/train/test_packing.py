"""Packing loses nothing, repeats nothing, overfills nothing, joins no two documents."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.packing import IGNORED, best_fit_decreasing, join_rows, pack_rows

documents = st.lists(st.integers(1, 40), min_size=0, max_size=40)


@given(st.lists(st.integers(1, 17), max_size=60), st.integers(17, 40))
@settings(max_examples=100, deadline=None)
def test_best_fit_decreasing_holds_each_item_once(lengths, capacity):
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(i for row in bins for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in bins)
    if lengths:  # the classic bound, in its weak form: no two bins are both at most half full
        assert sum(sum(lengths[i] for i in row) * 2 <= capacity for row in bins) <= 1


def slow_best_fit(lengths, capacity):
    bins = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [b for b in bins if sum(lengths[i] for i in b) + lengths[index] <= capacity]
        if fitting:
            max(fitting, key=lambda b: sum(lengths[i] for i in b)).append(index)
        else:
            bins.append([index])
    return bins


@given(st.lists(st.integers(1, 17), max_size=40))
@settings(max_examples=50, deadline=None)
def test_best_fit_decreasing_equals_the_definition(lengths):
    loads = [sorted(lengths[i] for i in row) for row in best_fit_decreasing(lengths, 20)]
    assert sorted(loads) == sorted(sorted(lengths[i] for i in row) for row in slow_best_fit(lengths, 20))


@given(documents, st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_every_pair_once_and_no_pair_across_documents(lengths, context):
    # token value = document * 1000 + place, so a pair says where it came from
    tokens = [np.arange(length) + 1000 * d for d, length in enumerate(lengths)]
    rows = pack_rows(tokens, context)
    pairs = []
    for row in rows:
        assert row.num_tokens <= context and row.boundaries[-1] == row.num_tokens
        assert ((row.position_ids_T == 0).nonzero()[0] == row.boundaries[:-1]).all()
        pairs += list(zip(row.input_ids_T.tolist(), row.labels_T.tolist()))
    expected = [(int(a), int(b)) for document in tokens for a, b in itertools.pairwise(document)]
    assert sorted(pairs) == sorted(expected)
    # in = trained + masked: the first token of each document is never a target
    assert sum(lengths) == sum(row.num_loss_tokens for row in rows) + len(lengths)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=20), st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_prompt_is_masked_also_when_split(parts, context):
    tokens = [np.arange(prompt + completion) + 1000 * d for d, (prompt, completion) in enumerate(parts)]
    rows = pack_rows(tokens, context, loss_from=[prompt for prompt, _ in parts])
    targets = sorted(label for row in rows for label in row.labels_T.tolist() if label != IGNORED)
    assert targets == sorted(
        int(t) for document, (prompt, _) in zip(tokens, parts) for place, t in enumerate(document) if place >= max(prompt, 1)
    )


def test_join_rows_keeps_boundaries():
    rows = pack_rows([np.arange(5), np.arange(9), np.arange(3)], 8)
    joined = join_rows(rows)
    assert joined.num_tokens == sum(row.num_tokens for row in rows) == joined.boundaries[-1]
    assert ((joined.position_ids_T == 0).nonzero()[0] == joined.boundaries[:-1]).all()


def test_over_long_item_is_refused():
    with pytest.raises(ValueError, match="capacity"):
        best_fit_decreasing([9], 8)
