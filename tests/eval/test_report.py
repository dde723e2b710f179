"""One page for an experiment: complete, self-contained, and without a claim that the numbers do not carry."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from curate.records.errors import UserError
from curate.records.manifest import Manifest
from curate.records.parts import write_json
from eval import compare, report
from eval.pictures import Axis, Line, chart
from eval.report import ReportSettings
from rl.traces import Span
from tests.chromium import Chromium, find_chromium
from tests.eval.experiments import write_experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment") / "study"
    write_experiment(folder, {"all": 0.5, "linear": 0.4}, seeds=3)
    for path in folder.glob("*/seed-*"):
        (path / "settings.json").write_text(
            json.dumps({"total_steps": 60, "seed": int(path.name[-1]), "clip_low": 0.2, "model": path.parent.name})
        )
    compare.run(compare.CompareSettings(experiment=folder, out=folder.parent / "comparison", contrast=("all:linear",)))
    return folder


def test_the_page_says_what_was_measured(experiment, tmp_path):
    reference = tmp_path / "reference"
    reference.mkdir()
    (reference / "study_results.csv").write_text("condition,step,accuracy\nbase,0,0.0\nbase,50,0.2\nbase,500,0.9\n")
    (reference / "other.csv").write_text("x,y\n1,2\n")
    out = tmp_path / "page.html"
    report.run(ReportSettings(experiment=experiment, out=out, comparison=experiment.parent / "comparison", reference=reference))
    html = out.read_text()
    assert "NO CLAIM" in html and "3 more seeds" in html and "gain from step 0: +" in html and "<strong>Note" not in html
    gain = html[html.index("<th>take-off</th>") :]
    assert re.search(r"\+0\.\d{3} <span class=\"soft\">\[[+-]0\.\d{3}, \+0\.\d{3}\]<br>p 0\.25</span>", gain)
    assert "<li>all: too few evaluations (9 needed)</li>" in html
    assert html.count("<polygon") == 2 * html.count("<figure>")
    assert 'class="curve dashed reference"' in html
    assert "clip_low" in html and re.search(r"all, seed 0.*?linear, seed 2", html, re.DOTALL)
    assert not re.search(r"(?:src|href)=|<script|url\(", html)


def test_the_page_says_which_comparison_it_shows(experiment, tmp_path, capsys):
    made = tmp_path / "greedy"
    choice = {"contrast": ("all:linear",), "equivalent": ("linear:all",), "margin": 0.125, "how": "greedy", "last_evaluations": 2}
    compare.run(compare.CompareSettings(experiment=experiment, out=made, **choice))
    report.run(ReportSettings(experiment=experiment, out=tmp_path / "page.html", comparison=made))
    html = (tmp_path / "page.html").read_text()
    assert "for a difference of 0.125 or more" in html and "0.05 or more" not in html
    note = "the comparisons are of greedy evaluations, the mean of the last 2; the rest of this page shows sampled evaluations, the mean of the last 3"
    assert note in html and f"note: {note}\n" in capsys.readouterr().out
    summary = json.loads((made / compare.SUMMARY).read_text())
    summary["conditions"]["all"]["seeds"] = [0, 1]
    (made / compare.SUMMARY).write_text(json.dumps(summary))
    report.run(ReportSettings(experiment=experiment, out=tmp_path / "page.html", comparison=made))
    assert "were made of other runs than this page shows" in (tmp_path / "page.html").read_text()


def write_sets(run: Path, verified: str | None) -> Path:
    """A run's sets and verification as `curate match` and `curate verify` leave them: fidelity in a folder of its own."""
    settings = {"verified": verified, "tokenizer": "words"}
    Manifest("match", settings, rows_in=4, rows_out=4, tokens={"enriched": 210, "control": 205}).write(run / "sets")
    write_json(run / "sets" / "balance.json", {"examples": 2, "contrasts": [{"first": "enriched", "second": "control"}]})
    write_json(run / (verified or "verified") / "fidelity.json", {"judged": 4, "rows": [{"cell": "selected_stripped", "kept": 1}]})
    return run / "sets"


