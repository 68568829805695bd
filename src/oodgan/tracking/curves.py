"""Training curves of a run folder, as a small picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from oodgan.paths import FitFolder
from oodgan.tracking.loggers import read_csv

Curves = Mapping[str, Sequence[tuple[int, float]]]

_WIDEST_RANGE = 30.0  # a larger ratio of highest to lowest is drawn on a logarithmic axis
_MOST_CHARTS = 8


def read(path: str | Path) -> Curves:
    """Return {name: [(step, value)]} of a run folder or its `metrics.csv`; empty if there are none."""
    file = Path(path)
    file = FitFolder(file).metrics_csv if file.is_dir() else file
    points: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in read_csv(file):
        if value == value:
            points.setdefault(name, []).append((step, value))
    return points


def draw(title: str, curves: Curves, kind: str = "svg") -> bytes:
    """Draw small charts, one per quantity, with training and validation in the same chart; `kind` is `svg` or `png`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = grouped(curves)
    figure = Figure(figsize=(12, 2.6 * -(-len(groups) // 4) + 0.4), layout="constrained", facecolor="#fafaf8")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    grid = figure.subplots(-(-len(groups) // 4), 4, squeeze=False)
    for axes, (quantity, names) in zip(grid.flat, groups.items(), strict=False):
        for name in names:
            steps, values = zip(*curves[name], strict=True)
            part = name.partition("/")[0]
            colour = {"train": "#9aa3ad", "val": "#c8371b"}.get(part)
            axes.plot(steps, values, color=colour, label=part, linewidth=1.3, marker="o" if len(steps) < 3 else None)
        every = [value for name in names for _, value in curves[name]]
        if min(every) > 0 and max(every) / min(every) > _WIDEST_RANGE:
            axes.set_yscale("log")
        axes.set_title(quantity, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(fontsize=8, frameon=False)
    for axes in list(grid.flat)[len(groups) :]:
        axes.set_axis_off()
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "oodgan"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def grouped(curves: Curves) -> dict[str, list[str]]:
    """Group names by quantity (`train/loss`, `val/loss` -> `loss`), losses first, at most eight.

    >>> grouped({"lr": [], "train/l2": [], "val/loss": [], "train/loss": []})
    {'loss': ['train/loss', 'val/loss'], 'l2': ['train/l2'], 'lr': ['lr']}
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(curves):
        groups.setdefault(name.partition("/")[2] or name, []).append(name)

    def importance(quantity: str) -> tuple[bool, bool, str]:
        measured = any(name.startswith(("train/", "val/")) for name in groups[quantity])
        return (quantity != "loss", not measured, quantity)

    return {quantity: groups[quantity] for quantity in sorted(groups, key=importance)[:_MOST_CHARTS]}
