"""Tiny models for machines without a GPU: the architecture and the code path of Llama-3.2, 0.4M to 10M parameters, nothing downloaded.

Heavy imports happen inside the functions, so that a command line can be built without them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curate.records.errors import UserError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
MAX_NUMBER = 99


@dataclass(frozen=True)
class TinyConfig:
    """Shape of a Llama with tied embeddings. `context` is the largest position; rotary, so a longer one costs no parameters."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    context: int = 4096


# About this many parameters with the 349 tokens of the tiny tokenizer; grouped-query attention on, as in Llama-3.2.
SIZES = {
    "0.4M": TinyConfig(hidden=96, layers=4, heads=4, kv_heads=2, intermediate=256),
    "0.6M": TinyConfig(hidden=128, layers=3, heads=4, kv_heads=2, intermediate=384),
    "1M": TinyConfig(hidden=128, layers=5, heads=4, kv_heads=2, intermediate=384),
    "3M": TinyConfig(hidden=192, layers=7, heads=6, kv_heads=2, intermediate=544),
    "10M": TinyConfig(hidden=320, layers=9, heads=5, kv_heads=5, intermediate=768),
}


def make_tiny_model(size: str | TinyConfig, vocab_size: int, seed: int) -> "LlamaForCausalLM":
    """A randomly initialised Llama in float32 with tied embeddings, the same for the same seed; the global generator is left as it was.

    Token ids 0, 1, 2 are pad, BOS, EOS, as in `make_tiny_tokenizer`. Raises UserError for an unknown size.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if isinstance(size, str):
        if size not in SIZES:
            raise UserError(f"unknown tiny model size {size!r}; choose one of {', '.join(SIZES)}")
        size = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def make_tiny_tokenizer(words: Sequence[str] = (), max_number: int = MAX_NUMBER) -> "PreTrainedTokenizerFast":
    """A tokenizer built in code: bytes, one token per number up to `max_number`, and the given `words`; any UTF-8 text round-trips.

    Ids: 0 pad, 1 BOS, 2 EOS, 3..258 the bytes, then the numbers of two digits and more, then the words in the order given. Digits are
    grouped from the left (`123` is `12` `3` with `max_number` 99). A word may be any string (`<think>`, ` check`); it is matched whole,
    before the bytes, and never inside a longer run of letters. Plain encoding puts BOS in front, as Llama's tokenizer does.
    """
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = {token: index for index, token in enumerate((PAD, BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    for piece in (*map(str, range(10, max_number + 1)), *words):
        spelled = "".join(part for part, _ in to_bytes.pre_tokenize_str(piece))
        vocab.setdefault(spelled, len(vocab))
    digits = "|".join(rf"\d{{{n}}}" if n > 1 else r"\d" for n in range(len(str(max_number)), 0, -1))
    whole = [re.escape(word) + (r"(?!\p{L})" if word[-1].isalpha() else "") for word in sorted(words, key=len, reverse=True)]
    pattern = "|".join([*whole, digits, r" ?\p{L}+", r"[\s\S]"])
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False, model_max_length=4096
    )
