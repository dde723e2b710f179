"""The two HTML pages of an audit: one to label in (keyboard, works offline, saves JSON), one that says what came out (no script)."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from curate.behaviors import Behavior
from curate.reporting import VISIBLE, counted, decimal, percent, spoken

FORMAT = 1  # of the JSON that the page saves


def sample_hash(items: Sequence[Mapping[str, Any]]) -> str:
    """Names a sample by its items: answers to another one are refused."""
    return hashlib.sha256("".join(sorted(item["item"] for item in items)).encode()).hexdigest()[:16]


def labelling_page(items: Sequence[Mapping[str, Any]], behaviors: Sequence[Behavior], annotator: str) -> str:
    """The page to label in, self-contained. It holds texts, questions and the evidence spans that `e` reveals; no score, no stratum."""
    data = {
        "sample": sample_hash(items),
        "annotator": annotator,
        "behaviors": [{"name": b.name, "question": b.question, "definition": b.definition} for b in behaviors],
        "items": [
            {
                "item": item["item"],
                "text": item["text"],
                "evidence": [{key: span[key] for key in ("behavior", "start", "end")} for span in item["evidence"] or []],
            }
            for item in items
        ],
    }
    # Inside <script> only `<` could end the element or open a comment; lone surrogates stay escaped.
    text = json.dumps(data).replace("<", "\\u003c")
    return _render("label.html.j2", {"annotator": annotator, "data": text, "script": _asset("label.js"), "style": _asset("label.css")})


def report_page(report: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """The report as one page: tables, a calibration picture a behavior, the disagreements with the beginnings of their texts."""
    page = {**report, "texts": {item: text[:300].translate(VISIBLE) for item, text in texts.items()}, "style": _asset("label.css")}
    page["curves"] = {name: [row for row in report["calibration"] if row["behavior"] == name] for name in report["behaviors"]}
    return _render("audit.html.j2", page)


def _asset(name: str) -> str:
    return files("curate").joinpath(f"auditing/{name}").read_text(encoding="utf-8")


def _render(template: str, page: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "spoken": spoken,
        "percent": percent,
        "decimal": decimal,
        "csp_hash": lambda text: "sha256-" + base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode(),
    }
    environment.globals |= {"counted": counted}
    return environment.from_string(_asset(template)).render(page).encode("utf-8", errors="replace").decode()
