"""The page says what the files say, whatever the documents hold; nothing in them becomes markup."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.agreement import average_precision, roc_auc
from curate.highlight import CONTEXT_CHARS, SPAN_CHARS, WHOLE_CHARS, Layer, Span, cue_spans, excerpt, highlighted
from curate.records.errors import OutputError, UserError
from curate.records.manifest import InputFile, Manifest
from curate.reporting import STAGES, ReportSettings, summary, warnings
from curate.rewriting import RewriteSettings
from pipelines.ledger import Ledger, make_chunks
from pipelines.report import report
from pipelines.stage import begin, engine_identity
from pipelines.verify import judge_warnings
from tests.curate.report_run import make_labels, make_selection, make_sets

NAMED = {stage.name: stage for stage in STAGES}
PROBLEM = "Find x with 2x = 6.\n\nWe get x = 3. Check: 2 * 3 = 6."
HOSTILE = (
    "</script></div></article><script>alert(1)</script> <img src=http://127.0.0.1:9/x.png onerror=alert(2)> {{ 7919 * 7907 }} {% raw %}"
    "\r\nNUL \0 bell \a, <!-- a comment --> &amp; 'single' \"double\" \u202e right to left, 𝒳 beyond the basic plane, <|im_end|>\r\n\r\nCheck: done."
)


class Page(HTMLParser):
    """Elements with `data-start` as (tag, attributes, text), the counts of all tags, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.marked: list[tuple[str, dict[str, str], str]] = []
        self.tags: dict[str, int] = {}
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self._open: list[tuple[str, dict[str, str], int]] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attributes}
        self.links |= {value for name, value in attributes if name == "href"}
        if "data-start" in dict(attributes):
            self._open.append((tag, dict(attributes), len(self.text)))

    def handle_endtag(self, tag):
        if self._open and self._open[-1][0] == tag:
            tag, attributes, start = self._open.pop()
            self.marked.append((tag, attributes, self.text[start:]))

    def handle_data(self, data):
        self.text += data


def draw(run: Path, **others) -> Page:
    return Page(report(ReportSettings(run=run, **others)).read_text())


def document(text: str = PROBLEM, score: float = 0.9, **others) -> dict:
    return {"id": "one", "text": text, "source": "made", "_scores": {"verification": score}, **others}


# --- highlighting

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted).map(tuple), max_size=6)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40), evidence=SPANS, truth=SPANS, cuts=SPANS)
def test_every_highlighted_element_holds_exactly_the_slice_it_names(text, evidence, truth, cuts):
    pieces, at = [], 0
    for start, end in sorted((min(a, len(text)), min(b, len(text))) for a, b in cuts):
        if start >= at:
            pieces.append((start, end))
            at = end
    layers = [Layer("mark", [Span(*span) for span in evidence]), Layer("u", [Span(*span) for span in truth])]
    shown, skipped = highlighted(text, layers, pieces)
    html = "".join(f"<i>{piece.html}</i>" for piece in shown)
    page = Page(html)
    if "\r" not in text and "\0" not in text:  # `render` takes care of these in the whole page
        assert page.text == "".join(text[start:end] for start, end in pieces)
        for _, attributes, inner in page.marked:
            assert inner == text[int(attributes["data-start"]) : int(attributes["data-end"])]
    assert sum(piece.skipped for piece in shown) + sum(end - start for start, end in pieces) + skipped == len(text)
    covered = {index for start, end in evidence for index in range(start, end)} & {i for start, end in pieces for i in range(start, end)}
    marked = [attributes for tag, attributes, _ in page.marked if tag == "mark"]
    assert covered == {index for item in marked for index in range(int(item["data-start"]), int(item["data-end"]))}


def test_a_long_document_is_cut_to_the_surroundings_of_its_evidence():
    assert excerpt(WHOLE_CHARS, [Span(3, 5)]) == [(0, WHOLE_CHARS)]
    best, other, third = Span(4_000_000, 4_002_000), Span(1_000, 3_000), Span(9_000, 12_000)
    pieces = excerpt(5_000_000, [best, other, third])
    assert pieces == [(800, 3_200), (3_999_800, 4_002_200)]
    huge = excerpt(5_000_000, [Span(0, 5_000_000)])
    assert huge == [(0, SPAN_CHARS + CONTEXT_CHARS)]
    assert excerpt(5_000_000, []) == [(0, SPAN_CHARS)]


