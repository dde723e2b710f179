"""`curate audit` end to end: a person at a real terminal (pty), killed and resumed; the page for a browser; what is made of the answers."""

import base64
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.auditing.answers import Answer, AnswerLog, read_answers
from curate.auditing.terminal import mark, wrap
from curate.records.errors import UserError
from curate.records.manifest import read_manifest
from tests.chromium import Chromium, find_chromium
from tests.endpoint import Endpoint
from tests.helpers import classify, conserved, curate, error_line, rows_of, write_jsonl
from tests.pipelines.runs import COMMAND, environment

BEHAVIORS = ("verification", "backtracking", "subgoal_setting", "backward_chaining")
HOSTILE = "\x1b[2J\x1b]0;pwned\x07 </script><script>alert(1)</script> \u202e &amp; 𝔘𝔫𝔦"


def corpus() -> list[dict[str, Any]]:
    cues = ("Check: it is.", "EDIT: my first try was wrong.", "First, the plan.", "It suffices to show less.", "", "", "", "")
    return [
        {"id": f"d{n}", "text": f"What is {n} + 1? {cues[n % 8]}\n\n{HOSTILE if n % 4 == 0 else 'Plain.'} So {n} + 1 = {n + 1}."}
        for n in range(64)
    ]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("audit")
    with Endpoint() as server:
        result = classify(server.url, folder / "labels", "--dataset", write_jsonl(folder / "a.jsonl", corpus()))
        assert result.exit_code == 0, result.stderr
        yield folder / "labels"


@pytest.fixture
def drawn(labels: Path, tmp_path: Path) -> Path:
    result = curate("audit", "export", "--labels", labels, "--out", tmp_path / "audit", "--items", 16, "--annotator", "ann")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "audit"


def sample(out: Path) -> list[dict[str, Any]]:
    return rows_of(out / "sample")


