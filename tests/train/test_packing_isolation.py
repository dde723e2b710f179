"""The start-up check passes on sound models and stops the unsound: it must fail when documents are made to leak."""

import pytest
import torch

import train.attention as attention
from curate.records.errors import UserError
from train.attention import DocumentSpans, check_isolation, packed_inputs, use_packed_attention
from train.packing import join_rows, pack_rows
from train.tiny import make_tiny_model, make_tiny_tokenizer


@pytest.fixture
def model():
    made = make_tiny_model("0.4M", 349, 0)
    use_packed_attention(made)
    return made


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 3e-2)])
def test_sound_model_passes(model, dtype, limit):
    model.to(torch.float64 if dtype == torch.float64 else torch.float32)
    assert check_isolation(model, "cpu", dtype) < limit


def test_forgotten_boundaries_are_caught(model, monkeypatch):
    def one_document(row, device):
        made = packed_inputs(row, device)
        spans = made["documents"]
        made["documents"] = DocumentSpans(spans.boundaries[[0, -1]], [sum(spans.lengths)], spans.longest)
        return made

    monkeypatch.setattr(attention, "packed_inputs", one_document)
    with pytest.raises(UserError, match="would leak"):
        check_isolation(model, "cpu", torch.float32)


def test_positions_that_run_on_are_not_what_isolates_but_change_nothing_else(model):
    """Rotary positions are relative: what isolates is the boundaries. Positions restart so that none exceeds the context."""
    rows = pack_rows([torch.arange(9).numpy(), torch.arange(20, 26).numpy()], 32)
    inputs = packed_inputs(rows[0], "cpu")
    shifted = {**inputs, "position_ids": torch.arange(rows[0].num_tokens)[None]}
    with torch.no_grad():
        a, b = (model.model(**x).last_hidden_state for x in (inputs, shifted))
    assert (a - b).abs().max() < 1e-5 and inputs["position_ids"].max() == 7


def test_a_head_that_caps_its_logits_is_caught(model):
    class Capped(torch.nn.Linear):
        pass

    forward = type(model).forward

    def capped(self, *arguments, **keywords):
        out = forward(self, *arguments, **keywords)
        out.logits = 0.1 * torch.tanh(out.logits / 0.1)
        return out

    model.forward = capped.__get__(model)
    with pytest.raises(UserError, match="packed logits differ"):
        check_isolation(model, "cpu", torch.float32)


def test_padded_generation_still_uses_masks(model):
    tokenizer = make_tiny_tokenizer()
    batch = tokenizer(["1+2=", "12+34+5="], return_tensors="pt", padding=True, padding_side="left")
    ours = model.generate(**batch, max_new_tokens=6, do_sample=False)
    model.set_attn_implementation("sdpa")
    assert torch.equal(ours, model.generate(**batch, max_new_tokens=6, do_sample=False))


def test_gradients_are_those_of_separate_documents(model):
    model.double()
    documents = [torch.randint(0, 349, (n,), generator=torch.Generator().manual_seed(n)).numpy() for n in (9, 4, 13)]
    from train.model import CausalLoss, loss_inputs

    packed = CausalLoss(model)
    packed(*loss_inputs(join_rows(pack_rows(documents, 32)), "cpu")).backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    for document in documents:
        ids = torch.from_numpy(document)[None]
        logits = model(input_ids=ids).logits[0, :-1]  # not the model's own loss: it rounds to float32
        torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").backward()
    for a, b in zip(ours, model.parameters()):
        assert (a - b.grad).abs().max() < 1e-11
