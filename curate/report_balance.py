"""The balance of the arms on the report page: a picture of the differences before and after, and the tables beside it."""

from collections.abc import Mapping
from typing import Any

from curate.matching_budget import GOOD_DIFFERENCE

LEFT, WIDTH, ROW, TOP = 250, 420, 22, 26  # pixels: labels, plot, a row, the axis above
ENDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
READINGS = {
    "masked": "sentences with evidence or a cue left out",
    "subject": "only words that stand in the question or the answer: what it is about, not how it is told",
    "unmasked": "the texts as they are",
}


def balance_page(balance: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page lays out of `balance.json`: its contrasts, each with a picture; None where there is none."""
    if balance is None:
        return None
    contrasts = [
        {**contrast, "picture": picture(contrast["rows"]), "auc": {READINGS[name]: value for name, value in contrast["auc"].items()}}
        for contrast in balance.get("contrasts", [])
    ]
    return {**balance, "contrasts": contrasts, "bound": GOOD_DIFFERENCE}


def picture(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Places of a dot for each covariate before and after matching, by the size of its standardised difference.

    Behaviors are left out: they should differ. Differences beyond the axis are drawn at its end.
    """
    shown = [row for row in rows if row["kind"] != "behavior" and row["smd"] is not None]
    if not shown:
        return None
    sizes = [abs(row[key]) for row in shown for key in ("smd_before", "smd") if row[key] is not None]
    end = next((end for end in ENDS if end >= max(sizes)), ENDS[-1])

    def place(value: float | None) -> float | None:
        return None if value is None else round(LEFT + WIDTH * min(abs(value), end) / end, 1)

    dots = [
        {
            "covariate": row["covariate"],
            "kind": row["kind"],
            "y": TOP + ROW * number + ROW // 2,
            "before": place(row["smd_before"]),
            "after": place(row["smd"]),
        }
        for number, row in enumerate(shown)
    ]
    ticks = [(place(end * share), end * share) for share in (0, 0.5, 1)]
    return {
        "dots": dots,
        "ticks": ticks,
        "bound": place(GOOD_DIFFERENCE),
        "width": LEFT + WIDTH + 20,
        "height": TOP + ROW * len(shown) + 6,
        "top": TOP,
    }
