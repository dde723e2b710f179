"""Each mistake is one clear line, and the last good checkpoint stays."""

import errno

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.records.errors import OutputError, UserError
from curate.records.settings import build
from tests.train.runs import metrics, write_data
from train.checkpoint import load_latest
from train.loop import train
from train.settings import CptSettings


def settings(tmp_path, **changes):
    values = {
        "data": tmp_path / "data", "out": tmp_path / "out", "context_tokens": 64, "tokens_per_step": 256, "max_steps": 3,
        "learning_rate": 1e-3, "micro_batch_tokens": 256, "save_every_steps": 1, "seed": 3,
    }  # fmt: skip
    return build(CptSettings, {**values, **changes})


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data", count=40)


def test_no_files(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        train("cpt", settings(tmp_path))
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="no Parquet files"):
        train("cpt", settings(tmp_path))


def test_empty_set(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"prompt": ["1+1=", "2+2="], "completion": ["", None]}), tmp_path / "data" / "a.parquet")
    with pytest.raises(UserError, match=r"holds no examples \(2 rows, 2 without a completion\)"):
        train("cpt", settings(tmp_path))


def test_other_columns_and_garbage(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "data" / "a.parquet")
    with pytest.raises(UserError, match="its columns are question"):
        train("cpt", settings(tmp_path))
    pq.write_table(pa.table({"prompt": [1], "completion": [2]}), tmp_path / "data" / "a.parquet")
    with pytest.raises(UserError, match="column `prompt` is int64"):
        train("cpt", settings(tmp_path))
    (tmp_path / "data" / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="cannot read"):
        train("cpt", settings(tmp_path))


def test_row_longer_than_the_context(tmp_path, data):
    with pytest.raises(UserError, match=r"longer than --context-tokens 64.*raise --context-tokens"):
        train("cpt", settings(tmp_path, recipe="four-habits", tokens_per_step=None))


def test_tokenizer_without_eos(tmp_path, data):
    from train.tiny import make_tiny_model, make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer()
    tokenizer.eos_token = None
    make_tiny_model("0.4M", len(tokenizer), 0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="no EOS token"):
        train("cpt", settings(tmp_path, model=str(tmp_path / "model")))


def test_tokenizer_without_pad_is_fine(tmp_path, data):
    from train.tiny import make_tiny_model, make_tiny_tokenizer

    tokenizer = make_tiny_tokenizer()
    tokenizer.pad_token = None
    make_tiny_model("0.4M", len(tokenizer), 0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    train("cpt", settings(tmp_path, model=str(tmp_path / "model"), max_steps=1))


def test_vocabulary_smaller_than_the_tokenizer(tmp_path, data):
    from train.tiny import make_tiny_model, make_tiny_tokenizer

    make_tiny_model("0.4M", 300, 0).save_pretrained(tmp_path / "model")
    make_tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"the tokenizer has 349 tokens, the model .* only 300 embeddings"):
        train("cpt", settings(tmp_path, model=str(tmp_path / "model")))


def test_nan_weights(tmp_path, data):
    from train.tiny import make_tiny_model, make_tiny_tokenizer

    model = make_tiny_model("0.4M", 349, 0)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    make_tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"NaN or infinite weights \(model.layers.1.mlp.up_proj.weight"):
        train("cpt", settings(tmp_path, model=str(tmp_path / "model")))


