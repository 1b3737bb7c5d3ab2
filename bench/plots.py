"""The plots, as SVG on white, as wide as a README: requests/s, CPU per request, latency, batch size.

Colours are of Okabe and Ito's palette, which people with any colour vision can tell apart; markers differ as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.contenders import CONTENDERS
from bench.runs import Measurements
from bench.scenarios import HTTP, Maximum, Scenario

COLOURS = dict(zip(HTTP, ("#D55E00", "#E69F00", "#009E73", "#56B4E9", "#0072B2", "#7F7F7F"), strict=True))
MARKERS = dict(zip(HTTP, ("s", "^", "v", "D", "o", "x"), strict=True))
_INCHES = 7.2
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text: it can be found, and the file is small
    "svg.hashsalt": "headrace",  # the same numbers give the same file
    "figure.facecolor": "white",
}


def draw(scenarios: Sequence[Scenario], measured: Measurements, folder: Path) -> list[Path]:
    """One file for each plot that there are numbers for."""
    single = [one for one in scenarios if isinstance(one, Maximum) and one.name.startswith("one-")]
    compared = [one for one in single if len(one.contenders) == len(HTTP)]
    plots = {
        "rate.svg": _bars(compared, measured, "rps", "requests/s, each answered after its commit"),
        "cpu.svg": _bars(compared, measured, "cpu_us", "CPU of the service, µs per request"),
        "latency.svg": _latency(compared, measured),
        "batch.svg": _batches(single, measured),
    }
    written = []
    with mpl.rc_context(_STYLE):
        for name, figure in plots.items():
            if figure is not None:
                figure.savefig(folder / name, bbox_inches="tight", metadata={"Date": None})
                written.append(folder / name)
    return written


def _figure(columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels side by side, whose scales are the same."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_INCHES, height), layout="constrained")
        axes = figure.subplots(1, columns, sharex=True, sharey=True, squeeze=False)
        return figure, list(axes[0])


def _bars(scenarios: Sequence[Maximum], measured: Measurements, quantity: str, title: str) -> Figure | None:
    """A panel for each number of connections, a bar for each contender, on a logarithmic scale."""
    shown = [one for one in scenarios if any(f"{one.name}/{name}/{quantity}" in measured for name in HTTP)]
    if not shown:
        return None
    figure, axes = _figure(len(shown), 2.1)
    for scenario, axis in zip(shown, axes, strict=True):
        for place, name in enumerate(reversed(HTTP)):
            value = measured.get(f"{scenario.name}/{name}/{quantity}")
            if value:
                axis.barh(place, value, color=COLOURS[name], height=0.7)
                text = f" {value:,.0f}" if value >= 100 else f" {value:.1f}"
                axis.text(value, place, text, va="center", fontsize=8)
        axis.set_xscale("log")
        axis.set_title(_connections(scenario), fontsize=9)
        axis.set_yticks(range(len(HTTP)), [CONTENDERS[name].title for name in reversed(HTTP)])
        axis.tick_params(axis="y", length=0)
    values = [measured.get(f"{one.name}/{name}/{quantity}") or 0.0 for one in shown for name in HTTP]
    # From the power of ten below the smallest bar, and with room for the number beside the longest one.
    axes[0].set_xlim(10 ** math.floor(math.log10(min(filter(None, values)) * 0.9)), max(values) * 8)
    figure.supxlabel(title, fontsize=9)
    return figure


def _latency(scenarios: Sequence[Maximum], measured: Measurements) -> Figure | None:
    """Percentiles at the maximum of each contender."""
    shown = [one for one in scenarios if any(f"{one.name}/{name}/p50_ms" in measured for name in HTTP)]
    if not shown:
        return None
    figure, axes = _figure(len(shown), 2.8)
    parts = (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"))
    for scenario, axis in zip(shown, axes, strict=True):
        for name in HTTP:
            values = [measured.get(f"{scenario.name}/{name}/{quantity}") for _, quantity in parts]
            known = [(place, value) for place, value in enumerate(values) if value]
            if known:
                places, numbers = zip(*known, strict=True)
                label = CONTENDERS[name].title
                axis.plot(places, numbers, color=COLOURS[name], marker=MARKERS[name], markersize=4, label=label)
        axis.set_yscale("log")
        axis.set_xticks(range(len(parts)), [label for label, _ in parts])
        axis.set_title(_connections(scenario), fontsize=9)
        axis.grid(axis="y", color="#DDDDDD", linewidth=0.5)
    axes[0].set_ylabel("latency at its maximum, ms")
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _batches(scenarios: Sequence[Maximum], measured: Measurements) -> Figure | None:
    """How batches grow with the number of connections."""
    figure, (axis,) = _figure(1, 2.4)
    ticks: list[int] = []
    for name in HTTP:
        points = sorted(
            (one.connections, measured[f"{one.name}/{name}/batch_rows"])
            for one in scenarios
            if f"{one.name}/{name}/batch_rows" in measured
        )
        if points:
            x, y = zip(*points, strict=True)
            axis.plot(x, y, color=COLOURS[name], marker=MARKERS[name], markersize=5, label=CONTENDERS[name].title)
            ticks = [place for place, _ in points]
            for place, value in points if name == "headrace" else ():
                axis.annotate(f"{value:.0f}", (place, value), xytext=(4, -10), textcoords="offset points", fontsize=8)
    if not ticks:
        return None
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xlabel("connections, each with one row at a time")
    axis.set_ylabel("rows in a batch (mean)")
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter("{x:,.0f}")
    axis.set_xticks(ticks)
    axis.grid(color="#DDDDDD", linewidth=0.5)
    axis.legend(frameon=False, fontsize=8)
    return figure


def _connections(scenario: Maximum) -> str:
    return f"{scenario.connections:,} connection" + ("s" if scenario.connections > 1 else "")
