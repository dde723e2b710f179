"""Which arms a design has, of which cells they are made, and which cells are versions of one document."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ArmDesign:
    """`families` are the cells; those of one family are versions of the same document, those of different families are documents of
    different kinds that have to be matched. `arms` names one arm for each cell, in the same order. `contrasts` are compared."""

    arms: tuple[str, ...]
    families: tuple[tuple[str, ...], ...]
    contrasts: tuple[tuple[str, str], ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """The cell of each arm."""
        return tuple(cell for family in self.families for cell in family)


ARM_DESIGNS = {
    "pairs": ArmDesign(("enriched", "control"), (("selected", "selected_stripped"),), (("enriched", "control"),)),
    "paper": ArmDesign(("enriched", "control"), (("paper_enriched",), ("paper_control",)), (("enriched", "control"),)),
    "2x2": ArmDesign(
        ("selected", "selected_stripped", "free", "free_injected"),
        (("selected", "selected_stripped"), ("free", "free_injected")),
        (
            ("selected", "selected_stripped"),
            ("free_injected", "free"),
            ("selected", "free"),
            ("selected", "free_injected"),
            ("selected_stripped", "free"),
        ),
    ),
    # Human questions and answers as they are, in the cells of the selection.
    "extract": ArmDesign(("enriched", "control"), (("selected",), ("free",)), (("enriched", "control"),)),
}