def test_cues_are_found_in_any_case_and_not_inside_words():
    text = "CHECK: so. Wait, it awaits. Rechecked: no. check:done"
    found = [text[span.start : span.end] for span in cue_spans(text, ("check:", "wait", ""), [(0, len(text))])]
    assert found == ["CHECK:", "Wait", "check:"]
    assert cue_spans(text, (), [(0, len(text))]) == []


# --- agreement with the truth

LABELLED = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 1.0]), st.booleans()), max_size=12)


@settings(max_examples=60, deadline=None)
@given(LABELLED)
def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half(items):
    scores, truth = [score for score, _ in items], [shows for _, shows in items]
    positives = [score for score, shows in items if shows]
    negatives = [score for score, shows in items if not shows]
    wins = [(a > b) + (a == b) / 2 for a in positives for b in negatives]
    expected = sum(wins) / len(wins) if wins else None
    assert roc_auc(scores, truth) == (expected if expected is None else pytest.approx(expected))


@settings(max_examples=60, deadline=None)
@given(LABELLED)
def test_average_precision_takes_ties_in_together(items):
    scores, truth = [score for score, _ in items], [shows for _, shows in items]
    if not any(truth):
        assert average_precision(scores, truth) is None
        return
    precision = {cut: [shows for score, shows in items if score >= cut] for cut in set(scores)}
    expected = sum(sum(precision[score]) / len(precision[score]) for score, shows in items if shows) / sum(truth)
    assert average_precision(scores, truth) == pytest.approx(expected)


# --- the page


