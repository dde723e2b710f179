"""The arms are equal in examples and, where the material allows, in tokens; the draw depends on nothing but seed and content."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.balance import category_differences, ks_distance, standardised_difference
from curate.matching import count_tokens, load_tokenizer, prompt_and_completion
from curate.matching_budget import choose_blocks
from curate.matching_strata import Coarsened, coarsen, match_across, order_keys
from curate.records.errors import UserError
from tests.helpers import embedded_model

BLOCKS = st.integers(2, 4).flatmap(lambda arms: st.lists(st.tuples(*[st.integers(1, 400)] * arms), min_size=1, max_size=60))


def spread(totals: tuple[int, ...]) -> float:
    """Squared distance of the arms' totals from their mean: what every change has to lower."""
    return float(((np.array(totals) - np.mean(totals)) ** 2).sum())


@given(BLOCKS, st.integers(1, 20_000), st.sampled_from([0.0, 0.001, 0.1]), st.integers(0, 3))
def test_the_budget_is_kept_and_what_is_counted_is_what_is_chosen(
    blocks: list[tuple[int, ...]], budget: int, tolerance: float, seed: int
) -> None:
    tokens = np.array(blocks, dtype=np.int64).T
    order = np.random.default_rng(seed).permutation(len(blocks)).tolist()
    choice = choose_blocks(tokens, order, budget, tolerance)
    assert len(set(choice.chosen)) == len(choice.chosen)
    assert list(choice.tokens) == tokens[:, choice.chosen].sum(axis=1).tolist()
    assert max(choice.tokens) <= budget
    assert choice.chosen or tokens.max(axis=0).min() > budget  # empty only when nothing fits


@pytest.mark.parametrize("seed", range(3))
def test_of_few_blocks_the_choice_is_the_best_there_is(seed: int) -> None:
    """All 2^12 choices are tried."""
    generator = np.random.default_rng(seed)
    tokens, differences = generator.integers(80, 200, (2, 12)), generator.normal(0.05, 0.2, (1, 12))
    best = 0.0
    for number in range(1, 2**12):
        inside = [place for place in range(12) if number >> place & 1]
        totals = tokens[:, inside].sum(axis=1)
        if np.ptp(totals) <= 0.01 * totals.max() and abs(differences[:, inside].mean()) <= 0.04:
            best = max(best, totals.mean())
    choice = choose_blocks(tokens, range(12), 10**6, 0.01, differences)
    assert abs(differences[:, choice.chosen].mean()) <= 0.04 and np.ptp(choice.tokens) <= 0.01 * max(choice.tokens)
    assert np.mean(choice.tokens) >= 0.98 * best


@given(BLOCKS, st.integers(100, 20_000))
def test_no_single_change_would_bring_uneven_arms_closer(blocks: list[tuple[int, ...]], budget: int) -> None:
    tokens = np.array(blocks, dtype=np.int64).T
    choice = choose_blocks(tokens, range(len(blocks)), budget, 0.001)
    if len(choice.chosen) < 2 or max(choice.tokens) - min(choice.tokens) <= 0.001 * max(choice.tokens):
        return
    totals = np.array(choice.tokens)
    assert all(spread(totals - tokens[:, index]) >= spread(totals) - 1e-6 for index in choice.chosen)
    for index in set(range(len(blocks))) - set(choice.chosen):
        if (totals + tokens[:, index]).max() <= budget:
            assert spread(totals + tokens[:, index]) >= spread(totals) - 1e-6


def test_evening_the_tokens_does_not_unbalance_the_covariates() -> None:
    generator = np.random.default_rng(1)
    tokens = generator.integers(80, 700, (2, 300))
    differences = generator.normal(0.03, 0.2, (3, 300)) + 0.0005 * (tokens[0] - tokens[1])  # longer in tokens, higher in covariates
    alone = choose_blocks(tokens, range(300), 10**9, 0.001)
    both = choose_blocks(tokens, range(300), 10**9, 0.001, differences)
    for choice in (alone, both):
        assert max(choice.tokens) - min(choice.tokens) <= 0.001 * max(choice.tokens)
    assert np.abs(differences[:, both.chosen].mean(axis=1)).max() <= 0.05
    assert len(both.chosen) > 200


@pytest.mark.parametrize("arms", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_material_as_rewriting_leaves_it_comes_within_a_thousandth_and_one_example(arms: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    base = generator.integers(80, 700, 400)
    bias = np.array([1.0, 0.97, 1.02, 0.99])[:arms, None]  # some arms are shorter throughout
    tokens = (base * generator.uniform(0.9, 1.1, (arms, 400)) * bias).astype(np.int64)
    choice = choose_blocks(tokens, generator.permutation(400).tolist(), 60_000, 0.001)
    assert max(choice.tokens) - min(choice.tokens) <= 0.001 * max(choice.tokens) < tokens.min()
    assert max(choice.tokens) >= 60_000 - tokens.max()


@given(
    st.lists(st.text("0123456789abcdef", min_size=16, max_size=16), unique=True, max_size=30),
    st.randoms(use_true_random=False),
    st.integers(0, 9),
)
def test_the_draw_does_not_know_the_order_of_rows(hashes: list[str], random: object, seed: int) -> None:
    shuffled = list(hashes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (
        [names[place] for place in np.argsort(order_keys(pl.Series(names, dtype=pl.String), seed), kind="stable")]
        for names in (hashes, shuffled)
    )
    assert [name[-15:] for name in one] == [name[-15:] for name in other]


STRATA = st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 9)), max_size=20)


