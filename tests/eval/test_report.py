"""One page for an experiment: complete, self-contained, and without a claim that the numbers do not carry."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from curate.records.errors import UserError
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
        (path / "settings.json").write_text(json.dumps({"seed": int(path.name[-1]), "clip_low": 0.2, "model": path.parent.name}))
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
    assert "NO CLAIM" in html and "3 more seeds" in html
    assert html.count("<polygon") == 2 * html.count("<figure>")
    assert 'class="curve dashed reference"' in html
    assert "clip_low" in html and re.search(r"all, seed 0.*?linear, seed 2", html, re.DOTALL)
    assert not re.search(r"(?:src|href)=|<script|url\(", html)


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
