"""The comparison as one HTML page that needs nothing else: table, curves over each other, pictures side by side."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from oodgan.tracking.compare import Comparison
from oodgan.tracking.runs import Run

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #222; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.best { font-weight: 700; background: #e3f4e5; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: 1rem; }
.curves img { width: 100%; }
td.picture img { width: 200px; display: block; }
"""


def page(comparison: Comparison, runs: Sequence[Run], title: str) -> str:
    """The whole page as text, pictures inside."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{len(runs)} runs in {len(comparison.rows)} settings; numbers are mean ± standard deviation over seeds, "
        "the best of each column is marked.</p>",
        _table(comparison),
        _curves(runs),
        _pictures(runs),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _table(comparison: Comparison) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in comparison.header)
    body = ""
    for index, row in enumerate(comparison.rows):
        cells = zip(comparison.header, comparison.cells(row), strict=True)
        body += "<tr>" + "".join(
            f"<td{' class=best' if comparison.is_best(index, column) else ''}>{html.escape(cell)}</td>"
            for column, cell in cells
        )
        body += "</tr>\n"
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _curves(runs: Sequence[Run]) -> str:
    names = sorted({name for run in runs for name, curve in run.curves.items() if len(curve) > 1})
    if not names:
        return ""
    drawn = "".join(f"<img alt='{html.escape(name)}' src='{_plot(name, runs)}'>" for name in names)
    return f"<h2>Curves</h2><div class=curves>{drawn}</div>"


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
    return _inline(data.getvalue(), "png")


def _pictures(runs: Sequence[Run]) -> str:
    names = sorted({picture.name for run in runs for picture in run.pictures})
    if not names:
        return ""
    head = "".join(f"<th>{html.escape(run.name)}</th>" for run in runs)
    body = ""
    for name in names:
        body += f"<tr><td>{html.escape(name)}</td>"
        for run in runs:
            found = next((p for p in run.pictures if p.name == name), None)
            body += f"<td class=picture>{f'<img src={_thumbnail(found)}>' if found else ''}</td>"
        body += "</tr>\n"
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<h2>Pictures</h2><div class=wide>{table}</div>"


def _thumbnail(path: Path, side: int = 400) -> str:
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, format="JPEG", quality=88)
    return _inline(data.getvalue(), "jpeg")


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