@given(STRATA, STRATA, st.sampled_from([0.0, 2.0, 100.0]), st.one_of(st.none(), st.integers(0, 5)))
def test_strata_pair_one_to_one_inside_the_caliper_and_every_row_is_accounted_for(
    left: list[tuple[int, int]], right: list[tuple[int, int]], caliper: float, limit: int | None
) -> None:
    def side(rows: list[tuple[int, int]], column: int) -> np.ndarray:
        return np.array([row[column] for row in rows], dtype=np.int64)

    made = Coarsened(
        (side(left, 0), side(right, 0)), (side(left, 1).astype(float).reshape(-1, 1), side(right, 1).astype(float).reshape(-1, 1)), []
    )
    matched = match_across(made, (np.arange(len(left)), np.arange(len(right))), caliper, limit)
    pairs = matched.pairs
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert all(left[a][0] == right[b][0] and abs(left[a][1] - right[b][1]) <= caliper for a, b in pairs)
    for rows, counts in zip((left, right), matched.unmatched, strict=True):
        assert len(pairs) + sum(counts.values()) == len(rows)
    possible = sum(min(sum(row[0] == name for row in left), sum(row[0] == name for row in right)) for name in (0, 1))
    if caliper == 100:
        assert len(pairs) == (possible if limit is None else min(possible, limit))


@pytest.mark.parametrize("seed", range(3))
def test_partners_are_exchanged_until_tokens_and_covariates_are_close(seed: int) -> None:
    generator = np.random.default_rng(seed)
    few, many = generator.integers(100, 400, 50), generator.integers(100, 500, 150)
    places = tuple(generator.normal(0, 0.5, (count, 1)) for count in (50, 150))
    made = Coarsened((np.zeros(50, dtype=np.int64), np.zeros(150, dtype=np.int64)), places, [])
    for sides in ((few, many), (many, few)):
        turned = made if sides[0] is few else Coarsened(made.strata[::-1], places[::-1], [])
        keys = tuple(np.arange(len(side)) for side in sides)
        pairs = match_across(turned, keys, 1.0, sizes=sides).pairs
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) == 50
        left, right = [a for a, _ in pairs], [b for _, b in pairs]
        assert abs(sides[0][left].sum() - sides[1][right].sum()) <= 0.001 * sides[0][left].sum()
        assert abs(turned.places[0][left].mean() - turned.places[1][right].mean()) <= 0.02


def sources(count: int, seed: int, **columns: object) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    made = {
        "source": ["a", "b"] * (count // 2),
        "source_file": "f",
        "url": None,
        "num_chars": generator.integers(300, 5000, count),
        "topic": generator.choice(["algebra", "geometry"], count),
        "notation_density": generator.uniform(0, 0.4, count),
        "difficulty": generator.normal(size=count),
    }
    return pl.DataFrame(made | columns).with_columns(pl.col("url").cast(pl.String), pl.col("difficulty").cast(pl.Float64))


def test_strata_are_equal_in_source_topic_and_the_factor_of_two_of_length() -> None:
    first, second = sources(40, 1), sources(60, 2)
    made = coarsen(first, second, ["source", "length", "topic"])
    keys = (np.arange(40), np.arange(60))
    pairs = match_across(made, keys, 100.0).pairs
    assert pairs
    for a, b in pairs:
        one, other = first.row(a, named=True), second.row(b, named=True)
        assert one["source"] == other["source"] and one["topic"] == other["topic"]
        assert int(np.log2(one["num_chars"])) == int(np.log2(other["num_chars"]))


def test_a_single_source_and_an_unknown_topic_are_no_obstacle_and_said() -> None:
    first, second = sources(20, 1, source="a", topic=None, difficulty=None), sources(20, 2, source="a", topic=None, difficulty=None)
    made = coarsen(first, second, ["source", "length", "topic", "difficulty"])
    assert made.constant == ["source", "topic", "difficulty"]
    assert match_across(made, (np.arange(20), np.arange(20)), 100.0).pairs


def test_a_corpus_of_files_is_matched_on_the_host_of_its_addresses() -> None:
    hosts = [f"https://www.{name}.org/page/{number}" for name in ("math", "physics") for number in range(20)]
    frame = sources(40, 3, source="f", url=hosts)
    made = coarsen(frame, frame, ["source"])
    assert [len(np.unique(side[:20])) for side in made.strata] == [1, 1] and len(np.unique(made.strata[0])) == 2
    rare = sources(40, 3, source="f", url=[f"https://host{number}.org/" for number in range(40)])
    assert coarsen(rare, rare, ["source"]).constant == ["source"]


def test_ks_and_categories_against_definitions() -> None:
    assert ks_distance(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 1.0
    assert ks_distance(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.0])) == 0.0
    assert ks_distance(np.array([np.nan]), np.array([1.0])) is None
    difference, distance, worst = category_differences(["a", "a", "b", "b"], ["a", "b", "b", "b"])
    assert distance == pytest.approx(0.25) and worst in ("a", "b")
    assert abs(difference) == pytest.approx(0.25 / np.sqrt((0.25 + 0.1875) / 2))


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
