"""The tiny model is a real tied Llama; its tokenizer gives back any text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.records.errors import UserError
from train.tiny import SIZES, make_tiny_model, make_tiny_tokenizer

TOKENIZER = make_tiny_tokenizer(words=["<think>", "</think>", " check", "no"])


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_round_trips(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TOKENIZER.decode(ids) == text


def test_numbers_and_words_are_single_tokens():
    tokens = TOKENIZER.tokenize("12+99=7 check<think>no not piano 100")
    assert tokens[:7] == ["12", "+", "99", "=", "7", "Ġcheck", "<think>"] and tokens[7] == "no"
    assert "".join(tokens[8:]) == "ĠnotĠpianoĠ100" and tokens[-2:] == ["10", "0"] and "no" not in tokens[8:]


def test_saved_tokenizer_reads_the_same(tmp_path):
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "(12 - 3) * 99 = 891 check <think> żółw"
    assert again(text)["input_ids"] == TOKENIZER(text)["input_ids"] and again(text)["input_ids"][0] == again.bos_token_id == 1
    assert (again.pad_token_id, again.eos_token_id) == (0, 2)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_about_what_they_say_and_tied(size):
    model = make_tiny_model(size, len(make_tiny_tokenizer()), seed=0)
    assert abs(model.num_parameters() / (float(size[:-1]) * 1e6) - 1) < 0.11
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_seeded_and_leaves_the_global_generator_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, second = make_tiny_model("0.4M", 300, 1), make_tiny_model("0.4M", 300, 1)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    with pytest.raises(UserError, match="unknown tiny model size"):
        make_tiny_model("9T", 300, 1)
