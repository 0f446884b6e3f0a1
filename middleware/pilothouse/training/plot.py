"""What was searched as an SVG: effect and perplexity over strength, a line for each layer.

It is drawn by hand: matplotlib would be one more dependency of everybody, for one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pilothouse.training.report import Cell, Figures, FitReport

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 34, 44
GREY = "#9a9a9a"
TICKS = 5
MAX_RATIO = 10.0
"""Perplexities beyond this many times the unsteered are drawn at it."""

Value = Callable[[Figures], float]


def plot(report: FitReport) -> str:
    """Draw the picture, as text."""
    root = Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {2 * WIDTH} {HEIGHT}",
        width=str(2 * WIDTH),
        height=str(HEIGHT),
        attrib={"font-family": "sans-serif"},
    )
    SubElement(root, "rect", width="100%", height="100%", fill="white")
    panels: Sequence[tuple[str, Value]] = (
        ("effect (nats a token)", lambda figures: figures.effect),
        ("perplexity, steered / not", lambda figures: min(figures.perplexity_ratio, MAX_RATIO)),
    )
    for index, (title, value) in enumerate(panels):
        _panel(
            SubElement(root, "g", transform=f"translate({index * WIDTH} 0)"), title, value, report
        )
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def _panel(group: Element, title: str, value: Value, report: FitReport) -> None:
    search = report.search
    screened = [each.screened for each in search.layers if each.screened is not None]
    at = report.sweep[0].scale if search.screen_scale is None else search.screen_scale
    scales = sorted({at, *(each.scale for each in report.sweep)})
    layers = [each.layer for each in report.layers]
    values = [value(each) for each in (*screened, *(each.figures for each in report.sweep))]
    low, high = min(*values, 0.0), max(*values, 0.0)
    if low == high:
        high = low + 1.0

    def x(scale: float) -> float:
        step = (WIDTH - LEFT - RIGHT) / max(1, len(scales) - 1)
        return LEFT + step * scales.index(scale)

    def y(number: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - number) / (high - low)

    _text(group, title, LEFT, TOP - 14, "start", bold=True)
    for tick in range(TICKS):
        number = low + (high - low) * tick / (TICKS - 1)
        _line(group, [(LEFT, y(number)), (WIDTH - RIGHT, y(number))], "#e6e6e6", 1.0)
        _text(group, f"{number:.3g}", LEFT - 6, y(number) + 4, "end")
    for scale in scales:
        _text(group, f"{scale:g}", x(scale), HEIGHT - BOTTOM + 16, "middle")
    grey = "controls" if search.kind == "full" else "the screen, every layer"
    _text(
        group,
        f"strength / mean length of the stream; grey: {grey}",
        (LEFT + WIDTH) / 2,
        HEIGHT - 8,
        "middle",
    )
    for figures in screened:
        _dot(group, x(at), y(value(figures)), GREY)
    lines: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in sorted(report.sweep, key=lambda each: (each.kind == "fitted", each.scale)):
        lines.setdefault((cell.kind, cell.draw, cell.layer), []).append(cell)
    for (kind, _, layer), cells in lines.items():
        points = [(x(each.scale), y(value(each.figures))) for each in cells]
        is_fitted, is_chosen = kind == "fitted", layer == report.chosen_layer
        colour = _colour(layers.index(layer), len(layers)) if is_fitted else GREY
        _line(group, points, colour, (3.0 if is_chosen else 1.5) if is_fitted else 0.5)
        if is_fitted:
            for place in points:
                _dot(group, *place, colour)
            _text(group, f"L{layer}", points[-1][0] - 2, points[-1][1] - 4, "end")


def _line(group: Element, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
    SubElement(
        group,
        "polyline",
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        fill="none",
        stroke=colour,
        attrib={"stroke-width": f"{width:g}"},
    )


def _dot(group: Element, x: float, y: float, colour: str) -> None:
    SubElement(group, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="2", fill=colour)


def _text(
    group: Element, text: str, x: float, y: float, anchor: str, *, bold: bool = False
) -> None:
    style = {"text-anchor": anchor, "font-size": "11", "font-weight": "bold" if bold else "normal"}
    SubElement(group, "text", x=f"{x:.1f}", y=f"{y:.1f}", attrib=style).text = text


def _colour(index: int, count: int) -> str:
    """Return a colour from blue at the first layer to red at the last."""
    return f"hsl({240 - 240 * index / max(1, count - 1):.0f}, 70%, 42%)"
