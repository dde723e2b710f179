"""Every design says what its contrasts identify and what they do not, and the document says the same as the code."""

from pathlib import Path

import pytest

from curate.arms import ARM_DESIGNS
from curate.contrasts import CONTRASTS, arms_document, contrast_lines, contrast_table

ROOT = Path(__file__).parents[2]


def test_the_document_is_the_one_that_the_code_makes() -> None:
    assert (ROOT / "docs/ARMS.md").read_text() == arms_document()


@pytest.mark.parametrize("kind", ARM_DESIGNS)
def test_every_contrast_that_is_balanced_is_explained_with_both_columns_filled(kind: str) -> None:
    compared = [item.compared for item in CONTRASTS[kind]]
    assert all(f"{first} − {second}" in compared for first, second in ARM_DESIGNS[kind].contrasts)
    assert all(item.identifies and item.does_not for item in CONTRASTS[kind])
    arms = {word.strip("()") for text in compared for word in text.split() if word != "−"}
    assert arms == set(ARM_DESIGNS[kind].arms)
    assert all(max(map(len, contrast_lines(kind))) <= 118 and text in contrast_table(kind) for text in compared)
