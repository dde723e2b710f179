"""`curate publish` as a command: the dataset card of a match, and the way to the hub."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from curate.balance import GOOD_DIFFERENCE
from curate.card import CARD_FILE, MOST_ROWS, NO_LICENCE, PublishSettings, described, front_matter, hub_licence, limits, render
from curate.contrasts import DOSE, contrast_table
from curate.hub import check_repository, push_folder
from curate.records.command import command_line, require
from curate.records.errors import UserError
from curate.records.manifest import Manifest, read_manifest
from curate.records.parts import atomic_file
from curate.reporting import Stage, banners, warnings
from curate.verification import FIDELITY_FILE
from pipelines.match import BALANCE_FILE, FILTERED
from pipelines.report import json_of, title_of
from pipelines.sources import candidates_of, is_adopted
from pipelines.stage import part_files


def publish(settings: PublishSettings) -> Path:
    """Write the dataset card of matched sets, and with --push-to-hub send both to the Hugging Face hub.

    The card makes the folder loadable with `datasets.load_dataset`, one split an arm. Sending goes in batches and takes up where it
    stopped; manifests, which name folders of this machine, are not sent. Returns where the card is.
    """
    folder = require(settings.sets, "sets", "the output of `curate match`")
    if settings.push_to_hub is not None:
        check_repository(settings.push_to_hub)
    manifest = read_manifest(folder)
    if manifest.stage != "match" or "arm_names" not in manifest.notes:
        raise UserError(f"{folder} is not the whole output of `curate match`: name the folder that holds the arms")
    card = folder / CARD_FILE
    with atomic_file(card) as file:
        file.write(render(collect(folder, manifest, settings.push_to_hub)).encode("utf-8", errors="replace"))
    print(f"card: {card}")
    if settings.push_to_hub is not None:
        pushed = push_folder(settings.push_to_hub, folder, files_of(folder, manifest), settings.private)
        print(f"{pushed.sent} files sent, {pushed.there} were there: {pushed.url}")
    return card


def files_of(folder: Path, manifest: Manifest) -> list[str]:
    """What is sent, the card last: with it the dataset becomes visible. Raises UserError when an arm is not as its manifest says."""
    found = []
    for below in [folder, folder / FILTERED] if has_filtered(folder) else [folder]:
        for arm in manifest.notes["arm_names"]:
            found += [Path(file.root) / file.path for file in part_files(below / arm, "match")]
        found.append(below / BALANCE_FILE)
    root = folder.resolve()
    return [*sorted(str(path.resolve().relative_to(root)) for path in found), CARD_FILE]


def has_filtered(folder: Path) -> bool:
    """Whether `match` made filtered sets there."""
    return (folder / FILTERED / "manifest.json").is_file()


def stages_of(folder: Path, manifest: Manifest) -> list[Stage]:
    """The stages behind the sets that can still be read, in the order in which they ran."""
    qa = Path(manifest.inputs[0].root).parent
    rewritten = read_manifest(qa)
    places: list[tuple[str, Path]] = []
    if not is_adopted(rewritten):
        candidates = candidates_of(qa)
        labels = Path(read_manifest(candidates).inputs[0].root).parent
        topics = read_manifest(candidates).settings.get("topics")
        places += [("classify", labels), *([("topics", Path(topics))] if topics else []), ("select", candidates)]
    places.append(("rewrite", qa))
    if verified := manifest.settings.get("verified"):
        places.append(("verify", Path(verified)))
    return [Stage(name, "", "", read_manifest(place)) for name, place in places] + [Stage("match", "", "", manifest)]


def collect(folder: Path, manifest: Manifest, repository: str | None) -> dict[str, Any]:
    """Everything that the card lays out."""
    notes = manifest.notes
    stages = stages_of(folder, manifest)
    made = {stage.name: stage.manifest for stage in stages if stage.manifest}
    arms = {
        arm: pl.concat([pl.read_parquet(Path(file.root) / file.path) for file in part_files(folder / arm, "match")])
        for arm in notes["arm_names"]
    }
    verified = manifest.settings.get("verified")
    fidelity = (json_of(Path(verified) / FIDELITY_FILE) if verified else None) or {}
    balance = json_of(folder / BALANCE_FILE) or {}
    classified, judged = made.get("classify"), made.get("verify")
    filtered = read_manifest(folder / FILTERED).notes["examples_per_arm"] if has_filtered(folder) else None
    adopted = is_adopted(made["rewrite"])
    title = f"{'rewrites from elsewhere' if adopted else title_of(classified)}: {notes['arms']}"
    licences = licence_table(list(arms.values()), classified)
    rows = [{**row, "contrast": f"{item['first']} − {item['second']}"} for item in balance.get("contrasts", []) for row in item["rows"]]
    far = sorted({row["covariate"] for row in rows if row["kind"] != "behavior" and abs(row["smd"] or 0) > GOOD_DIFFERENCE})
    inputs = (made["rewrite"] if adopted else made["classify"]).inputs
    facts: dict[str, Any] = {
        "title": title,
        "arms": [arm_facts(name, frame, manifest) for name, frame in arms.items()],
        "place": repository or str(folder),
        "count": manifest.settings["count"],
        "tokenizer": manifest.settings["tokenizer"],
        "filtered": f"{filtered:,} examples an arm" if filtered else None,
        "filtered_note": notes.get("filtered"),
        "contrasts": contrast_table(notes["arms"]),
        "dose": notes.get("dose", 1),
        "dose_note": DOSE,
        "stages": [stage_facts(stage) for stage in stages],
        "commands": commands_of(made, notes["arms"]),
        "versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        "inputs": inputs[:MOST_ROWS],
        "more_inputs": max(len(inputs) - MOST_ROWS, 0),
        "fidelity": fidelity.get("rows", []),
        "judged": fidelity.get("judged"),
        "judge_errors": fidelity.get("errors"),
        "gold": fidelity.get("judge", []),
        "judge": judged.model if judged else None,
        "labeller": classified.model if classified else None,
        "rewriter": rewriter_of(made["rewrite"], arms),
        "balance": [row for row in rows if row["kind"] != "behavior"],
        "balance_summary": balance_summary(balance),
        "instances": "; ".join(
            f"{arm}: {', '.join(f'{name} {rate:.2f}' for name, rate in rates.items())}"
            for arm, rates in balance.get("instances_per_1000_tokens", {}).items()
        ),
        "licences": licences[:MOST_ROWS],
        "more_licences": max(len(licences) - MOST_ROWS, 0),
        "adopted": adopted,
        "decontaminated": manifest.settings.get("decontaminate"),
        "far": far,
        "warnings": [*banners(stages), *warnings(stages)],
    }
    facts["summary"] = (
        f"{len(arms)} sets of text for continued pretraining, {notes['examples_per_arm']:,} examples each, made by fourhabits "
        f"{version('fourhabits')} to be alike in everything but four habits of thinking: verification, backtracking, setting subgoals, "
        "reasoning backwards."
    )
    facts["limits"] = limits(facts)
    names = list(dict.fromkeys(row["license"] for row in licences))
    facts["front_matter"] = front_matter(f"fourhabits {title}", list(arms), filtered is not None, names, sum(map(len, arms.values())))
    return facts


def arm_facts(name: str, frame: pl.DataFrame, manifest: Manifest) -> dict[str, Any]:
    """One row of the table of arms."""
    cells = ", ".join(f"{count:,} {cell}" for cell, count in sorted(frame.group_by("cell").len().iter_rows()))
    carriers = manifest.notes.get("carriers", {}).get(name, 0)
    return {"name": name, "cells": cells, "examples": frame.height, "tokens": manifest.tokens[name], "carriers": carriers}


def stage_facts(stage: Stage) -> dict[str, Any]:
    """One row of the table of stages."""
    manifest = stage.manifest
    assert manifest is not None
    shown = {"model": manifest.model, "revision": manifest.revision, "engine": manifest.engine}
    return {
        "name": stage.name,
        **{key: described(value) for key, value in shown.items()},
        "prompts": f"`{manifest.prompt_hash[:16]}`" if manifest.prompt_hash else "–",
        "rows_in": manifest.rows_in,
        "rows_out": manifest.rows_out,
        "dropped": described(manifest.dropped),
    }


def commands_of(made: dict[str, Manifest], arms: str) -> list[str]:
    """The command of each stage, from its settings, and how it began."""
    from pipelines.main import COMMANDS, POSITIONAL

    lines = []
    for name, manifest in made.items():
        command = "adopt" if name == "rewrite" and is_adopted(manifest) else name
        lines.append(command_line("curate", command, COMMANDS[command][0], manifest.settings, POSITIONAL.get(command)))
    return lines


def rewriter_of(rewritten: Manifest, arms: dict[str, pl.DataFrame]) -> str | None:
    """Who wrote the texts; None when nobody did (human questions and answers as they are)."""
    if rewritten.engine == "extract":
        return None
    named = sorted({name for frame in arms.values() for name in frame["model"].drop_nulls().unique()})
    return ", ".join(named) or rewritten.model or "not named by the table"


def licence_table(frames: list[pl.DataFrame], classified: Manifest | None) -> list[dict[str, Any]]:
    """Documents and rows of each source and licence, most rows first. A hub corpus whose rows name none has its own."""
    both = pl.concat([frame.select("file_sha256", "source", "license", "pair_id") for frame in frames])
    known = {file.sha256: hub_licence(file.root) for file in (classified.inputs if classified else [])}
    licence = pl.coalesce("license", pl.col("file_sha256").replace_strict(known, default=None, return_dtype=pl.String), pl.lit(NO_LICENCE))
    table = (
        both.with_columns(licence.alias("license"), pl.col("source").fill_null("not named"))
        .group_by("source", "license")
        .agg(pl.col("pair_id").n_unique().alias("documents"), pl.len().alias("rows"))
    )
    return table.sort(["rows", "source", "license"], descending=[True, False, False]).to_dicts()


def balance_summary(balance: dict[str, Any]) -> str:
    """What a classifier makes of the arms, contrast by contrast."""
    lines = []
    for item in balance.get("contrasts", []):
        auc = (item.get("auc") or {}).get("masked")
        found = "not known (too few pairs)" if auc is None else f"{auc['auc']:.2f} ({auc['low']:.2f} to {auc['high']:.2f})"
        lines.append(f"{item['first']} against {item['second']}: {found}")
    told = "; ".join(lines) or "not measured"
    return f"AUC of a classifier that tells the arms apart with the evidence of behavior masked (.5: it cannot), cross-validated: {told}."
