"""`curate audit`: draw, let people answer, read their answers back, say how far the labels can be trusted."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from curate.attach import fetch_rows
from curate.auditing import agreement, terminal
from curate.auditing.answers import AnswerLog, answers_path, parse_answer, read_answers
from curate.auditing.pages import FORMAT, labelling_page, report_page, sample_hash
from curate.auditing.sample import answered_weights, draw, parse_bands
from curate.auditing.settings import AuditSettings
from curate.behaviors import Behavior, load_behaviors
from curate.gold import ANNOTATIONS
from curate.prevalence import added
from curate.records import schemas
from curate.records.command import require
from curate.records.errors import UserError
from curate.records.manifest import FILE_NAME, InputFile, Manifest, file_sha256, read_manifest
from curate.records.parts import atomic_file, write_json, write_part
from curate.records.settings import difference, to_dict
from pipelines.stage import read_table, write_table

SAMPLE_STAGE = "audit-sample"
REPORT_JSON, REPORT_HTML = "audit.json", "audit.html"
NEVER_ASKED = "unfinished: a question of the item is open"


def audit(settings: AuditSettings) -> Manifest:
    """Let people read a stratified sample of labelled documents, and hold the labels against what they say.

    `curate audit --labels L --out A --annotator NAME` draws the sample (once) and opens the terminal page: text above, questions below,
    y, n or u for each; blind to the labels, every answer on disk at once; run it again to go on. `curate audit export --out A
    --annotator NAME` writes an HTML page for the same, and `curate audit import --answers FILE --out A` reads what it saved. After each,
    and by `curate audit report --out A`, the annotations and the report (kappa, calibration, prevalence, disagreements) are brought up to
    date; `curate frequencies --gold A` corrects prevalences with them.
    """
    out = require(settings.out, "out", "the folder of the audit")
    items = load_sample(settings, out)
    behaviors = asked(settings, items)
    names = [behavior.name for behavior in behaviors]
    ids = [item["item"] for item in items]
    if settings.action == "label":
        label(out, settings, items, behaviors)
    elif settings.action == "export":
        answers_path(out, settings.annotator)
        page = settings.page or out / f"label-{settings.annotator}.html"
        with atomic_file(page) as file:
            file.write(labelling_page(items, behaviors, str(settings.annotator)).encode())
        print(f"page to label in: {page} (it loads nothing; `curate audit import --answers FILE --out {out}` reads what it saves)")
    elif settings.action == "import":
        for path in require(settings.answers, "answers", "the JSON file that the page saved"):
            take_in(out, path, items, names)
    manifest = write_annotations(settings, out, items, names)
    if manifest.rows_out:
        summarise(settings, out, items, names, manifest)
    elif settings.action == "report":
        raise UserError(f"nobody has finished an item in {out} yet: `curate audit --out {out} --annotator NAME`")
    print(f"{manifest.rows_out} annotations of {len(set(ids))} items in {out / ANNOTATIONS}")
    return manifest


def load_sample(settings: AuditSettings, out: Path) -> list[dict[str, Any]]:
    """The rows of the sample in the order they are read; drawn now when there is none yet."""
    folder = out / "sample"
    if (folder / FILE_NAME).exists():
        drawn = read_manifest(folder)
        hashed = to_dict(settings, hashed_only=True)
        defaults = to_dict(AuditSettings(), hashed_only=True)
        before = {key: value for key, value in drawn.notes["hashed"].items() if hashed.get(key) != defaults.get(key)}
        now = {key: hashed[key] for key in before if key in hashed}
        if before != now:
            raise UserError(f"the sample in {folder} was drawn with other settings ({difference(before, now)}); use another --out")
    else:
        draw_sample(settings, folder)
    return pl.concat([pl.read_parquet(path) for path in sorted((folder / "parts").glob("*.parquet"))]).to_dicts()


def draw_sample(settings: AuditSettings, folder: Path) -> None:
    """Draw, fetch the texts, write: from here on the audit needs neither labels nor corpus."""
    started = time.monotonic()
    bands = parse_bands(settings.bands)
    source = require(settings.labels, "labels", "the output of `curate classify`, to draw the sample from")
    labels, files = read_table(source, "classify")
    names = schemas.behaviors_in(labels.to_arrow().schema)
    usable = labels.filter(pl.col("error").is_null() & pl.all_horizontal(pl.col(f"{name}_score").is_not_null() for name in names))
    if usable.height == 0:
        raise UserError(f"{source} has no document with labels: nothing to audit")
    if "start" not in usable.columns:
        usable = usable.with_columns(pl.lit(None, pl.Int64).alias("start"), pl.lit(None, pl.Int64).alias("end"))
    chosen = draw(usable, names, bands, settings.items, settings.seed)
    manifest = read_manifest(source)
    wanted = list(zip(chosen["file_sha256"].to_list(), chosen["source_row"].to_list(), strict=True))
    found = fetch_rows({file.sha256: file for file in manifest.inputs}, wanted, (settings.text_key,))
    texts = [str(text) for identity in wanted if isinstance(text := found[identity].get(settings.text_key), str)]
    if len(texts) < len(wanted):
        raise UserError(f"a drawn document has no text in column {settings.text_key!r}: set --text-key")
    spans = zip(texts, chosen["start"].to_list(), chosen["end"].to_list(), strict=True)
    shown = [text if start is None else text[start:end] for text, start, end in spans]
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in shown]  # of what is read, which may be a window
    lengths = pl.Series("num_chars", [len(text) for text in shown], pl.Int64)
    chosen = chosen.with_columns(pl.Series("text", shown), pl.Series("text_sha256", hashes), lengths)
    dropped = {"label error": labels.height - usable.height, "not drawn": usable.height - chosen.height}
    notes = {
        "behaviors": names,
        "documents": usable.height,
        "flagged": {name: _share(usable, name, settings.threshold) for name in names},
        "flagged_from": settings.threshold,
        "strata": dict(chosen.select("stratum", "stratum_documents").unique().sort("stratum").iter_rows()),
        "label_model": manifest.model,
        "score_shift": manifest.notes.get("score_shift", {}),
    }
    dropped = {reason: count for reason, count in dropped.items() if count}
    write_table(folder, SAMPLE_STAGE, settings, chosen.to_arrow(), files, labels.height, dropped, started, notes)
    strata = "; ".join(f"{name}: {count}" for name, count in sorted(notes["strata"].items()))
    print(f"{chosen.height} of {usable.height} documents drawn; documents by stratum: {strata}")


def _share(labels: pl.DataFrame, name: str, threshold: float) -> float:
    return float((labels[f"{name}_score"].cast(pl.Float64).to_numpy() >= threshold).mean())


def asked(settings: AuditSettings, items: Sequence[dict[str, Any]]) -> list[Behavior]:
    """The behaviors that the labels were made for, with their questions. Raises UserError for one that is not defined here."""
    known = {behavior.name: behavior for behavior in load_behaviors(settings.behaviors)}
    names = [key.removesuffix("_count") for key in items[0] if key.endswith("_count") and f"{key.removesuffix('_count')}_score" in items[0]]
    if missing := [name for name in names if name not in known]:
        raise UserError(f"the labels have a behavior {missing[0]!r} that is not defined: pass the --behaviors file they were made with")
    return [known[name] for name in names]


def label(out: Path, settings: AuditSettings, items: Sequence[dict[str, Any]], behaviors: Sequence[Behavior]) -> None:
    """The terminal page, until the person quits."""
    path = answers_path(out, settings.annotator)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("the terminal page needs a terminal; `curate audit export` writes a page for a browser")
    with AnswerLog(path, [item["item"] for item in items], [behavior.name for behavior in behaviors]) as log:
        terminal.run(items, behaviors, log)
        done = sum(log.is_complete(item["item"]) for item in items)
        if log.torn:
            print("the last answer before the interruption was cut off in mid-write; its question was asked again")
    print(f"{settings.annotator}: {done} of {len(items)} done{'' if done == len(items) else '; the same command goes on'}")


def take_in(out: Path, path: Path, items: Sequence[dict[str, Any]], behaviors: Sequence[str]) -> None:
    """Append the answers of a saved file that are new to its annotator's; importing a file twice changes nothing."""
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read the answers {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"the answers {path} are not JSON: {error}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT or not isinstance(raw.get("answers"), list):
        raise UserError(f"{path} was not saved by an audit page of this version")
    if raw.get("sample") != sample_hash(items):
        raise UserError(f"{path} holds answers to another sample than that of {out}")
    ids, added = {item["item"] for item in items}, 0
    try:
        answers = [parse_answer(answer, ids, behaviors) for answer in raw["answers"]]
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    annotator = str(raw.get("annotator"))
    with AnswerLog(answers_path(out, annotator), sorted(ids), behaviors) as log:
        for answer in sorted(answers, key=lambda answer: answer.at):
            before = log.state.get((answer.item, answer.behavior))
            if before is None or answer.at > before.at:
                log.add(answer)
                added += 1
    print(f"{path}: {added} new answers of {annotator}, {len(answers) - added} known already")


def all_answers(out: Path, items: Sequence[dict[str, Any]], behaviors: Sequence[str]) -> dict[str, dict[tuple[str, str], Any]]:
    """The last answer to each question, by annotator."""
    ids = [item["item"] for item in items]
    found = {}
    for path in sorted((out / "answers").glob("*.jsonl")):
        answers, _ = read_answers(path, ids, behaviors)
        found[path.stem] = {(answer.item, answer.behavior): answer for answer in answers}
    return found


def write_annotations(settings: AuditSettings, out: Path, items: list[dict[str, Any]], behaviors: list[str]) -> Manifest:
    """The table `annotations`: one row an annotator and item with all its questions answered (null: unsure)."""
    started = time.monotonic()
    answers = all_answers(out, items, behaviors)
    rows, begun = [], 0
    for annotator, given in answers.items():
        for item in items:
            mine = [given[item["item"], name] for name in behaviors if (item["item"], name) in given]
            begun += bool(mine)
            if len(mine) < len(behaviors):
                continue
            keys = (
                "file_sha256",
                "source_file",
                "source_row",
                "id",
                "source",
                "item",
                "start",
                "end",
                "text_sha256",
                "num_chars",
                "stratum",
            )
            row = {key: item[key] for key in keys} | {"annotator": annotator}
            row |= {name: {"yes": True, "no": False, "unsure": None}[answer.answer] for name, answer in zip(behaviors, mine, strict=True)}
            row |= {"seconds": max(answer.seconds for answer in mine), "evidence_shown": any(answer.evidence_shown for answer in mine)}
            rows.append(row)
    answered = {row["item"]: row["stratum"] for row in rows}
    documents = {item["stratum"]: item["stratum_documents"] for item in items}
    weights = dict(zip(answered, answered_weights(list(answered.values()), documents).tolist(), strict=True)) if answered else {}
    for row in rows:
        row["weight"] = weights[row["item"]]
    folder = out / ANNOTATIONS
    write_part(folder / "parts" / "part.parquet", pa.Table.from_pylist(rows, schema=schemas.annotations(behaviors)), {"stage": ANNOTATIONS})
    read = [*sorted((out / "answers").glob("*.jsonl")), *sorted((out / "sample" / "parts").glob("*.parquet"))]
    inputs = [InputFile(str(path.relative_to(out)), file_sha256(path), 0, path.stat().st_size, str(out.resolve())) for path in read]
    dropped = {NEVER_ASKED: begun - len(rows)} if begun > len(rows) else {}
    manifest = Manifest(ANNOTATIONS, to_dict(settings), inputs, begun, 0, len(rows), dropped, seconds=round(time.monotonic() - started, 3))
    manifest.notes = {"annotators": {name: sum(row["annotator"] == name for row in rows) for name in answers}, "behaviors": behaviors}
    manifest.write(folder)
    return manifest


def summarise(settings: AuditSettings, out: Path, items: list[dict[str, Any]], behaviors: list[str], manifest: Manifest) -> None:
    """Write the report and print its tables."""
    table = pl.read_parquet(out / ANNOTATIONS / "parts" / "part.parquet")
    drawn = read_manifest(out / "sample")
    edges = [0.0, *parse_bands(drawn.settings["bands"]), 1.0]
    documents = {item["stratum"]: item["stratum_documents"] for item in items}
    strata = np.array([item["stratum"] for item in items])
    position = {item["item"]: number for number, item in enumerate(items)}
    judged = pl.DataFrame(items, infer_schema_length=None)
    rng = np.random.default_rng(drawn.settings["seed"])
    report: dict[str, Any] = {"behaviors": behaviors, "annotators": sorted(set(table["annotator"])), "threshold": settings.threshold}
    report |= {"documents": drawn.notes["documents"], "sample_items": len(items), "report_items": table["item"].n_unique()}
    report |= {"model": drawn.notes["label_model"], "between_annotators": [], "against_labels": [], "calibration": [], "prevalence": []}
    report["disagreements"] = []
    for name in behaviors:
        truth = {annotator: np.full(len(items), np.nan) for annotator in report["annotators"]}
        for row in table.select("annotator", "item", name).iter_rows():
            if row[2] is not None:
                truth[row[0]][position[row[1]]] = float(row[2])
        scores = np.array([item[f"{name}_score"] for item in items], dtype=np.float64)
        shift = added(judged, drawn.notes["score_shift"].get(name, 0.0))
        answers = agreement.Answers(name, truth, scores, strata, documents, shift)
        report["between_annotators"] += agreement.between_annotators(answers, rng)
        report["against_labels"] += agreement.against_labels(answers, settings.threshold, rng)
        report["calibration"] += agreement.calibration(answers, edges)
        flagged = drawn.notes["flagged"][name] if drawn.notes["flagged_from"] == settings.threshold else None
        report["prevalence"].append({**agreement.prevalence(answers), "labels": flagged})
        report["disagreements"] += agreement.disagreements(answers, list(position), settings.threshold)
    report["notes"] = notes_of(table, report, manifest)
    write_json(out / REPORT_JSON, report)
    with atomic_file(out / REPORT_HTML) as file:
        file.write(report_page(report, {item["item"]: item["text"] for item in items}).encode())
    show(report)
    print(f"report: {out / REPORT_HTML}")


def notes_of(table: pl.DataFrame, report: dict[str, Any], manifest: Manifest) -> list[str]:
    """What a reader must know before the numbers."""
    notes = []
    if unfinished := sum(manifest.dropped.values()):
        notes.append(f"{unfinished} items are begun and not finished; they are left out.")
    if peeked := int(table["evidence_shown"].sum()):
        notes.append(f"{peeked} of {table.height} annotations were given after the labels' evidence had been revealed.")
    if uncovered := max(row["uncovered"] for row in report["prevalence"]):
        notes.append(f"Nobody has answered in strata that hold {uncovered:.1%} of the documents: prevalences speak of the others.")
    return notes


def show(report: dict[str, Any]) -> None:
    def interval(low: float | None, high: float | None) -> str:
        return "(too few items for an interval)" if low is None else f"[{low:.2f}, {high:.2f}]"

    for line in report["notes"]:
        print(f"note: {line}")
    for row in [*report["between_annotators"], *report["against_labels"]]:
        value = "undefined (all answers alike)" if row["kappa"] is None else f"{row['kappa']:.2f} {interval(row['low'], row['high'])}"
        print(f"{row['behavior']:20} {row['first']} / {row['second']}: kappa {value} on {row['items']} items")
    for row in report["prevalence"]:
        value = "?" if row["value"] is None else f"{row['value']:.4f}"
        said = "" if row["labels"] is None else f", the labels say {row['labels']:.4f}"
        print(f"{row['behavior']:20} prevalence {value} [{row['low']:.4f}, {row['high']:.4f}]{said}")
    differing = sum(row["between"] == "annotators" for row in report["disagreements"])
    print(
        f"{differing} answers on which annotators differ, {len(report['disagreements']) - differing} on which they differ from the labels"
    )
