"""Charts of the pages: Vega-Lite specifications, drawn as SVG when a page is made; a browser only shows them.

The numbers of a mark are its accessible name. Texts and grades have the page's colours, in dark as in light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels import GRADE_NAMES

COLOURS = ("#0072b2", "#d55e00", "#0a8f69", "#b3589b", "#8a6d00", "#767676")
"""After Okabe and Ito, told apart by the colour-blind; each stands out from light and from dark paper (3:1)."""
ROOM = 0.028
"""Share of the longest bar that a digit takes; a number is printed where it fits into its part."""
_WIDTH = 400
_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 13, "titleFontSize": 13}
_CONFIG = {
    "font": "Liberation Sans, Arial, sans-serif",  # the renderer has it and measures it; Arial is as wide
    "background": None,
    "view": {"stroke": None},
    "axis": {
        **_TEXT,
        "titleFontWeight": "normal",
        "labelLimit": 190,
        "gridColor": "currentColor",
        "gridOpacity": 0.15,
        "domainColor": "currentColor",
        "tickColor": "currentColor",
    },
    "legend": {**_TEXT, "title": None, "orient": "top", "offset": 8, "labelLimit": 330, "columnPadding": 12},
    "header": {**_TEXT, "title": None, "labelAnchor": "start", "labelOrient": "top", "labelPadding": 2},
    "text": {"color": "currentColor", "fontSize": 13, "aria": False},
}
_SAYS = {"description": {"field": "says", "type": "nominal"}}


@dataclass(frozen=True)
class Chart:
    """A title, and the drawing as an SVG element."""

    title: str
    svg: str


def bars(values: Mapping[str, float], title: str, unit: str) -> Chart:
    """One bar a name, the first on top, with its number."""
    rows = [
        {"name": name, "value": value, "label": _number(value, 3), "says": f"{name}: {_number(value)} {unit}"}
        for name, value in values.items()
    ]
    scale = {"domainMax": 1.15 * max(values.values(), default=1), "nice": False}  # the number has room behind its bar
    encoding = {"y": _names(), "x": {"field": "value", "type": "quantitative", "title": unit, "scale": scale}}
    number = {"mark": {"type": "text", "align": "left", "dx": 4}, "encoding": {"text": {"field": "label"}}}
    layers = [{"mark": {"type": "bar", "color": COLOURS[0]}, "encoding": _SAYS}, number]
    return _chart(title, rows, {"height": {"step": 26}, "encoding": encoding, "layer": layers})


def stacked(rows: Mapping[str, Sequence[float]], title: str, unit: str) -> Chart:
    """One bar a name, the first on top, a part a grade in the colours of the tables."""
    longest = max((sum(row) for row in rows.values()), default=0.0)
    parts = []
    for name, row in rows.items():
        ends = np.cumsum(row)
        for grade, (word, value, end) in enumerate(zip(GRADE_NAMES, row, ends, strict=True)):
            part = {"name": name, "grade": word, "from": float(end - value), "to": float(end)}
            part["middle"] = float(end - value / 2)
            label = _number(value, 3)
            part["label"] = label if value >= ROOM * longest * len(label) else ""
            part["says"] = f"{name}, {word}: {_number(value)} {unit}"
            parts.append(part | {"ink": f"var(--g{grade}ink)" if value else "transparent"})
    fill = _colour("grade", GRADE_NAMES, [f"var(--g{grade})" for grade in range(len(GRADE_NAMES))])
    fill["legend"] |= {"symbolType": "square", "symbolStrokeColor": "currentColor"}
    edge = {"field": "ink", "type": "nominal", "scale": None}
    across = {"field": "from", "type": "quantitative", "title": unit}
    bar = {"mark": "bar", "encoding": {"x": across, "x2": {"field": "to"}, "fill": fill, "stroke": edge, **_SAYS}}
    inside = {"x": {"field": "middle", "type": "quantitative"}, "text": {"field": "label"}, "fill": edge}
    layers = [bar, {"mark": "text", "encoding": inside}]
    return _chart(title, parts, {"height": {"step": 26}, "encoding": {"y": _names()}, "layer": layers})


def confusion(counts: NDArray[np.int64], title: str) -> Chart:
    """True grades downwards, called ones across; the colour is the share of the true grade."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = []
    for (true, called), count in np.ndenumerate(counts):
        share = float(shares[true, called])
        cell = {"true": GRADE_NAMES[true], "called": GRADE_NAMES[called], "share": share}
        cell["label"] = f"{count} ({share:.0%})"
        cell["says"] = f"true {cell['true']}, called {cell['called']}: {count} ({share:.0%} of the true)"
        rows.append(cell)
    axes = {
        "x": {"field": "called", "type": "nominal", "sort": None, "axis": {"labelAngle": 0}},
        "y": {"field": "true", "type": "nominal", "sort": None},
    }
    scale = {"domain": [0, 1], "range": [0, 1]}
    opacity = {"field": "share", "type": "quantitative", "scale": scale, "legend": None}
    tile = {"type": "rect", "fill": "var(--heat)", "stroke": "currentColor", "strokeOpacity": 0.3}
    layers = [
        {"mark": tile, "encoding": {"fillOpacity": opacity, **_SAYS}},
        {"mark": "text", "encoding": {"text": {"field": "label"}}},
    ]
    return _chart(title, rows, {"height": {"step": 52}, "encoding": axes, "layer": layers})


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    across: str,
    up: str,
    shares: bool = False,
) -> Chart:
    """A line and a shape a name; of shares, from 0 to 1 and with a dashed diagonal on which both are equal."""
    rows = [
        {"name": name, "x": x, "y": y, "says": f"{name}, {across} {_number(x)}: {up} {_number(y)}"}
        for name, points in curves.items()
        for x, y in zip(*points, strict=True)
    ]
    ends = {"scale": {"domain": [0, 1]}} if shares else {"scale": {"zero": False}, "axis": {"tickMinStep": 1}}
    xy = {
        "x": {"field": "x", "type": "quantitative", "title": across, **ends},
        "y": {"field": "y", "type": "quantitative", "title": up, "scale": ends["scale"]},
    }
    names = list(curves)
    shape = {"field": "name", "type": "nominal", "scale": {"domain": names}}
    named = {**xy, "color": _colour("name", names, COLOURS)}
    diagonal = {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "color": "currentColor", "strokeDash": [5, 4], "strokeWidth": 1, "aria": False},
        "encoding": xy,
    }
    crowded = max((len(x) for x, _ in curves.values()), default=0) > 30
    line = {"mark": {"type": "line", "strokeWidth": 1 if crowded else 2, "aria": False}, "encoding": named}
    point = {"type": "point", "filled": True, "opacity": 1, "size": 20 if crowded else 55}
    points = {"mark": point, "encoding": {**named, "shape": shape, **_SAYS}}
    return _chart(title, rows, {"height": 230, "layer": [*([diagonal] if shares else []), line, points]})


