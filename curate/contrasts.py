"""What comparing two arms identifies, and what it does not: one table for each design, printed by `curate match`, in the report, on the
card of the sets and in docs/ARMS.md."""

from collections.abc import Sequence
from dataclasses import dataclass

from curate.arms import ARM_DESIGNS

HABITS_NOTE = "one habit against another, unless the arms were made with --habits"


@dataclass(frozen=True)
class Contrast:
    """A comparison of arms: `compared` in symbols, what a difference between models trained on them is due to, and what it cannot tell."""

    compared: str
    identifies: str
    does_not: str


CONTRASTS: dict[str, tuple[Contrast, ...]] = {
    "pairs": (
        Contrast(
            "enriched − control",
            "the behaviors in the text, for documents that people wrote with them: source, problem, answer, mathematics, voice and length "
            "are the same in both arms",
            "what choosing such documents does (both arms are made of them); the effect of unedited text (both are rewritten); "
            f"{HABITS_NOTE}; whether behaviors added to other documents would do the same (2x2)",
        ),
    ),
    "2x2": (
        Contrast(
            "selected − selected_stripped",
            "the behaviors in the text, for documents that people wrote with them (as in pairs)",
            f"the effect in documents that never had them; {HABITS_NOTE}",
        ),
        Contrast(
            "free_injected − free",
            "the behaviors in the text, for documents that people wrote without them",
            "what a person's own behavior does: these are the rewriter's, drawn to be as frequent as in selected",
        ),
        Contrast(
            "selected_stripped − free",
            "the choice of documents alone: what else is different about texts that show behavior, once it is taken out",
            "anything about behavior; traces that stripping leaves (curate verify counts them) are in it, and so is every difference "
            "of the documents that was not matched on",
        ),
        Contrast(
            "selected − free",
            "nothing alone: the sum of behavior and choice of documents, as in sets that are merely selected",
            "which of the two it is",
        ),
        Contrast(
            "selected − free_injected",
            "whose behavior: a person's in their own document, against a rewriter's in a matched one",
            "behavior against none; the documents differ too, within what was matched on",
        ),
        Contrast(
            "(selected − selected_stripped) − (free_injected − free)",
            "whether behavior works differently in documents that had it (the interaction)",
            "why; with one seed an arm it is the noisiest of all: its variance is the sum of four",
        ),
    ),
    "paper": (
        Contrast(
            "enriched − control",
            "the published difference, as a whole",
            "which part is due to the documents (different ones), which to the instruction (the enriched prompt asks for behaviors and "
            "mistakes), which to the voice and length (thinking aloud against steps)",
        ),
    ),
    "extract": (
        Contrast(
            "enriched − control",
            "human text with behavior against matched human text without: no rewriter takes part",
            "behavior alone: the documents are different ones, alike only in what was matched on",
        ),
    ),
}
DOSE = (
    "With a dose below 1 an arm with behavior holds it in that share of its examples; the others are its own siblings without it. "
    "Every contrast above is then one of that share."
)


def contrast_lines(kind: str, width: int = 118) -> list[str]:
    """The table of a design as text for a terminal."""
    import textwrap

    lines = [f"what the arms of {kind} can tell:"]
    for item in CONTRASTS[kind]:
        lines.append(f"  {item.compared}")
        for word, text in (("identifies", item.identifies), ("not", item.does_not)):
            lines += textwrap.wrap(text, width, initial_indent=f"    {word + ':':<12}", subsequent_indent=" " * 16)
    return lines


def contrast_table(kind: str) -> str:
    """The same as a Markdown table."""
    rows = [f"| {item.compared} | {item.identifies} | {item.does_not} |" for item in CONTRASTS[kind]]
    return "\n".join(["| contrast | identifies | does not identify |", "|---|---|---|", *rows])


def arms_document(kinds: Sequence[str] = tuple(ARM_DESIGNS)) -> str:
    """docs/ARMS.md: every design with its arms, their cells and its contrasts."""
    about = {
        "pairs": "Every selected document twice, `preserve` and `strip`. The headline.",
        "2x2": "{selected, behavior-free} × {as it is, changed}: what the text was, and what it became.",
        "paper": "The published pair, for replication.",
        "extract": "Human questions and answers as they are (`curate rewrite --engine extract`).",
    }
    parts = [
        "# The arms",
        "Made from `curate/arms.py` and `curate/contrasts.py`; `tests/curate/test_contrasts.py` holds them together. "
        "`curate match` prints the table of its design, and the report and the card of the sets show it.",
    ]
    for kind in kinds:
        design = ARM_DESIGNS[kind]
        made = ", ".join(f"`{arm}` of the cell `{cell}`" for arm, cell in zip(design.arms, design.cells, strict=True))
        parts += [f"## {kind}", f"{about[kind]} Arms: {made}.", contrast_table(kind)]
    parts += ["## Dose", DOSE + " `--dose` needs siblings: `pairs` and `2x2`."]
    return "\n\n".join(parts) + "\n"
