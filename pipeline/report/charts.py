"""Charts of the pages, drawn by Plotly in the browser: what is made here is a description of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels import GRADE_NAMES

GRADE_COLOURS = ("#2e8b57", "#d99a00", "#d1372a")


def figure(traces: Sequence[Any], title: str, **layout: Any) -> dict[str, Any]:
    """What ``Plotly.newPlot`` takes; the page gives it the colours of its text."""
    import plotly.graph_objects as go

    margin = {"l": 60, "r": 16, "t": 44, "b": 50}
    made = go.Figure(
        traces, go.Layout(title={"text": title, "font": {"size": 15}}, margin=margin, height=300, **layout)
    )
    made.update_layout(template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)")
    made.update_xaxes(automargin=True)
    made.update_yaxes(automargin=True)
    return dict(json.loads(made.to_json()))


def bars(values: Mapping[str, float], title: str, unit: str) -> dict[str, Any]:
    """One bar a name, the first on top."""
    import plotly.graph_objects as go

    names = list(values)[::-1]
    trace = go.Bar(x=[values[name] for name in names], y=names, orientation="h", marker={"color": "#4c8dd6"})
    return figure([trace], title, xaxis={"title": unit})


def stacked(rows: Mapping[str, Sequence[float]], title: str, unit: str) -> dict[str, Any]:
    """One bar a name, a part a grade."""
    import plotly.graph_objects as go

    names = list(rows)
    traces = [
        go.Bar(x=names, y=[float(row[grade]) for row in rows.values()], name=name, marker={"color": colour})
        for grade, (name, colour) in enumerate(zip(GRADE_NAMES, GRADE_COLOURS, strict=True))
    ]
    return figure(traces, title, barmode="stack", yaxis={"title": unit}, legend={"orientation": "h", "y": 1.12})


def confusion(counts: NDArray[np.int64], title: str) -> dict[str, Any]:
    """True grades downwards, called ones across; the colour is the share of the true grade."""
    import plotly.graph_objects as go

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    trace = go.Heatmap(
        z=shares.tolist(),
        x=list(GRADE_NAMES),
        y=list(GRADE_NAMES),
        text=counts.tolist(),
        texttemplate="%{text}",
        colorscale="Blues",
        zmin=0,
        zmax=1,
        showscale=False,
        hovertemplate="true %{y}, called %{x}: %{text} (%{z:.0%} of the true)<extra></extra>",
    )
    return figure([trace], title, xaxis={"title": "called"}, yaxis={"title": "true", "autorange": "reversed"})


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, across: str, up: str
) -> dict[str, Any]:
    """A line a name."""
    import plotly.graph_objects as go

    traces = [go.Scatter(x=list(x), y=list(y), name=name, mode="lines+markers") for name, (x, y) in curves.items()]
    return figure(traces, title, xaxis={"title": across}, yaxis={"title": up})


def histograms(values: Mapping[str, Sequence[float]], title: str, unit: str, width: float) -> dict[str, Any]:
    """Counts by name, in bins of one width, over each other."""
    import plotly.graph_objects as go

    traces = [
        go.Histogram(x=list(numbers), name=name, xbins={"size": width, "start": 0}, opacity=0.6)
        for name, numbers in values.items()
    ]
    return figure(traces, title, barmode="overlay", xaxis={"title": unit}, yaxis={"title": "points"})