def histograms(values: Mapping[str, Sequence[float]], title: str, unit: str, width: float) -> Chart:
    """Counts of points by name in bins of one width, below each other, of one scale."""
    rows = []
    for name, numbers in values.items():
        bins, counts = np.unique(np.floor(np.array(numbers, float) / width), return_counts=True)
        for start, count in zip(bins * width, counts, strict=True):
            says = f"{name}, {_number(start)} to {_number(start + width)} {unit}: {count} of {len(numbers)} points"
            rows.append({"name": name, "from": start, "to": start + width, "points": int(count), "says": says})
    from_zero = {"scale": {"domainMin": 0}, "axis": {"tickMinStep": width}}
    encoding = {
        "row": {"field": "name", "type": "nominal", "sort": list(values), "spacing": 4},
        "x": {"field": "from", "type": "quantitative", "title": unit, "bin": "binned", **from_zero},
        "x2": {"field": "to"},
        "y": {"field": "points", "type": "quantitative", "axis": {"tickCount": 2}},
        **_SAYS,
    }
    mark = {"type": "bar", "color": COLOURS[0], "binSpacing": 0.5}
    # Rows are not fitted to a width: what the axis takes is taken off here.
    size = {"width": _WIDTH - 60, "height": 48, "autosize": "pad"}
    return _chart(title, rows, {"mark": mark, "encoding": encoding, **size})


def _chart(title: str, rows: Sequence[Mapping[str, Any]], drawing: Mapping[str, Any]) -> Chart:
    import vl_convert

    size = {"width": _WIDTH, "autosize": {"type": "fit-x", "contains": "padding"}, "padding": 4}
    specification = {"data": {"values": rows}, "config": _CONFIG, **size, **drawing}
    return Chart(title, vl_convert.vegalite_to_svg(specification, allowed_base_urls=[]))


def _names() -> dict[str, Any]:
    """Names downwards, in their order."""
    axis = {"ticks": False, "domain": False, "labelPadding": 6}
    return {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": axis}


def _colour(field: str, names: Sequence[str], colours: Sequence[str]) -> dict[str, Any]:
    """A colour a name, with a legend of as many columns as fit."""
    columns = max(1, min(len(names), _WIDTH // (32 + 7 * max(map(len, names), default=1))))
    scale = {"domain": list(names), "range": list(colours)}
    return {"field": field, "type": "nominal", "scale": scale, "legend": {"columns": columns}}


def _number(value: float, digits: int = 4) -> str:
    """So many digits, or all of a whole number."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.{digits}g}"
