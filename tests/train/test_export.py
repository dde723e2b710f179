"""The exported folder is what transformers expects: same logits, tied weights, own tokenizer; and it can be trained on."""

import json

import torch
from safetensors import safe_open

from tests.train.runs import write_data
from train.checkpoint import load_latest
from train.loop import train
from train.model import load_model, load_tokenizer
from train.settings import SftSettings


def test_trained_model_loads_everywhere(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_data(tmp_path / "data", count=30)
    options = {"context_tokens": 64, "tokens_per_step": 256, "learning_rate": 1e-3}
    train("sft", SftSettings(data=tmp_path / "data", out=tmp_path / "out", max_steps=2, **options))
    folder = tmp_path / "out" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight and model.config.tie_word_embeddings
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys() and "model.embed_tokens.weight" in file.keys()  # noqa: SIM118
    trained = load_latest(tmp_path / "out" / "checkpoints").state["model"]
    for name, value in model.named_parameters():
        assert torch.equal(value, trained[f"lm.{name}"]), name
    written = json.loads((folder / "config.json").read_text())
    assert written["dtype"] == "float32" and "fourhabits" not in json.dumps(written)
    ids = tokenizer("12+3=", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] == ids["input_ids"].shape[1] + 3
    # the output folder itself can be given as --model
    again = load_model(str(tmp_path / "out"), tokenizer=load_tokenizer(str(tmp_path / "out")))
    assert torch.equal(again.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_manifest_accounts_for_every_token(tmp_path):
    write_data(tmp_path / "data", count=30)
    train(
        "sft",
        SftSettings(data=tmp_path / "data", out=tmp_path / "out", epochs=1.0, context_tokens=32, tokens_per_step=512, heldout_fraction=0.2),
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    tokens = manifest["tokens"]
    assert tokens["in"] == tokens["trained"] + tokens["masked"] + tokens["held_out"] and tokens["held_out"] > 0
    assert manifest["rows_in"] == manifest["rows_out"] == 30 and manifest["stage"] == "sft"
