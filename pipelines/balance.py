"""What `curate match` says of its arms: how alike they are, and whether a classifier can tell them apart."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from curate.arms import ArmDesign
from curate.balance import beyond, compare, instances
from curate.behaviors import load_behaviors
from curate.masking import about_the_subject, cue_pattern, mask, separability
from curate.matching import MatchSettings
from curate.matching_budget import GOOD_DIFFERENCE
from curate.verification import passage
from pipelines.cleaning import TEXTS, Log


def balance(
    before: list[pl.DataFrame], sets: list[pl.DataFrame], design: ArmDesign, match_on: Sequence[str], settings: MatchSettings, log: Log
) -> dict[str, Any]:
    """What `balance.json` holds: examples, tokens and behavior instances of each arm, and for each contrast the covariates and the AUC."""
    place = {arm: number for number, arm in enumerate(design.arms)}
    behaviors = load_behaviors()
    cues = {behavior.name: behavior.cues for behavior in behaviors}
    known = [
        name.removeprefix("source_").removesuffix("_score")
        for name in sets[0].columns
        if name.startswith("source_") and name.endswith("_score")
    ]
    names = [name for name in known if name not in ("problem", "solution")]
    texts = [[passage(row) for row in arm.select(TEXTS).iter_rows(named=True)] for arm in sets]
    rates = {}
    for arm, data, passages in zip(design.arms, sets, texts, strict=True):
        rates[arm], counted = instances(data, names, cues, passages)
    if counted == "cues":
        print("note: the rewrites were not verified: behavior instances are counted by cues, and cues alone are masked")
    readings = masked_readings(sets, texts, cue_pattern(cue for values in cues.values() for cue in values))
    contrasts = []
    for first, second in design.contrasts:
        pair = place[first], place[second]
        rows = compare((before[pair[0]], before[pair[1]]), (sets[pair[0]], sets[pair[1]]), (first, second), match_on)
        if far := beyond(rows):
            log.warnings.append(f"{first} and {second} differ by more than {GOOD_DIFFERENCE} standard deviations in {', '.join(far)}")
        aucs = {reading: separability(views[pair[0]], views[pair[1]], settings.seed) for reading, views in readings.items()}
        if (masked := aucs["masked"]) is None:
            log.warnings.append(
                f"{first} and {second}: too few pairs for a classifier, so it is not known whether their texts differ otherwise"
            )
        else:
            print(f"{first} against {second}, evidence masked: AUC {masked['auc']:.2f} ({masked['low']:.2f} to {masked['high']:.2f})")
        contrasts.append({"first": first, "second": second, "rows": rows, "auc": aucs})
    return {
        "examples": sets[0].height,
        "tokens": tokens_of(sets, design),
        "instances_per_1000_tokens": rates,
        "instances_counted_by": counted,
        "matching": log.notes.get("matching"),
        "contrasts": contrasts,
    }


def masked_readings(sets: list[pl.DataFrame], texts: list[list[str]], cues: Any) -> dict[str, list[list[str]]]:
    """What classifiers read, by the name of the reading, one list an arm: the texts as they are, with the evidence masked, and of the
    masked thoughts only the words that stand in the question or the answer."""
    masked = []
    for arm, passages in zip(sets, texts, strict=True):
        evidence = arm["rewrite_evidence"].to_list() if "rewrite_evidence" in arm.columns else [None] * arm.height
        masked.append([mask(text, spans or [], cues) for text, spans in zip(passages, evidence, strict=True)])
    subject = [
        [
            about_the_subject(mask(row["thoughts"], [], cues), f"{row['question']} {row['answer']}")
            for row in arm.select(TEXTS).iter_rows(named=True)
        ]
        for arm in sets
    ]
    return {"masked": masked, "subject": subject, "unmasked": texts}


def tokens_of(sets: list[pl.DataFrame], design: ArmDesign) -> dict[str, int]:
    """Tokens that the loss sees, by arm."""
    return {arm: int(data["num_loss_tokens"].sum()) for arm, data in zip(design.arms, sets, strict=True)}