def test_hostile_text_stays_text(tmp_path):
    make_labels(
        tmp_path, [document(HOSTILE, id="<b>id</b>", source='"><script>x</script>', url="javascript:alert(3)"), document(score=0.05)]
    )
    make_selection(tmp_path)
    make_sets(tmp_path, [{"question": (HOSTILE, HOSTILE), "thoughts": (HOSTILE, "plain"), "answer": ("3", "3")}])
    html = report(ReportSettings(run=tmp_path)).read_text()
    page = Page(html)
    assert not {"script", "img", "iframe", "link", "object", "form"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on") or name in ("style", "src", "srcset", "action")]
    assert all(link.startswith("#") for link in page.links)
    assert "\0" not in html and "\a" not in html
    assert "default-src 'none'" in html and "unsafe" not in html
    shown = next(text for tag, attributes, text in page.marked if tag == "mark" and attributes["data-behavior"] == "verification")
    assert shown == HOSTILE.replace("\0", "␀").replace("\a", "␇")
    assert page.tags["article"] == 4 * 2 + 1
    assert "{{ 7919 * 7907 }}" in page.text and "62615533" not in page.text


def test_evidence_and_truth_are_highlighted_where_they_are(tmp_path):
    text = "First.\n\n" + "Filler sentence. " * 160 + "\n\nCheck: 2 * 3 = 6.\n\nEnd."
    start = text.index("Check")
    true = {
        "evidence": [{"behavior": "verification", "start": start, "end": start + 16}, {"behavior": "backtracking", "start": 0, "end": 5}]
    }
    negative = document(score=0.05, truth={"evidence": []})
    make_labels(tmp_path, [document(text, truth=true), negative])
    page = draw(tmp_path, examples=1)
    marks = [item for item in page.marked if item[1].get("data-behavior") == "verification"]
    windows = [(attributes["data-start"], attributes["data-end"]) for tag, attributes, _ in marks if tag == "mark"]
    assert len(windows) == 2 and windows[0][0] == "0" and windows[1][1] == str(len(text)) and windows[0][1] == windows[1][0]
    truths = [(attributes["data-start"], inner) for tag, attributes, inner in marks if tag == "u"]
    assert truths == [(str(start), "Check: 2 * 3 = 6")]
    assert next(inner for tag, _, inner in page.marked if tag == "b") == "Check:"
    assert "Against the ground truth of the sample" in page.text and "1.000" in page.text


def test_a_window_that_is_only_the_best_is_told_from_evidence(tmp_path):
    make_labels(tmp_path, [document(score=0.9), document(score=0.4), document(score=0.05)])
    make_selection(tmp_path)
    page = draw(tmp_path)
    marks = [attributes for tag, attributes, _ in page.marked if tag == "mark" and attributes["data-behavior"] == "verification"]
    assert [(item["data-score"], "data-weak" in item) for item in marks] == [("0.900", False), ("0.400", True), ("0.050", True)]
    assert page.text.count("too low to count as shown") == 2 + 3 * 3


def test_no_examples_on_request(tmp_path):
    make_labels(tmp_path, [document(truth={"evidence": []}), document(score=0.05)])
    make_sets(tmp_path, [{"question": ("q", "q"), "thoughts": ("a", "b"), "answer": ("3", "3")}])
    page = draw(tmp_path, examples=0)
    assert "article" not in page.tags and "Against the ground truth" in page.text


def test_extracted_questions_and_answers_have_no_author(tmp_path):
    model, revision, engine = engine_identity(RewriteSettings(engine="extract"))
    made = Manifest("rewrite", {}, rows_in=1, rows_out=1, model=model, revision=revision, engine=engine)
    assert summary([replace(NAMED["rewrite"], manifest=made)], "x").startswith(
        "Their own questions and answers were taken as they are: 1 row."
    )
    assert model is None and judge_warnings("Qwen/Qwen2.5-32B-Instruct", model) == []


@pytest.mark.parametrize(
    ("judge", "warned"),
    [("Qwen/Qwen3-8B", True), ("student and Qwen/Qwen3-8B", True), ("student", False), ("meta-llama/Llama-3.1-8B", False)],
)
def test_a_judge_of_the_rewriters_family_is_warned_of(judge, warned):
    assert bool(judge_warnings(judge, "Qwen/Qwen2.5-32B-Instruct")) is warned


def test_a_corpus_without_truth_is_not_compared_with_any(tmp_path):
    make_labels(tmp_path, [document(truth="yes"), document(truth={"evidence": "all of it"})])
    page = draw(tmp_path)
    assert "ground truth" not in page.text.lower()


def test_a_document_of_five_megabytes_is_shown_as_an_excerpt(tmp_path):
    text = "x = 1. " * 750_000
    middle = (3_500_000, 3_502_400)
    make_labels(tmp_path, [document(text, _windows=[middle])])
    out = report(ReportSettings(run=tmp_path))
    page = Page(out.read_text())
    assert out.stat().st_size < 200_000
    assert ("mark", text[slice(*middle)]) in [(tag, inner) for tag, _, inner in page.marked]
    assert "Excerpt around the evidence" in page.text and f"{middle[0] - CONTEXT_CHARS:,} characters left out" in page.text


def test_stages_that_have_not_run_are_shown_and_do_not_fail(tmp_path):
    make_labels(tmp_path, [document(), document(score=0.05)])
    page = draw(tmp_path)
    assert page.text.count("Not run:") == 4
    assert "Not finished: frequencies, topics, select, rewrite, verify, match." in page.text
    make_selection(tmp_path)
    assert draw(tmp_path).text.count("Not run:") == 3
    only_sets = tmp_path / "other"
    make_sets(only_sets, [{"question": ("q", "q"), "thoughts": ("a b", "c d"), "answer": ("3", "3")}])
    page = draw(only_sets)
    assert "Each pair is one document told twice" in page.text and page.text.count("Not run:") == 2


def test_an_unfinished_stage_says_how_far_it_is(tmp_path):
    make_labels(tmp_path, [document()])
    file = InputFile("part.parquet", "0" * 64, 10, 1, str(tmp_path))
    begin(Ledger(tmp_path / "qa", "rewrite", {}, make_chunks([file], 5, None)))
    assert "unfinished: 0 of 2 chunks" in draw(tmp_path).text


def test_the_flow_is_that_of_the_manifests(tmp_path):
    documents = [document(), document(score=0.3), document(score=0.05), document(_error="the text is empty")]
    make_labels(tmp_path, documents, failed_files={"bad.parquet": "cut off"}, tokens={"prompt_tokens": 12_345}, seconds=75.0)
    make_selection(tmp_path)
    page = draw(tmp_path)
    for piece in (
        "12,345 prompt",
        "1m15s",
        "1 the text is empty",
        "1 between the arms",
        "1 label error",
        "the file bad.parquet failed: cut off",
    ):
        assert piece in page.text, piece
    selected = json.loads((tmp_path / "candidates" / "manifest.json").read_text())
    assert (selected["rows_in"], selected["rows_out"]) == (4, 2)
    assert "1 of them has no label because of an error" in page.text


def test_rows_that_do_not_add_up_are_pointed_out():
    short = Manifest("select", {}, rows_in=10, rows_out=3, dropped={"no problem": 5})
    assert warnings([replace(NAMED["select"], manifest=short)]) == ["select: 2 rows are unaccounted for by its own manifest"]


def test_prevalence_is_the_table_with_its_caveat(tmp_path):
    make_labels(tmp_path, [document(score=0.9)] * 3 + [document(score=0.1)] * 7)
    make_selection(tmp_path)
    html = report(ReportSettings(run=tmp_path)).read_text()
    assert "not corrected for the judge&#39;s errors" in html or "not corrected for the judge's errors" in html
    assert 'aria-label="30.0 %, 95 % interval 10.8 % to 60.3 %"' in html


def test_fidelity_balance_and_sets_are_shown(tmp_path):
    make_labels(tmp_path, [document()])
    make_sets(tmp_path, [{"question": ("q one", "q two"), "thoughts": ("a b c", "d e"), "answer": ("3", "4")}] * 5)
    page = draw(tmp_path, examples=2)
    for piece in (
        "75 % (53 % to 89 %)",
        "length of the source",
        "0.250",
        "0.750",
        "0.61",
        "0.52 to 0.70",
        "4.50",
        "3 words of thoughts",
        "the arms are small",
        "0.90 → 0.20",
    ):
        assert piece in page.text, piece
    assert page.text.count("q one") == page.text.count("q two") == 2


def test_arms_of_different_documents_are_not_called_pairs(tmp_path):
    make_sets(tmp_path, [{"question": ("same", "same"), "thoughts": ("a", "b"), "answer": ("3", "3")}], siblings=False)
    page = draw(tmp_path)
    assert "not versions of one another" in page.text and page.text.count("same") >= 2


@pytest.mark.parametrize(
    ("model", "banner"),
    [("smollm2-135m", "135M parameters, de-quantised from 4 bits"), ("fake", "Test engine"), ("Qwen/Qwen2.5-32B-Instruct", None)],
)
def test_a_stand_in_is_named_before_any_number(tmp_path, model, banner):
    make_labels(tmp_path, [document()], model=model)
    page = draw(tmp_path)
    assert (banner or "mean nothing") in page.text if banner else "mean nothing" not in page.text
    if banner:
        assert page.text.index(banner) < page.text.index("documents labelled")


def test_a_corpus_that_is_gone_or_changed_costs_the_texts_alone(tmp_path):
    make_labels(tmp_path, [document(), document(score=0.05)])
    corpus = tmp_path / "corpus" / "documents.jsonl"
    corpus.write_text(corpus.read_text().replace("2x = 6", "2x = 8"))
    page = draw(tmp_path)
    assert "has changed since it was labelled" in page.text and not page.marked
    corpus.unlink()
    page = draw(tmp_path)
    assert "could not be read from the corpus" in page.text and not page.marked


def test_the_same_run_gives_the_same_page(tmp_path):
    make_labels(tmp_path, [document(), document(score=0.05)])
    first = report(ReportSettings(run=tmp_path)).read_bytes()
    assert report(ReportSettings(run=tmp_path, out=tmp_path / "again.html")).read_bytes() == first


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no stage was begun"):
        report(ReportSettings(run=tmp_path))
    with pytest.raises(UserError, match="not a folder"):
        report(ReportSettings(run=tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--run is needed"):
        report(ReportSettings())
    make_labels(tmp_path, [document()])
    with pytest.raises(UserError, match="negative"):
        report(ReportSettings(run=tmp_path, examples=-1))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        report(ReportSettings(run=tmp_path, out=tmp_path / "file" / "report.html"))
    (tmp_path / "labels" / "manifest.json").rename(tmp_path / "corpus" / "manifest.json")
    make_selection_folder = tmp_path / "candidates"
    make_selection_folder.mkdir()
    (tmp_path / "corpus" / "manifest.json").rename(make_selection_folder / "manifest.json")
    with pytest.raises(UserError, match="was written by `classify`"):
        report(ReportSettings(run=tmp_path))


def test_a_run_with_nothing_but_errors_is_drawn(tmp_path):
    make_labels(tmp_path, [document(_error="the text is empty")])
    page = draw(tmp_path)
    assert "No document has a score." in page.text


def test_the_summary_is_grammatical_for_one():
    one = Manifest("classify", {}, rows_in=1, rows_out=1, model="m", engine="e", notes={"behaviors": ["backtracking"]})
    assert summary([replace(NAMED["classify"], manifest=one)], "notes.jsonl").startswith(
        "1 document of notes.jsonl was read by the model m"
    )