@pytest.mark.parametrize("case", ["named", "moved", "beside"])
def test_sets_are_shown_with_their_balance_and_fidelity(experiment, tmp_path, case, capsys):
    sets = write_sets(tmp_path / "run", None if case == "beside" else str(tmp_path / "run" / "judged"))
    if case == "moved":
        sets = (tmp_path / "run").rename(tmp_path / "elsewhere") / "sets"
    report.run(ReportSettings(experiment=experiment, out=tmp_path / "page.html", sets=(sets,)))
    html = (tmp_path / "page.html").read_text()
    assert "4 examples, 210 tokens (enriched), 205 tokens (control)" in html
    assert "<summary>balance</summary>" in html and "&#34;first&#34;: &#34;enriched&#34;" in html.replace('"', "&#34;")
    assert "<summary>fidelity, of <code>" in html and "selected_stripped" in html and "note:" not in capsys.readouterr().out


def test_a_fidelity_that_is_named_and_missing_is_said_to_be(experiment, tmp_path, capsys):
    sets = write_sets(tmp_path / "run", str(tmp_path / "run" / "judged"))
    (tmp_path / "run" / "judged" / "fidelity.json").unlink()
    report.run(ReportSettings(experiment=experiment, out=tmp_path / "page.html", sets=(sets,)))
    assert "no fidelity.json in" in (tmp_path / "page.html").read_text() and "note: no fidelity.json in" in capsys.readouterr().out


def test_the_picture_stands_alone(experiment, tmp_path):
    out = tmp_path / "accuracy.svg"
    report.run(ReportSettings(experiment=experiment, out=tmp_path / "page.html", picture=out))
    root = ElementTree.fromstring(out.read_text())
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"all, 3 seeds", "linear, 3 seeds"} <= set(texts) and len(list(root.iter("{http://www.w3.org/2000/svg}polygon"))) == 2
    assert ".c1 { --hue: #b0451b; }" in out.read_text() and "href" not in out.read_text()


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="no chromium on the PATH (Debian: apt-get install chromium)")
def test_a_browser_loads_nothing_else_and_complains_of_nothing(experiment, tmp_path):
    out = tmp_path / "page.html"
    report.run(ReportSettings(experiment=experiment, out=out))
    with Chromium() as browser:
        page = browser.open(out)
        assert page.requests == [out.resolve().as_uri()] and page.complaints == []
        assert page.evaluate("getComputedStyle(document.querySelector('polyline')).stroke") not in ("none", "rgb(0, 0, 0)")
        page.resize(420)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_highlighted_pieces_put_together_are_the_text():
    text = "need 6, 3 * 2 = 6 no"
    cut = report.pieces(text, [Span("subgoal_setting", 0, 6), Span("verification", 17, 20), Span("backtracking", 8, 40)])
    assert "".join(piece for piece, _ in cut) == text
    assert cut == [("need 6", "subgoal_setting"), (", ", ""), ("3 * 2 = 6", "backtracking"), (" no", "verification backtracking")]


def test_charts_hold_their_data():
    line = Line("a & b", [0, 10, 20], np.array([[0.1, 0.2, 0.3], [0.1, 0.3, 0.4], [0.1, 0.1, 0.2]]), "c0")
    svg = chart([line], "Accuracy")
    assert "a &amp; b, step 10: 0.200" in svg and svg.count("<circle") == 3 and "<polygon" in svg
    assert "<polygon" not in chart([Line("x", [0, 1], np.array([[0.1, 0.2]]), "c0")], "y")
    axis = Axis(0, 0.47, 0, 100)
    assert axis.ticks == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5]) and axis.place(0.25) == pytest.approx(50)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiment": None}, "--experiment is needed"),
        ({"reference": "here"}, "no CSV file"),
        ({"comparison": "here"}, "is not the comparison.json"),
        ({"sets": ("here",)}, "is it the output of `curate match`"),
    ],
)
def test_mistakes_are_one_line(experiment, tmp_path, changes, message):
    given = {key: (tmp_path,) if key == "sets" else tmp_path if value == "here" else value for key, value in changes.items()}
    with pytest.raises(UserError, match=message):
        report.run(ReportSettings(**({"experiment": experiment, "out": tmp_path / "page.html"} | given)))
    assert not (tmp_path / "page.html").exists()
