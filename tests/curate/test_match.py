"""The arms are equal in examples and, where the material allows, in tokens; the draw depends on nothing but seed and content."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.matching import (
    choose_pairs,
    count_tokens,
    draw_order,
    load_tokenizer,
    pair_within_strata,
    prompt_and_completion,
    standardised_difference,
)
from curate.records.errors import UserError
from tests.helpers import embedded_model

TOKENS = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=60)


@given(TOKENS, st.integers(1, 20_000), st.sampled_from([0.0, 0.005, 0.1]), st.integers(0, 3))
def test_the_budget_is_kept_and_what_is_counted_is_what_is_chosen(
    pairs: list[tuple[int, int]], budget: int, tolerance: float, seed: int
) -> None:
    first, second = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    order = draw_order([str(number) for number in range(len(pairs))], seed)
    choice = choose_pairs(first, second, order, budget, tolerance)
    assert len(set(choice.chosen)) == len(choice.chosen)
    assert choice.tokens == (int(first[choice.chosen].sum()), int(second[choice.chosen].sum()))
    assert max(choice.tokens) <= budget
    assert choice.chosen or min(np.maximum(first, second)) > budget  # empty only when nothing fits


@given(TOKENS, st.integers(100, 20_000))
def test_no_single_change_would_bring_uneven_arms_closer(pairs: list[tuple[int, int]], budget: int) -> None:
    first, second = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    choice = choose_pairs(first, second, range(len(pairs)), budget, 0.005)
    gap = choice.tokens[0] - choice.tokens[1]
    if len(choice.chosen) < 2 or abs(gap) <= 0.005 * max(choice.tokens):
        return
    gaps = first - second
    assert all(abs(gap - gaps[index]) >= abs(gap) for index in choice.chosen)
    for index in set(range(len(pairs))) - set(choice.chosen):
        if max(choice.tokens[0] + first[index], choice.tokens[1] + second[index]) <= budget:
            assert abs(gap + gaps[index]) >= abs(gap)


@pytest.mark.parametrize("seed", range(5))
def test_material_as_rewriting_leaves_it_comes_within_half_a_percent(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first = generator.integers(80, 700, 400)
    second = (first * generator.uniform(0.9, 1.1, 400) * 0.97).astype(np.int64)  # one arm is shorter throughout
    choice = choose_pairs(first, second, draw_order([str(number) for number in range(400)], seed), 60_000, 0.005)
    assert abs(choice.tokens[0] - choice.tokens[1]) <= 0.005 * max(choice.tokens)
    assert max(choice.tokens) >= 0.97 * 60_000


@given(st.lists(st.text(max_size=5), unique=True, max_size=30), st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_draw_does_not_know_the_order_of_files(keys: list[str], random: object, seed: int) -> None:
    shuffled = list(keys)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [keys[index] for index in draw_order(keys, seed)] == [shuffled[index] for index in draw_order(shuffled, seed)]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), max_size=20),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), max_size=20),
)
def test_strata_pair_one_to_one_and_as_many_as_there_can_be(left: list[tuple[str, int]], right: list[tuple[str, int]]) -> None:
    def frame(rows: list[tuple[str, int]], name: str) -> pl.DataFrame:
        data = {"source": [row[0] for row in rows], "num_loss_tokens": [row[1] for row in rows]}
        return pl.DataFrame(data, schema={"source": pl.String, "num_loss_tokens": pl.Int64}).with_columns(
            pl.Series("pair_id", [f"{name}{number}" for number in range(len(rows))], dtype=pl.String)
        )

    pairs = pair_within_strata(frame(left, "l"), frame(right, "r"), ["source"], seed=0)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert all(left[a][0] == right[b][0] for a, b in pairs)
    possible = sum(min(sum(row[0] == name for row in left), sum(row[0] == name for row in right)) for name in "ab")
    assert len(pairs) == possible


def test_standardised_differences() -> None:
    first, second = np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])
    assert standardised_difference(first, second) == pytest.approx(-1 / np.sqrt(2 / 3))
    assert standardised_difference(np.array([5.0]), np.array([5.0])) == 0.0
    assert standardised_difference(np.array([5.0]), np.array([6.0])) is None
    assert standardised_difference(np.array([np.nan]), second) is None
    assert standardised_difference(np.array([1.0, np.nan, 2.0, 3.0]), first) == 0.0


def test_training_reads_braces_as_they_stand_and_one_end_of_text_is_counted() -> None:
    prompt, completion = prompt_and_completion({"question": r"Solve \frac{1}{x}", "thoughts": "{x}", "answer": "{2}"})
    assert r"\frac{1}{x}" in prompt and completion == "\n{x}\n</think>\n<answer>{2}</answer>"
    assert prompt.endswith("<think>")
    tokenizer = load_tokenizer(str(embedded_model()))
    length = len(tokenizer.encode(completion, add_special_tokens=False))
    assert count_tokens(tokenizer, [prompt], [completion], "completion").tolist() == [length + 1]
    assert count_tokens(tokenizer, [prompt], [completion], "all")[0] == length + 1 + len(tokenizer.encode(prompt, add_special_tokens=False))


def test_a_gated_or_unknown_tokenizer_names_the_way_out(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    with pytest.raises(UserError, match=r"gated: ask for access .*--tokenizer") as caught:
        load_tokenizer("meta-llama/Llama-3.2-3B")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="choose another with --tokenizer"):
        load_tokenizer(str(tmp_path))


def refuse(*_: object, **__: object) -> None:
    raise OSError("You are trying to access a gated repo.\nMake sure to have access to it")
