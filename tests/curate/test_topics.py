"""Topics do not depend on the order of documents, survive being written down, and tell subjects apart; difficulty is the formula."""

import json
import random
from pathlib import Path

import pytest

from curate.records.errors import UserError
from curate.topic_clusters import default_topics, difficulty, fit_topics, read_model

ALGEBRA = ["matrix", "vector", "basis", "eigenvalue", "linear", "rank", "kernel", "determinant"]
GAMES = ["dice", "cards", "probability", "deck", "hand", "suit", "draw", "odds"]


def corpus(count: int) -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices((ALGEBRA, GAMES)[number % 2], k=30)) for number in range(count)]


def test_subjects_are_told_apart_whatever_the_order_of_documents() -> None:
    texts = corpus(120)
    model = fit_topics(texts, 2, seed=0)
    topics = model.assign(texts)
    assert len(set(topics)) == 2 and len(set(topics[::2])) == len(set(topics[1::2])) == 1
    shuffled = random.Random(1).sample(texts, len(texts))
    assert fit_topics(shuffled, 2, seed=0).to_json() == model.to_json()
    assert any(word in topics[0] for word in ALGEBRA)
    assert model.assign([]) == [] and model.assign(["nothing known"])[0] in topics


def test_a_model_is_the_same_after_it_was_written_down(tmp_path: Path) -> None:
    texts = corpus(120)
    model = fit_topics(texts, 2, seed=0)
    path = tmp_path / "topics.json"
    path.write_text(json.dumps(model.to_json()))
    assert read_model(path).assign(texts) == model.assign(texts)
    path.write_text("{")
    with pytest.raises(UserError, match="the topic model .* cannot be read"):
        read_model(path)


def test_few_documents_make_one_topic_and_none_with_words_is_said() -> None:
    assert len(fit_topics(corpus(20), 32, seed=0).names) == 1
    with pytest.raises(UserError, match="they share no words"):
        fit_topics(["1 + 1 = 2", "3"], 4, seed=0)
    assert fit_topics(["1 + 1 = 2", "3"], 1, seed=0).assign(["1 + 1 = 2", "a word"]) == ["00 all documents"] * 2


def test_the_number_of_topics_grows_with_the_documents_and_few_documents_have_one() -> None:
    assert [default_topics(count) for count in (0, 60, 300, 5_760, 100_000, 6_300_000)] == [1, 1, 2, 8, 32, 32]


def test_difficulty_is_the_coleman_liau_index_of_the_prose() -> None:
    text = "The cat sat on the mat and ran. It was $x^2 \\alpha$ a very good day."
    words = ["The", "cat", "sat", "on", "the", "mat", "and", "ran", "It", "was", "a", "very", "good", "day"]
    letters = 100 * sum(map(len, words)) / len(words)
    assert difficulty(text) == pytest.approx(0.0588 * letters - 0.296 * 100 * 2 / len(words) - 15.8)
    assert difficulty("$x = 2$, so $y$.") is None
