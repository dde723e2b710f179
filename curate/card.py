"""The dataset card of a match: front matter that makes the sets loadable, and what a user of them must know, from files alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from curate.records.settings import option

CARD_FILE = "README.md"
MOST_ROWS = 60
# What corpora call their licences, and the identifiers that the hub knows.
HUB_LICENCES = {
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "cc0": "cc0-1.0",
    "cc0-1.0": "cc0-1.0",
    "cc-by-3.0": "cc-by-3.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-3.0": "cc-by-sa-3.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "odc-by": "odc-by",
    "gfdl-1.2-or-later": "gfdl",
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
NO_LICENCE = "not stated"


@dataclass(frozen=True)
class PublishSettings:
    """Which sets get a card, and where they go."""

    sets: Path | None = option(None, "Output folder of `curate match`.", hashed=False)
    push_to_hub: str | None = option(None, "Also send the sets to this dataset repository (user/name) on the Hugging Face hub.")
    private: bool = option(True, "Make a new repository private.")


def front_matter(title: str, arms: Sequence[str], filtered: bool, licences: Sequence[str], examples: int) -> str:
    """The YAML of the card: one configuration `default` whose splits are the arms, and `filtered` where there is one."""
    from huggingface_hub import DatasetCardData

    configs = [{"config_name": "default", "data_files": [{"split": arm, "path": f"{arm}/parts/*.parquet"} for arm in arms]}]
    if filtered:
        below = [{"split": arm, "path": f"filtered/{arm}/parts/*.parquet"} for arm in arms]
        configs.append({"config_name": "filtered", "data_files": below})
    known = {HUB_LICENCES.get(name.lower()) for name in licences}
    one = next(iter(known)) if len(known) == 1 else None
    data = DatasetCardData(
        pretty_name=title,
        language=["en"],
        license=one or "other",
        license_name=None if one else "by-source",
        license_link=None if one else CARD_FILE,
        task_categories=["text-generation"],
        tags=["mathematics", "reasoning", "continued-pretraining", "fourhabits"],
        size_categories=[next((name for limit, name in SIZES if examples < limit), "n>10M")],
        configs=configs,
    )
    return data.to_yaml(line_break="\n").strip()


def limits(facts: Mapping[str, Any]) -> list[str]:
    """What the sets cannot promise, each line only where it applies. `facts`: see `pipelines.publish.collect`."""
    lines = []
    if facts["rewriter"]:
        lines.append(
            f"The texts are a model's ({facts['rewriter']}): its voice, its mistakes in mathematics, and what it knows are in every arm."
        )
        lines.append(
            "Versions of a document agree in length within a tolerance in words; arms agree in tokens as a whole, not pair by pair."
        )
    if facts["judge"]:
        lines.append(
            f"Fidelity is what the judge {facts['judge']} sees; its own errors are in the shares, and the intervals are those of "
            "sampling alone."
        )
    if facts["judge"] and facts["judge"] == facts["labeller"]:
        lines.append(
            "The judge also chose the documents: some were chosen by its errors, which do not repeat on the rewrite, so part of what is "
            "lost was never there (regression to the mean)."
        )
    if not facts["judge"]:
        lines.append("Nobody looked whether the rewrites show what they should.")
    if facts["filtered"]:
        lines.append("The filtered sets condition on the outcome of the rewriting: their arms may differ in ways that were not asked for.")
    if not facts["decontaminated"]:
        lines.append("Not held against any evaluation set: problems of benchmarks may be in it (`curate match --decontaminate`).")
    if facts["far"]:
        lines.append(f"Still different between arms by more than 0.05 standard deviations: {', '.join(facts['far'])}.")
    lines.append("Arms are matched on what was measured; documents may differ in what was not.")
    lines.append("A difference after training is one of the contrasts above, for one model, one seed and this amount of text.")
    return lines


def hub_licence(root: str) -> str | None:
    """The licence of a corpus on the hub whose rows do not name one, by the address of its files."""
    from curate.corpus import DATASETS

    return next((corpus.license for corpus in DATASETS.values() if root.startswith(f"hf://datasets/{corpus.repository}@")), None)


def render(facts: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {
        "number": lambda value: "–" if value is None else f"{value:,}",
        "decimal": lambda value: "–" if value is None else f"{value:.3f}",
        "cell": cell,
        "share": share,
    }
    template = environment.from_string(files("curate").joinpath("card.md.j2").read_text(encoding="utf-8"))
    return template.render(facts)


def cell(value: Any) -> str:
    """A value inside a Markdown table: on one line, and unable to end its cell or to become markup."""
    text = " ".join(str(value).split())
    for character in "\\|`<>[]*_":
        text = text.replace(character, f"\\{character}")
    return text


def share(row: Mapping[str, Any], name: str) -> str:
    """`.93 (.88 to .96)`, or a dash where there is nothing to divide by."""
    value = row.get(name)
    if value is None:
        return "–"
    return f"{value:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"


def described(value: Any) -> str:
    """A setting or a count for a table: short, never empty."""
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {reason}" for reason, count in value.items()) or "none"
    return "–" if value in (None, "") else value if isinstance(value, str) else json.dumps(value)
