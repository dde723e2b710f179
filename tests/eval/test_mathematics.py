"""Problems are scored as mathematics, resumed part by part, and the loss on plain text is the model's own."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curate.records.errors import UserError
from eval import mathematics
from eval.mathematics import MathSettings
from eval.problems import Problem, gold_of, is_right, read_problems
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
    assert read_problems(gsm).rows == [Problem(0, "How many?", "$1,800$")]
    assert is_right("so 1800", "$1,800$") == (True, True)
    assert is_right("0.75", read_problems(competition).rows[0].gold)[0]


@pytest.mark.parametrize(
    ("gold", "right", "near"),
    [
        (r"6\sqrt{2}", r"\sqrt{72}", "6"),
        (r"(3, \frac{\pi}{2})", r"(3, \pi/2)", "3"),
        (r"(-\infty,2]", r"(-\infty, 2]", r"(-\infty,2)"),
        ("p - q", "-q+p", "q-p"),
        (r"\text{Evelyn}", "Evelyn", r"\text{Eve}"),
        ("x^2+2x", "x(x+2)", "x^2-2x"),
    ],
)
@pytest.mark.parametrize("solved", [True, False])
def test_rows_as_math_500_has_them(tmp_path, gold, right, near, solved):
    """(problem, solution, answer), the answer bare; without the solution's box the answer is read, and both give the same."""
    solution = f"First $\\boxed{{0}}$ seems right. But it is $\\boxed{{{gold}}}$." if solved else "It is easily seen."
    path = tmp_path / "math500.jsonl"
    path.write_text(json.dumps({"problem": "Solve.", "solution": solution, "answer": gold}))
    (problem,) = read_problems(path).rows
    assert is_right(f"so it is $\\boxed{{{right}}}$.", problem.gold) == (True, True)
    assert is_right(f"so it is $\\boxed{{{near}}}$.", problem.gold) == (False, True)


@pytest.mark.parametrize("answer", ["none at all", "The answer is 17.", "3 1/2", "2/3 cup", r"\frac{1", " "])
def test_an_answer_that_could_be_read_wrong_is_not_read(answer):
    assert gold_of({"answer": answer}) is None


def test_gold_answers_that_cannot_be_read_are_named_and_counted(model, tmp_path, capsys):
    path = tmp_path / "p.jsonl"
    rows = [{"problem": "1+1?", "answer": "2"}, {"problem": "Who?", "answer": "one of the two"}, {"problem": "2+2?", "answer": 4}]
    path.write_text("\n".join(map(json.dumps, rows)))
    mathematics.run(MathSettings(model=model, problems=(path,), out=tmp_path / "out", max_response_tokens=4))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (3, 2, {"no gold answer can be read": 1})
    assert "1 of 3 rows, which are left out (line 2: 'one of the two')" in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / mathematics.SUMMARY).read_text())["problems"][str(path)]
    assert found["gold_unread"] == {"line 2": "one of the two"} and found["answered"] == 2
    assert pq.read_table(tmp_path / "out" / "responses")["problem"].to_pylist() == [0, 2]


def test_responses_of_another_model_or_other_problems_are_refused(tmp_path):
    path, folder = tmp_path / "p.jsonl", small_model(tmp_path / "model")
    path.write_text(json.dumps({"question": "1+1?", "answer": "2"}))
    given = MathSettings(model=str(folder), problems=(path,), out=tmp_path / "out", max_response_tokens=4)
    mathematics.run(given)
    small_model(folder, seed=1)
    with pytest.raises(UserError, match=r"other settings \(model_sha256: 1 of \d gone, 1 new\)"):
        mathematics.run(given)
    small_model(folder)
    path.write_text(json.dumps({"question": "1+1?", "answer": "3"}))
    with pytest.raises(UserError, match="other settings .*data_sha256"):
        mathematics.run(given)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"q": 1}], "problems need question"),
        ([{"question": "a", "answer": "none at all"}], "any of its 1 rows .line 1: 'none at all'"),
        ([{"question": "a", "answer": "1"}, {"question": "b"}], "line 2 has question; problems need"),
        ([{"question": "a", "answer": "1"}, ["b"]], "line 2: a problem is an object"),
        ([{"question": 3, "answer": "1"}], "line 1: the question is no text"),
        ([{"question": "a", "answer": ["1"]}], "line 1: answer is neither text nor a number"),
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
