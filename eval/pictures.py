"""Curves as SVG: one line a condition with a band over seeds, drawn from numbers alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from eval.statistics import half_width

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 300, 46, 12, 12, 34
TICKS = 5
LEGEND_LINE = 16  # picture units between the names of a legend
# A condition's colour on a light and on a dark page.
HUES = (
    *(("#0c7569", "#5fd0c0"), ("#b0451b", "#f0a07c"), ("#3a4fa3", "#a3b4f5"), ("#8b2a80", "#e39ada")),
    *(("#66661a", "#cfce79"), ("#9a2740", "#f29bac"), ("#24698f", "#86c5e8"), ("#6a4d2b", "#d6b48a")),
)
HUES_LIGHT, HUES_DARK = (" ".join(f".c{n} {{ --hue: {hue[side]}; }}" for n, hue in enumerate(HUES)) for side in (0, 1))
CHART_STYLE = """svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.grid { stroke: var(--line); } .curve { fill: none; stroke: var(--hue); stroke-width: 2; } .band { fill: var(--hue); opacity: .14; }
circle { fill: var(--hue); } .dashed { --hue: var(--soft); } .reference { stroke-dasharray: 4 4; stroke-width: 1; opacity: .7; }"""


@dataclass(frozen=True)
class Line:
    """One condition: `values_ST` has a row a seed, a column a step. `css` names its colour; a reference is dashed and has no band."""

    name: str
    steps: Sequence[float]
    values_ST: np.ndarray
    css: str
    reference: bool = False

    def mean_T(self) -> np.ndarray:
        """Mean over seeds."""
        return self.values_ST.mean(axis=0)

    def band_T(self) -> np.ndarray | None:
        """Half width of the 95 % t interval of the mean over seeds; None for fewer than three seeds."""
        if len(self.values_ST) < 3:
            return None
        return np.array([half_width(column) for column in self.values_ST.T])


@dataclass
class Axis:
    """From data to picture units, with round ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float] = field(init=False)

    def __post_init__(self) -> None:
        if self.high <= self.low:
            self.high = self.low + 1
        step = nice((self.high - self.low) / TICKS)
        self.low = np.floor(self.low / step + 1e-9) * step
        self.high = np.ceil(self.high / step - 1e-9) * step
        self.ticks = [float(self.low + place * step) for place in range(round((self.high - self.low) / step) + 1)]

    def place(self, value: float) -> float:
        """Picture unit of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def nice(step: float) -> float:
    """The next of 1, 2, 5 × 10^n from `step` on."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9)))


def chart(lines: Sequence[Line], label: str) -> str:
    """The SVG of one measure. Every point has a title, so a pointer shows its numbers."""
    tops = [line.mean_T() + (0 if (band := line.band_T()) is None else band) for line in lines]
    lows = [line.mean_T() - (0 if (band := line.band_T()) is None else band) for line in lines]
    y = Axis(min(0.0, *(float(low.min()) for low in lows)), max(float(top.max()) for top in tops), HEIGHT - BOTTOM, TOP)
    x = Axis(0.0, max(float(max(line.steps)) for line in lines), LEFT, WIDTH - RIGHT)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)} by step">']
    for tick in y.ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.place(tick):.1f}" y2="{y.place(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y.place(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'.replace("-0<", "0<"))
    for tick in x.ticks:
        parts.append(f'<text x="{x.place(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>')
    for line in lines:
        parts.append(_drawn(line, x, y))
    return "".join([*parts, "</svg>"])


def picture(lines: Sequence[Line], label: str) -> str:
    """The SVG of one measure as a file of its own: colours, names of the lines and what is drawn come with it."""
    style = f"svg {{ --soft: #5d6470; --line: #e3e0d8; background: #fcfbf8; }} {HUES_LIGHT} {CHART_STYLE}"
    height = HEIGHT + LEGEND_LINE * (len(lines) + 1)
    named = [f'<text x="{LEFT}" y="{HEIGHT + 8}">{escape(label)}; mean over seeds, 95 % interval where there are three or more</text>']
    for place, line in enumerate(lines):
        y = HEIGHT + 8 + LEGEND_LINE * (place + 1)
        named.append(f'<circle class="{line.css}" cx="{LEFT + 4}" cy="{y - 4}" r="4"/>')
        named.append(f'<text x="{LEFT + 14}" y="{y}">{escape(line.name)}, {len(line.values_ST)} seeds</text>')
    inner = chart(lines, label).partition(">")[2]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)} by step">'
    return f"{head}<style>{style}</style>{''.join(named)}{inner}\n"


def _drawn(line: Line, x: Axis, y: Axis) -> str:
    mean, band = line.mean_T(), line.band_T()
    points = [(x.place(step), y.place(value)) for step, value in zip(line.steps, mean)]
    made = ""
    if band is not None:
        upper = [f"{x.place(step):.1f},{y.place(value):.1f}" for step, value in zip(line.steps, mean + band)]
        lower = [f"{x.place(step):.1f},{y.place(value):.1f}" for step, value in zip(line.steps, mean - band)]
        made += f'<polygon class="band {line.css}" points="{" ".join([*upper, *reversed(lower)])}"/>'
    dashed = " reference" if line.reference else ""
    made += f'<polyline class="curve {line.css}{dashed}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
    if line.reference:
        return made
    for place, (a, b) in enumerate(points):
        spread = "" if band is None else f" ± {band[place]:.3f}"
        title = escape(f"{line.name}, step {line.steps[place]:g}: {mean[place]:.3f}{spread} ({len(line.values_ST)} seeds)")
        made += f'<circle class="{line.css}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"><title>{title}</title></circle>'
    return made
