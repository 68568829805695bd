"""An evaluation's tables and pages: Markdown, CSV, HTML, and sheets of the best and worst pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from oodgan.data.images import read_rgb
from oodgan.evaluation import curves
from oodgan.evaluation.intervals import digits, number
from oodgan.evaluation.pairs import Pair
from oodgan.files import write_text
from oodgan.reporting.pages import Figure, Section, embedded, jpeg, render
from oodgan.reporting.tables import Table, lower_is_better

_TILE = 128
HEADLINE, EVERY = "Likeness at equal change", "Every strength by itself"


def to_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per method, one column per metric; intervals in brackets, the best mean of several methods marked."""
    metrics = list(dict.fromkeys(metric for values in summary.values() for metric in values))
    header = ["method", *(f"{metric} {'↓' if lower_is_better(metric) else '↑'}" for metric in metrics)]
    rows = [[method, *(number(values.get(metric)) for metric in metrics)] for method, values in summary.items()]
    best_methods = [(_best(summary, metric), column) for column, metric in enumerate(metrics, 1)]
    methods = list(summary)
    best = {(methods.index(m), column) for m, column in best_methods if m is not None and len(methods) > 1}
    return Table(header, rows, best, range(1, len(header)))


def markdown(
    summary: Mapping[str, Mapping[str, Any]], caption: str = "", equal: Mapping[str, Any] | None = None
) -> str:
    """`to_table` in Markdown; above it the likeness at equal change (see `curves.equal_change`), below it a caption."""
    above = curves.to_table(equal or {})
    headline = f"### {HEADLINE}\n\n{above.markdown()}\n### {EVERY}\n\n" if above.rows else ""
    return headline + to_table(summary).markdown() + (f"\n{caption}\n" if caption else "")


def _best(summary: Mapping[str, Mapping[str, Any]], metric: str) -> str | None:
    means = {m: v[metric]["mean"] for m, v in summary.items() if v.get(metric, {}).get("mean") is not None}
    return (min if lower_is_better(metric) else max)(means, key=means.__getitem__) if means else None


def write_rows(path: Path, pairs: Sequence[Pair], columns: Sequence[str], table: NDArray[np.float64]) -> None:
    """Write one CSV row per photo and method; cells without a measurement are empty."""
    rows = [
        [pair.name, method, *("" if math.isnan(v) else f"{v:.7g}" for v in table[pair.index, m])]
        for pair in pairs
        for m, method in enumerate(pair.results)
    ]
    write_text(path, Table(["photo", "method", *columns], rows).csv())


def order(values: NDArray[np.float64], metric: str) -> list[int]:
    """Indices from worst to best; photos without a value are left out."""
    known = [int(i) for i in np.argsort(values, kind="stable") if not math.isnan(values[i])]
    return known[::-1] if lower_is_better(metric) else known


def sheet(pairs: Sequence[Pair], values: NDArray[np.float64], method: str, metric: str, count: int = 6) -> Image.Image:
    """The worst (upper row) and best photos of a method, each as photo, result and value."""
    ranked = order(values, metric)
    rows = [("worst", ranked[:count]), ("best", ranked[::-1][:count])]
    width, height = max(1, min(count, len(ranked))) * (2 * _TILE + 8), 2 * (_TILE + 20)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for r, (word, indices) in enumerate(rows):
        for c, i in enumerate(indices):
            x, y = c * (2 * _TILE + 8), r * (_TILE + 20)
            canvas.paste(thumbnail(pairs[i].photo), (x, y + 18))
            canvas.paste(thumbnail(pairs[i].results[method]), (x + _TILE, y + 18))
            draw.text((x + 2, y + 3), f"{word} {c + 1}: {pairs[i].name[:16]}  {values[i]:.3f}", fill="black")
    return canvas


def thumbnail(path: Path, side: int = _TILE) -> Image.Image:
    return read_rgb(path).resize((side, side), Image.Resampling.LANCZOS)


def page(
    summary: Mapping[str, Mapping[str, Any]],
    pairs: Sequence[Pair],
    columns: Sequence[str],
    table: NDArray[np.float64],
    caption: str,
    equal: Mapping[str, Any] | None = None,
    chart: bytes | None = None,
    shown: int = 24,
) -> str:
    """Return an HTML page that needs only the sheets: tables, then the images of the first `shown` photos.

    `equal` is what `curves.equal_change` returned, `chart` its picture.
    """
    sections = [Section(table=to_table(summary))]
    if equal:
        charts = [Figure(embedded(chart, "png"), hint="likeness over change")] if chart else []
        headline = curves.to_table(equal)
        sections.insert(0, Section(HEADLINE, table=headline if headline.rows else None, charts=charts))
        sections[1] = Section(EVERY, table=to_table(summary))
    for method in summary:
        sheets = [Figure(f"sheets/{quote(method)}.png", hint=f"worst and best of {method}")]
        sections.append(Section(f"{method}: worst and best", charts=sheets))
    rows = []
    for pair in pairs[:shown]:
        figures = [Figure(_embedded(pair.photo), "photo", pair.name)]
        for m, (method, path) in enumerate(pair.results.items()):
            values = zip(columns, table[pair.index, m], strict=True)
            hint = ", ".join(f"{c} {digits(v)}" for c, v in values if not math.isnan(v))
            figures.append(Figure(_embedded(path), method, hint))
        rows.append(figures)
    sections.append(Section(f"Pictures ({min(shown, len(pairs))} of {len(pairs)} photos)", rows=rows))
    return render("Evaluation", sections, caption)


def _embedded(path: Path, side: int = 192) -> str:
    return jpeg(thumbnail(path, side), quality=85)