def test_model_files_cut_short_or_incomplete(tmp_path, data):
    from safetensors.torch import load_file, save_file

    from train.tiny import make_tiny_model, make_tiny_tokenizer

    folder = tmp_path / "model"
    make_tiny_model("0.4M", 349, 0).save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of its weights \(model.layers.1.mlp.up_proj.weight"):
        train("cpt", settings(tmp_path, model=str(folder)))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot load the model"):
        train("cpt", settings(tmp_path, model=str(folder)))


def test_no_such_model(tmp_path, data):
    with pytest.raises(UserError, match="cannot load"):
        train("cpt", settings(tmp_path, model=str(tmp_path / "absent")))
    with pytest.raises(UserError, match="unknown tiny model size"):
        train("cpt", settings(tmp_path, model="tiny:7B"))


def test_changed_data_and_settings_are_refused_and_damage_falls_back(tmp_path, data, capsys):
    train("cpt", settings(tmp_path))
    with pytest.raises(UserError, match=r"learning_rate: 0.001 -> 0.002"):
        train("cpt", settings(tmp_path, learning_rate=2e-3))
    with pytest.raises(UserError, match="--no-resume"):
        train("cpt", settings(tmp_path, resume=False))
    write_data(tmp_path / "data", count=41)
    with pytest.raises(UserError, match="data_sha256"):
        train("cpt", settings(tmp_path))
    assert load_latest(tmp_path / "out" / "checkpoints").step == 3
    write_data(tmp_path / "data", count=40)
    newest = tmp_path / "out" / "checkpoints" / "step-00000003" / "tensors.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    before = metrics(tmp_path / "out")
    capsys.readouterr()
    train("cpt", settings(tmp_path))
    said = capsys.readouterr().err
    assert "step-00000003 is damaged" in said and "resuming after step 2" in said
    assert [line["loss"] for line in metrics(tmp_path / "out")] == [line["loss"] for line in before]
    assert newest.read_bytes() == whole


def test_full_disk_leaves_the_last_good_checkpoint(tmp_path, data, monkeypatch):
    import train.checkpoint as module

    write, calls = module.write_tensors, []

    def fills_up(path, tensors, metadata=None):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, tensors, metadata)

    monkeypatch.setattr(module, "write_tensors", fills_up)
    with pytest.raises(OutputError, match="the disk is full; free some space and run the same command again"):
        train("cpt", settings(tmp_path))
    assert load_latest(tmp_path / "out" / "checkpoints").step == 2 and not list((tmp_path / "out" / "checkpoints").glob("*.tmp"))
    monkeypatch.setattr(module, "write_tensors", write)
    train("cpt", settings(tmp_path))
    assert len(metrics(tmp_path / "out")) == 3


def test_nan_gradients_skip_then_stop(tmp_path, data, monkeypatch):
    import train.loop as loop

    backward = loop.Run.accumulate_gradients

    def poisoned(self, step_rows):
        value = backward(self, step_rows)
        if self.progress.step >= 1:
            next(self.model.parameters()).grad[0, 0] = float("nan")
        return value

    monkeypatch.setattr(loop.Run, "accumulate_gradients", poisoned)
    with pytest.raises(UserError, match=r"step 4: 3 updates had NaN or infinite gradients; stopped. Last good checkpoint: .*step-00000003"):
        train("cpt", settings(tmp_path, max_steps=9, max_skipped_steps=2))
    first, last = (load_latest(tmp_path / "out" / "checkpoints").state["model"], metrics(tmp_path / "out")[-1])
    assert all(torch.isfinite(value).all() for value in first.values())
    assert last["skipped"] == 3 and last["grad_norm"] is None


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("four-habit", "did you mean 'four-habits'"),
        ("learnin_rate = 1", "unknown recipe key 'learnin_rate' .did you mean 'learning_rate'"),
        ("base = 'pakced'", "unknown base recipe 'pakced' .did you mean 'packed'"),
        ("learning_rate = 'fast'", "is not a number"),
        ("learning_rate = ", "cannot read the recipe"),
    ],
)
def test_recipes(tmp_path, data, recipe, message):
    if "=" in recipe:
        (tmp_path / "mine.toml").write_text(recipe)
        recipe = str(tmp_path / "mine.toml")
    with pytest.raises(UserError, match=message):
        train("cpt", settings(tmp_path, recipe=recipe))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens_per_step": 32}, "less than one row"),
        ({"examples_per_step": 4}, "not both"),
        ({"heldout_fraction": 1.0}, "heldout-fraction"),
        ({"max_steps": 0}, "--max-steps must be above 0"),
        ({"adam_beta2": 1.0}, "--adam-beta2 must be from 0 to below 1"),
        ({"lora_rank": -1}, "lora_rank"),
    ],
)
def test_settings_that_contradict(tmp_path, data, changes, message):
    with pytest.raises(UserError, match=message):
        train("cpt", settings(tmp_path, **changes))


def test_loss_that_disagrees_with_the_matching(tmp_path, data):
    from curate.records.manifest import Manifest

    Manifest("match", {"count": "all"}).write(data)
    with pytest.raises(UserError, match="use --loss all"):
        train("cpt", settings(tmp_path))
    train("cpt", settings(tmp_path, loss="all", max_steps=1))
