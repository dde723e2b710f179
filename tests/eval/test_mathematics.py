"""Problems are scored as mathematics, resumed part by part, and the loss on plain text is the model's own."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.records.errors import UserError
from eval import mathematics
from eval.mathematics import MathSettings, is_right, read_problems
from tests.rl.tiny import small_model
from train.model import load_model, load_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small_model(tmp_path_factory.mktemp("math") / "model"))


@pytest.mark.parametrize(
    ("response", "gold", "expected"),
    [
        ("so it is \\boxed{\\frac{1}{2}}.", "0.5", (True, True)),
        ("The answer is 1,234.", "1234", (True, True)),
        ("\\boxed{x^2+2x+1}", "$(x+1)^2$", (True, True)),
        ("I get 17.", "18", (False, True)),
        ("no idea", "18", (False, False)),
    ],
)
def test_answers_are_compared_as_mathematics(response, gold, expected):
    assert is_right(response, gold) == expected


def test_gsm8k_and_math_files_are_read(tmp_path):
    gsm = tmp_path / "gsm.jsonl"
    gsm.write_text(json.dumps({"question": "How many?", "answer": "She makes 9 * 2 = $1,800 a day.\n#### 1,800"}) + "\n")
    competition = tmp_path / "math.parquet"
    pq.write_table(pa.table({"problem": ["Solve."], "solution": ["So $x = \\boxed{\\frac{3}{4}}$."]}), competition)
    assert read_problems(gsm) == [("How many?", "1800")]
    assert is_right("0.75", read_problems(competition)[0][1])[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"q": 1}], "problems need question"),
        ([{"question": "a", "answer": "none at all"}], "row 0: no answer can be read"),
        ([], "has no rows"),
    ],
)
def test_files_that_cannot_be_scored_are_refused(tmp_path, rows, message):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=message):
        read_problems(path)


def test_a_run_goes_on_and_counts_refused_prompts(model, tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    problems = [{"question": "1+1?" if n else "long " * 200, "answer": "#### 2"} for n in range(5)]
    path.write_text("\n".join(map(json.dumps, problems)))
    given = {
        "model": model,
        "problems": (path,),
        "out": tmp_path / "out",
        "max_response_tokens": 6,
        "max_prompt_tokens": 120,
        "problems_per_part": 2,
    }
    mathematics.run(MathSettings(**given))
    found = json.loads((tmp_path / "out" / mathematics.SUMMARY).read_text())["problems"][str(path)]
    assert found["answered"] == 4 and 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["dropped"] == {"prompt over --max-prompt-tokens": 1}
    parts = sorted((tmp_path / "out" / "responses").glob("*.parquet"))
    before = [part.read_bytes() for part in parts]
    parts[1].unlink()
    mathematics.run(MathSettings(**given))
    assert [part.read_bytes() for part in parts] == before
    with pytest.raises(UserError, match="other settings"):
        mathematics.run(MathSettings(**given, seed=1))


def test_the_loss_on_plain_text_is_the_models_own(model, tmp_path):
    texts = ["three 3 and 4", "another text, 12 + 30 = 42"]
    path = tmp_path / "text.parquet"
    pq.write_table(pa.table({"text": texts}), path)
    mathematics.run(MathSettings(model=model, plain_text=(path,), out=tmp_path / "out"))
    found = json.loads((tmp_path / "out" / mathematics.SUMMARY).read_text())["plain_text"][str(path)]
    tokenizer, lm = load_tokenizer(model), load_model(model)
    total = targets = 0
    for text in texts:
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        position_ids = torch.arange(ids.shape[1])[None]
        logits = lm(input_ids=ids, position_ids=position_ids, use_cache=False).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        targets += ids.shape[1] - 1
    assert found["targets"] == targets and math.isclose(found["loss"], total / targets, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"), [({}, "--problems or --plain-text"), ({"plain_text": ("x",), "template": "no"}, "no {problem}")]
)
def test_mistakes_are_one_line(model, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        mathematics.run(MathSettings(model=model, out=tmp_path / "out", **changes))