def saved(out: Path, annotator: str, wrong: set[str] = frozenset(), items: int | None = None) -> dict[str, Any]:
    """What the page saves after an annotator who sees every cue, and is wrong about verification in the items `wrong`."""
    answers = []
    for number, item in enumerate(sample(out)[:items]):
        for name, cue in zip(BEHAVIORS, ("Check", "EDIT", "First", "suffices"), strict=True):
            seen = (cue in item["text"]) != (name == "verification" and item["item"] in wrong)
            answers.append(
                {
                    "item": item["item"],
                    "behavior": name,
                    "answer": "yes" if seen else "no",
                    "seconds": 1.5,
                    "evidence_shown": False,
                    "at": 1e9 + number,
                }
            )
    page = (out / "label-ann.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    return {"format": 1, "sample": data["sample"], "annotator": annotator, "answers": answers}


def take_in(out: Path, content: Any) -> Any:
    path = out.parent / "answers.json"
    path.write_text(json.dumps(content))
    return curate("audit", "import", "--answers", path, "--out", out)


# --- the terminal page


class Person:
    """Somebody at a terminal of 80 by 24, in a process group of its own."""

    def __init__(self, *arguments: object) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            command = [sys.executable, str(COMMAND), "never", "0", *map(str, arguments)]
            os.execve(command[0], command, environment() | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"})
        self.screen = ""

    def sees(self, *texts: str, seconds: float = 60) -> str:
        """Wait until all `texts` are on the screen; returns everything since the last call. A screen may arrive in pieces."""
        deadline, seen = time.monotonic() + seconds, self.screen
        while not all(text in seen for text in texts):
            assert time.monotonic() < deadline, f"{texts} never came: {seen[-2000:]!r}"
            if select.select([self.descriptor], [], [], 0.2)[0]:
                try:
                    seen += os.read(self.descriptor, 1 << 16).decode("utf-8", "replace")
                except OSError:  # the other end is gone
                    assert all(text in seen for text in texts), seen[-2000:]
        self.screen = ""
        return seen

    def types(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def end(self) -> int:
        """Exit code; what is left on the screen is read, so that nobody waits for it."""
        while True:
            try:
                self.screen += os.read(self.descriptor, 1 << 16).decode("utf-8", "replace")
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


def test_a_person_answers_is_killed_and_goes_on_without_losing_an_answer(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    options = ("audit", "--labels", labels, "--out", out, "--items", 16, "--annotator", "ann")
    person = Person(*options)
    screen = person.sees("document 1 of 16, 0 done", "Does the text explicitly check a result")
    assert not re.search(r"0\.\d\d", screen)  # blind to the scores
    person.types("ynn")
    person.sees("3 subgoal setting: no")
    os.kill(person.pid, signal.SIGKILL)
    assert person.end() == -signal.SIGKILL
    path = out / "answers" / "ann.jsonl"
    assert [json.loads(line)["answer"] for line in path.read_text().splitlines()] == ["yes", "no", "no"]
    with open(path, "ab") as file:
        file.write(b'{"item": "torn')  # what a kill in mid-write leaves

    person = Person(*options)
    person.sees("document 1 of 16, 0 done", "1 verification: yes")
    person.types("n")  # the fourth question: on to the next document
    person.sees("document 2 of 16, 1 done")
    person.types("nnnu")
    person.sees("document 3 of 16, 2 done")
    person.types("[")
    person.sees("document 2 of 16, 2 done")
    person.types("1y")  # a second thought
    person.sees("1 verification: yes")
    person.types("e")
    person.sees("⟦")
    person.types("q")
    assert person.end() == 0
    assert "ann: 2 of 16 done; the same command goes on" in person.screen and "cut off in mid-write" in person.screen
    rows = conserved(out / "annotations")
    assert (rows.rows_in, rows.rows_out, rows.notes["annotators"]) == (2, 2, {"ann": 2})
    one, two = (next(row for row in rows_of(out / "annotations") if row["item"] == item["item"]) for item in sample(out)[:2])
    assert [one[name] for name in BEHAVIORS] == [True, False, False, False] and [two[name] for name in BEHAVIORS] == [
        True,
        False,
        False,
        None,
    ]
    assert (out / "audit.html").exists()


def test_what_stands_in_a_document_cannot_move_the_cursor() -> None:
    lines = wrap(f"{HOSTILE}\x9b2J\r\nnext\tline " + "x" * 100, 40)
    assert all(character.isprintable() or character in "\u202e" for line in lines for character in line)
    assert lines[-3:] and all(len(line) <= 40 for line in lines)
    assert mark("abcdef", [{"start": 1, "end": 3, "behavior": "v"}, {"start": 3, "end": 5, "behavior": "w"}]) == "a⟦v: bc⟧⟦w: de⟧f"


def test_the_page_needs_a_terminal_and_a_name(drawn: Path) -> None:
    result = curate("audit", "--out", drawn, "--annotator", "ann")
    assert result.exit_code == 2 and "`curate audit export` writes a page for a browser" in error_line(result)
    for name in (None, "a/b", "../x", ""):
        result = curate("audit", "--out", drawn, *(["--annotator", name] if name is not None else []))
        assert result.exit_code == 2 and "--annotator NAME is needed" in error_line(result)


def test_two_terminals_cannot_answer_for_one_person_and_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "ann.jsonl"
    with AnswerLog(path, ["i"], ["b"]) as log:
        log.add(Answer("i", "b", "yes"))
        with pytest.raises(UserError, match="ann is answering in another terminal"), AnswerLog(path, ["i"], ["b"]):
            pass
    assert read_answers(path, ["i"], ["b"])[0][0].answer == "yes"
    for line, reason in (
        ('{"item": "j", "behavior": "b", "answer": "yes"}', "not of this audit"),
        ("{}", "needs item"),
        ("[]", "not an answer"),
        ("x", "line 2"),
    ):
        other = tmp_path / "other.jsonl"
        other.write_text(path.read_text() + line + "\n")
        with pytest.raises(UserError, match=reason):
            read_answers(other, ["i"], ["b"])


# --- the page for a browser


def test_the_exported_page_is_whole_blind_and_keeps_hostile_text_as_text(drawn: Path) -> None:
    page = (drawn / "label-ann.html").read_text()
    assert (
        "http" not in page.replace("http-equiv", "") and "score" not in page and "stratum" not in page and "alert(1)</script>" not in page
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    assert f"script-src &#39;sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}&#39;" in policy.replace(
        "'", "&#39;"
    )
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    texts = {row["id"]: row["text"] for row in corpus()}
    assert sorted(item["text"] for item in data["items"]) == sorted(texts[item["id"]] for item in sample(drawn))
    assert set(data["items"][0]["evidence"][0]) == {"behavior", "start", "end"}


DOM = """
const fs = require("fs"), vm = require("vm"), page = fs.readFileSync(process.argv[2], "utf8");
const data = page.match(/id="data">([^]*?)<\\/script>/)[1], script = page.match(/<script>([^]*?)<\\/script>/)[1];
const make = () => ({ children: [], attributes: {}, textContent: "", style: {}, addEventListener() {}, scrollBy() {}, focus() {},
  replaceChildren(...all) { this.children = all; }, setAttribute(key, value) { this.attributes[key] = value; }, click() { context.clicked = this; } });
const nodes = {}, listeners = {}, store = {};
const context = { console, JSON, Date, Map, Set, Array, Math, Number, String, clicked: null, saved: null,
  document: { getElementById: (id) => nodes[id] ??= make(), createElement: make, addEventListener: (kind, run) => { listeners[kind] = run; } },
  localStorage: { getItem: (key) => store[key] ?? null, setItem: (key, value) => { store[key] = value; } },
  URL: { createObjectURL: (blob) => { context.saved = blob.parts[0]; return "blob:x"; } }, Blob: class { constructor(parts) { this.parts = parts; } },
  addEventListener() {} };
context.document.getElementById("data").textContent = data;
const start = () => vm.runInNewContext(script, context);
const press = (key) => listeners.keydown({ key, preventDefault() {} });
start();
for (const key of "yn2u1n34") press(key);   // verification, backtracking; corrected by number
press("n"); press("3"); press("y");
const first = nodes.where.textContent;
start();                                     // the page is opened again: answers are still there
press("e");
const marks = nodes.text.children.length, text = nodes.text.children.map((piece) => piece.textContent).join("");
press("s");
console.log(JSON.stringify({ first, again: nodes.where.textContent, marks, text, saved: JSON.parse(context.saved), file: context.clicked.download }));
"""


@pytest.mark.skipif(
    shutil.which("node") is None, reason="no node on the PATH, which runs the page's script (Debian: apt-get install nodejs)"
)
def test_the_page_is_labelled_by_keys_survives_reopening_and_saves_what_import_reads(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "dom.js").write_text(DOM)
    done = subprocess.run(["node", tmp_path / "dom.js", drawn / "label-ann.html"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["first"], seen["again"], seen["file"]) == ("Document 2 of 16", "Document 2 of 16", "answers-ann.json")
    assert seen["text"] == sample(drawn)[1]["text"] and seen["marks"] >= 1
    given = {answer["behavior"]: answer["answer"] for answer in seen["saved"]["answers"]}
    assert given == {"verification": "n" and "no", "backtracking": "unsure", "subgoal_setting": "yes", "backward_chaining": "no"}
    result = take_in(drawn, seen["saved"])
    assert result.exit_code == 0, result.stderr
    (row,) = rows_of(drawn / "annotations")
    assert [row[name] for name in BEHAVIORS] == [False, None, True, False] and row["item"] == sample(drawn)[0]["item"]


@pytest.mark.skipif(find_chromium() is None, reason="no chromium on the PATH (Debian: apt-get install chromium)")
def test_the_page_works_in_a_browser(drawn: Path) -> None:
    with Chromium() as browser:
        page = browser.open(drawn / "label-ann.html")
        assert page.complaints == [] and len(page.requests) == 1
        for key in "ynny":
            page.evaluate(f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")
        assert page.evaluate("document.getElementById('where').textContent") == "Document 2 of 16"
        assert page.evaluate("document.getElementById('text').textContent") == sample(drawn)[1]["text"]


# --- what is made of the answers


def test_imported_answers_become_annotations_once(drawn: Path) -> None:
    content = saved(drawn, "ann", items=10)
    result = take_in(drawn, content)
    assert result.exit_code == 0 and "40 new answers of ann, 0 known already" in result.stdout, result.stderr
    assert "0 new answers of ann, 40 known already" in take_in(drawn, content).stdout
    content["answers"][0] |= {"answer": "unsure", "at": 2e9}
    assert "1 new answers of ann, 39 known already" in take_in(drawn, content).stdout
    rows = rows_of(drawn / "annotations")
    assert len(rows) == 10 and sum(row["verification"] is None for row in rows) == 1
    strata = {item["stratum"]: item["stratum_documents"] for item in sample(drawn)}
    answered = {row["stratum"] for row in rows}
    assert sum(row["weight"] for row in rows) == pytest.approx(sum(strata[name] for name in answered))


def test_answers_that_do_not_belong_are_refused(drawn: Path, tmp_path: Path) -> None:
    good = saved(drawn, "ann", items=1)
    for change, reason in (
        ({"sample": "other"}, "answers to another sample"),
        ({"format": 9}, "not saved by an audit page of this version"),
        ({"annotator": "../x"}, "--annotator NAME is needed"),
        ({"answers": [good["answers"][0] | {"answer": "maybe"}]}, "'maybe' is none of yes, no, unsure"),
        ({"answers": [good["answers"][0] | {"behavior": "luck"}]}, "'luck' was not asked for"),
    ):
        result = take_in(drawn, good | change)
        assert result.exit_code == 2 and reason in error_line(result)
    assert curate("audit", "report", "--out", drawn).exit_code == 2
    result = curate("audit", "import", "--answers", tmp_path / "no.json", "--out", drawn)
    assert result.exit_code == 2 and "cannot read the answers" in error_line(result)


def test_two_annotators_give_kappa_calibration_prevalence_and_their_disagreements(drawn: Path, labels: Path) -> None:
    wrong = {item["item"] for item in sample(drawn)[:3]}
    assert take_in(drawn, saved(drawn, "ann")).exit_code == 0
    result = take_in(drawn, saved(drawn, "ben", wrong))
    assert result.exit_code == 0, result.stderr
    report = json.loads((drawn / "audit.json").read_text())
    between = {row["behavior"]: row for row in report["between_annotators"]}
    assert (
        between["backtracking"]["kappa"] == 1
        and between["verification"]["kappa"] < 1
        and between["verification"]["agreement"] == pytest.approx(13 / 16)
    )
    assert between["verification"]["low"] < between["verification"]["kappa"] < between["verification"]["high"]
    with_labels = {(row["behavior"], row["first"]): row for row in report["against_labels"]}
    assert with_labels["verification", "ann"]["kappa"] == 1 and with_labels["verification", "everybody"]["items"] == 13
    prevalence = {row["behavior"]: row for row in report["prevalence"]}
    assert prevalence["backtracking"]["value"] == pytest.approx(1 / 8, abs=0.01) and prevalence["backtracking"]["labels"] == pytest.approx(
        1 / 8
    )
    listed = [row for row in report["disagreements"] if row["behavior"] == "verification" and row["between"] == "annotators"]
    assert {row["item"] for row in listed} == wrong
    page = (drawn / "audit.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and all(item in page for item in wrong) and "\x1b" not in page
    assert "3 answers on which annotators differ" in result.stdout
    result = curate("frequencies", "--labels", labels, "--gold", drawn, "--out", drawn.parent / "f")
    assert result.exit_code == 0, result.stderr
    row = next(row for row in rows_of(drawn.parent / "f") if (row["behavior"], row["estimate"]) == ("backtracking", "ppi"))
    assert row["gold"] == 16 and row["low"] <= 1 / 8 <= row["high"]


def test_a_sample_is_drawn_once_with_its_probabilities_and_other_settings_are_refused(drawn: Path, labels: Path) -> None:
    rows = sample(drawn)
    assert len(rows) == 16 == read_manifest(drawn / "sample").rows_out
    conserved(drawn / "sample")
    assert sum(1 / row["inclusion_probability"] for row in rows) == pytest.approx(64)
    assert {row["stratum"] for row in rows} >= {"all-low"} and len({row["stratum"] for row in rows}) > 3
    result = curate("audit", "export", "--out", drawn, "--annotator", "ann", "--items", 17)
    assert result.exit_code == 2 and "drawn with other settings (items: 16 -> 17)" in error_line(result)
    result = curate("audit", "export", "--out", drawn.parent / "new", "--annotator", "ann")
    assert result.exit_code == 2 and "--labels is needed" in error_line(result)
    again = drawn.parent / "again"
    assert curate("audit", "export", "--labels", labels, "--out", again, "--items", 16, "--annotator", "ben").exit_code == 0
    assert sample(again) == rows
