"""The comparison as one self-contained HTML page: table, overlaid curves, images side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from oodgan.reporting.pages import Figure, Section, embedded, jpeg, render
from oodgan.tracking.compare import Comparison
from oodgan.tracking.runs import Run


def page(comparison: Comparison, runs: Sequence[Run], title: str) -> str:
    """Return the page as text, with embedded images."""
    text = (
        f"{len(runs)} runs in {len(comparison.rows)} settings; numbers are mean ± standard deviation over seeds, "
        "the best of each column is marked."
    )
    sections = [Section(table=comparison.table()), *_curves(runs), *_pictures(runs)]
    return render(title, sections, text)


def _curves(runs: Sequence[Run]) -> list[Section]:
    names = sorted({name for run in runs for name, curve in run.curves.items() if len(curve) > 1})
    return [Section("Curves", charts=[Figure(_plot(name, runs), hint=name) for name in names])] if names else []


def _plot(name: str, runs: Sequence[Run]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.subplots()
    values: list[float] = []
    for run in runs:
        curve = run.curves.get(name, [])
        if curve:
            steps, numbers = zip(*curve, strict=True)
            axes.plot(steps, numbers, label=run.name, linewidth=1.3)
            values += numbers
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    axes.grid(alpha=0.3)
    if len(runs) <= 12:
        axes.legend(fontsize=7)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return embedded(data.getvalue(), "png")


def _pictures(runs: Sequence[Run]) -> list[Section]:
    """Return one row per file name with one cell per run."""
    names = sorted({picture.name for run in runs for picture in run.pictures})
    rows = []
    for name in names:
        held = {run.name: next((path for path in run.pictures if path.name == name), None) for run in runs}
        rows.append([Figure(_thumbnail(path) if path else "", run, name) for run, path in held.items()])
    return [Section("Pictures", rows=rows)] if rows else []


def _thumbnail(path: Path, side: int = 400) -> str:
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((side, side))
    return jpeg(small)
