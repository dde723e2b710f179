"""The incorrect set of a checkpoint: wrong answers that it really gave, every other response counted with its reason; mistakes are one line."""

import shutil
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.records.errors import UserError
from curate.records.manifest import read_manifest
from rl import prime, prime_sampling, traces
from rl.prime import PrimeSettings
from rl.prime_sampling import why_not
from rl.prompts import render
from rl.scoring import score
from rl.warmstart import WORDS
from train.export import export_model
from train.tiny import make_tiny_tokenizer

# What may follow what, all equally likely: answers over 1, 2, 3, some right, some no expression, some without an end.
NEXT = {
    ":": ["<answer>"],
    "<answer>": ["1", "2", "3"],
    **{digit: ["+", "*", "</answer>", "</answer>"] for digit in "123"},
    "+": ["1", "2", "3"],
    "*": ["1", "2", "3", ")"],
    ")": ["</answer>"],
    "</answer>": ["<|eos|>", "<|eos|>", "<|eos|>", "<answer>"],
}


def bigram_model(folder: Path) -> Path:
    """A Llama that samples from NEXT: its layers add nothing, its head is the table."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tiny_tokenizer(WORDS)
    width = (len(tokenizer) + 7) // 8 * 8
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2, dtype="float32",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in {*NEXT, *chain.from_iterable(NEXT.values())}}
    assert all(len(found) == 1 for found in ids.values())
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), width))
        model.lm_head.weight.fill_(-50 / width**0.5)
        for before, after in NEXT.items():
            for token in after:
                share = after.count(token) / len(after)
                model.lm_head.weight[ids[token][0], ids[before][0]] = torch.tensor(share).log() / width**0.5
    export_model(model, tokenizer, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bigram_model(tmp_path_factory.mktemp("bigram"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """18 tasks of two of 1, 2, 3."""
    pairs = [([a, b], target) for a in (1, 2, 3) for b in (1, 2, 3) for target in (a + b, a * b)]
    path = tmp_path_factory.mktemp("tasks") / "tasks.parquet"
    numbers, targets = zip(*pairs)
    pq.write_table(pa.table({"numbers": list(numbers), "target": list(targets), "split": ["train"] * len(pairs)}), path)
    return path


def settings(model, source, out, **changes) -> PrimeSettings:
    given = {
        "from_checkpoint": model, "tasks": source, "out": out, "kind": "incorrect-all", "preset": "tiny", "max_response_tokens": 8,
        "traces_per_task": 20, "num_train": 40, "num_heldout": 8, "device": "cpu", "seed": 1,
    }  # fmt: skip
    return PrimeSettings(**(given | changes))


def rows_of(out):
    return [row for part in ("train", "heldout") for row in pq.read_table(out / part / "primed.parquet").to_pylist()]


def test_wrong_answers_are_kept_and_the_rest_is_counted(model, source, tmp_path):
    prime.run(settings(model, source, tmp_path, num_train=90))
    rows, manifest = rows_of(tmp_path), read_manifest(tmp_path)
    assert len(rows) == 98 and pq.read_table(tmp_path / "train" / "primed.parquet").num_rows == 90
    assert pq.read_schema(tmp_path / "train" / "primed.parquet").equals(prime.primed.SCHEMA)
    for row in rows:
        found = score(row["completion"], row["numbers"], row["target"])
        assert found.reason in ("wrong_value", "numbers") and row["correct"] is False and row["kind"] == "incorrect-all"
        assert row["prompt"] == render("short", row["numbers"], row["target"])
        counts = traces.parse(row["completion"], row["numbers"], row["target"]).counts()
        assert {name: row[name] for name in counts} == counts
    assert len({(row["prompt"], row["completion"]) for row in rows}) == 98
    # every response is in the set or counted, each under the reason that the stored responses give
    stored = [row for file in sorted((tmp_path / "responses").iterdir()) for row in pq.read_table(file).to_pylist()]
    assert manifest.rows_made == len(stored) == manifest.notes["responses"]
    assert manifest.dropped["correct"] == sum(row["correct"] for row in stored) > 0
    assert manifest.dropped["truncated"] == sum(row["truncated"] and not row["correct"] for row in stored) > 0
    assert manifest.dropped["the answer is no expression"] > 0 and manifest.dropped["the same trace again"] > 0
    assert manifest.model == str(model)
    assert {"tasks.parquet", "model.safetensors", "config.json", "tokenizer.json"} <= {Path(file.path).name for file in manifest.inputs}


def test_the_seed_decides_and_an_interrupted_run_ends_the_same(model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(prime_sampling, "TASKS_PER_PART", 5)
    prime.run(settings(model, source, tmp_path / "whole"))
    files = sorted((tmp_path / "whole" / "responses").iterdir())
    assert len(files) > 6
    shutil.copytree(tmp_path / "whole" / "responses", tmp_path / "cut" / "responses")
    (tmp_path / "cut" / "responses" / files[2].name).unlink()
    kept = tmp_path / "cut" / "responses" / files[1].name
    before = kept.stat().st_mtime_ns
    prime.run(settings(model, source, tmp_path / "cut"))
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole") and kept.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings .*seed: 1 -> 2"):
        prime.run(settings(model, source, tmp_path / "cut", seed=2))
    prime.run(settings(model, source, tmp_path / "other", seed=2))
    assert rows_of(tmp_path / "other") != rows_of(tmp_path / "whole")


RESPONSE = {"numbers": [1, 2], "target": 3, "response": "x", "truncated": False, "reason": "wrong_value"}
BEHAVIORS = {"verification": 1, "backtracking": 1, "subgoal_setting": 1, "backward_chaining": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"reason": "numbers"}, None),
        ({"reason": "correct", "truncated": True}, "correct"),
        ({"truncated": True}, "truncated"),
        ({"reason": "no_answer"}, "no answer"),
        ({"reason": "empty"}, "no answer"),
        ({"reason": "syntax"}, "the answer is no expression"),
        ({"reason": "division_by_zero"}, "division by zero"),
        ({"backtracking": 0}, "not all four behaviors"),
    ],
)
def test_each_reason(changes, reason):
    assert why_not(RESPONSE | BEHAVIORS | changes, True, set()) == reason


def test_behaviors_are_asked_for_only_where_the_user_asks():
    assert why_not(RESPONSE | dict.fromkeys(BEHAVIORS, 0), False, set()) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "linear"}, "wrong answers, which are no set linear: add --kind incorrect-all"),
        ({"voice": "terse"}, "--voice means nothing with --from-checkpoint; it goes with --engine "),
        ({"engine": "openai"}, "--engine means nothing with --from-checkpoint"),
        ({"max_result": 20}, "--max-result means nothing with --from-checkpoint; it goes with --engine "),
        ({"tokenizer": "tiny"}, "--tokenizer means nothing with --from-checkpoint; it goes with --engine "),
        (
            {"from_checkpoint": None},
            "--max-response-tokens means nothing with --engine solver; it goes with --from-checkpoint and --engine openai",
        ),
        ({"traces_per_task": 1}, r"after 18 responses, gives \d+ traces \(.*48 were asked for: more tasks"),
        ({"whole_profile": True}, r"gives 0 traces \(.*not all four behaviors"),
        ({"from_checkpoint": Path("nowhere")}, "nowhere is no model \\(no such folder\\)"),
    ],
)
def test_mistakes_are_one_line(model, source, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        prime.run(settings(model, source, tmp_path / "out", **changes))
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "train").exists()


def test_a_folder_without_tokenizer_or_weights(model, source, tmp_path):
    for absent, message in (("tokenizer", "has no tokenizer .*copy in the files"), ("model", r"is no model \(no \*.safetensors\)")):
        shutil.copytree(model, tmp_path / absent)
        for file in (tmp_path / absent).glob(f"{absent}*"):
            file.unlink()
        with pytest.raises(UserError, match=message):
            prime.run(settings(tmp_path / absent, source, tmp_path / "out"))


def test_no_training_tasks(model, source, tmp_path):
    table = pq.read_table(source)
    pq.write_table(table.set_column(2, "split", pa.array(["test"] * table.num_rows)), tmp_path / "tasks.parquet")
    with pytest.raises(UserError, match="has no training tasks"):
        prime.run(settings(model, tmp_path / "tasks.parquet", tmp_path / "out"))
