"""An evaluation's tables and pages: Markdown, CSV, HTML, and sheets of the best and worst pictures."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from oodgan.errors import UserError
from oodgan.evaluation.pairs import Pair
from oodgan.evaluation.protocol import same_protocol
from oodgan.files import write_text

_LOWER = ("lpips", "fid", "kid", "mask_area")
_TILE = 128


def lower_is_better(metric: str) -> bool:
    return metric.startswith(_LOWER)


def number(entry: Mapping[str, Any] | None) -> str:
    """`0.52 [0.48, 0.56]`, or `n/a` where nothing was measured.

    >>> number({"mean": 0.5234, "low": 0.5, "high": 0.55, "count": 9})
    '0.523 [0.500, 0.550]'
    >>> number({"count": 0})
    'n/a'
    """
    if not entry or "mean" not in entry or math.isnan(entry["mean"]):
        return "n/a"
    text = _digits(entry["mean"])
    return f"{text} [{_digits(entry['low'])}, {_digits(entry['high'])}]" if "low" in entry else text


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def markdown(summary: Mapping[str, Mapping[str, Any]], caption: str = "") -> str:
    """One row a method, one column a metric, the best mean in bold; intervals in brackets."""
    metrics = list(dict.fromkeys(metric for values in summary.values() for metric in values))
    lines = [
        "| method | " + " | ".join(f"{m} {'↓' if lower_is_better(m) else '↑'}" for m in metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    best = {metric: _best(summary, metric) for metric in metrics}
    for method, values in summary.items():
        cells = [number(values.get(metric)) for metric in metrics]
        cells = [
            f"**{c}**" if best[m] == method and len(summary) > 1 else c for m, c in zip(metrics, cells, strict=True)
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + (f"\n{caption}\n" if caption else "")


def _best(summary: Mapping[str, Mapping[str, Any]], metric: str) -> str | None:
    means = {
        m: v[metric]["mean"] for m, v in summary.items() if not math.isnan(v.get(metric, {}).get("mean", math.nan))
    }
    return (min if lower_is_better(metric) else max)(means, key=means.__getitem__) if means else None


def merge(results: Sequence[Path]) -> str:
    """One Markdown table of several evaluations' folders.

    Raises:
        UserError: a folder without a result, two protocols, or different photos.
    """
    held = []
    for folder in results:
        try:
            held.append((str(folder), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no result of an evaluation: metrics.json cannot be read") from error
    same_protocol((label, values["protocol"]) for label, values in held)
    for label, values in held[1:]:
        if values["photos"] != held[0][1]["photos"]:
            raise UserError(f"{held[0][0]} and {label} measured different photos and share no table")
    several = len(held) > 1
    rows = {
        (f"{Path(label).name}: {method}" if several else method): entry
        for label, values in held
        for method, entry in values["methods"].items()
    }
    notes = dict.fromkeys(note for _, values in held for note in values.get("notes", ()))
    caption = f"{held[0][1]['count']} photos, protocol {held[0][1]['protocol_id']}."
    return markdown(rows, " ".join([caption, *notes]))


def write_rows(path: Path, pairs: Sequence[Pair], columns: Sequence[str], table: NDArray[np.float64]) -> None:
    """One CSV row a photo and method; an empty cell where there was nothing to measure."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["photo", "method", *columns])
    for pair in pairs:
        for m, method in enumerate(pair.results):
            cells = ["" if math.isnan(v) else f"{v:.7g}" for v in table[pair.index, m]]
            writer.writerow([pair.name, method, *cells])
    write_text(path, text.getvalue())


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
    with Image.open(path) as picture:
        return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def _embedded(path: Path, side: int) -> str:
    held = io.BytesIO()
    thumbnail(path, side).save(held, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;display:block;overflow-x:auto}th,td{padding:.35rem .7rem;border-bottom:1px
solid #ddd;text-align:left;white-space:nowrap}figure{display:inline-block;margin:.2rem}figcaption{font-size:12px;
max-width:192px;overflow:hidden}img{max-width:100%}.row{white-space:nowrap;overflow-x:auto}"""


def page(
    summary: Mapping[str, Mapping[str, Any]],
    pairs: Sequence[Pair],
    columns: Sequence[str],
    table: NDArray[np.float64],
    caption: str,
    shown: int = 24,
) -> str:
    """A page that needs no other file but the sheets: the table, then the pictures of the first `shown` photos."""
    metrics = list(dict.fromkeys(metric for values in summary.values() for metric in values))
    head = "".join(f"<th>{html.escape(m)} {'↓' if lower_is_better(m) else '↑'}</th>" for m in metrics)
    body = "".join(
        f"<tr><th>{html.escape(method)}</th>" + "".join(f"<td>{number(values.get(m))}</td>" for m in metrics) + "</tr>"
        for method, values in summary.items()
    )
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation</title><style>{_STYLE}</style>",
        f"<h1>Evaluation</h1><p>{html.escape(caption)}</p><table><tr><th>method</th>{head}</tr>{body}</table>",
    ]
    for method in summary:
        name = html.escape(method)
        parts.append(f"<h2>{name}: worst and best</h2><img src='sheets/{name}.png' alt='worst and best of {name}'>")
    parts.append(f"<h2>Pictures ({min(shown, len(pairs))} of {len(pairs)} photos)</h2>")
    for pair in pairs[:shown]:
        figures = [_figure(pair.photo, "photo", pair.name)]
        for m, (method, path) in enumerate(pair.results.items()):
            values = zip(columns, table[pair.index, m], strict=True)
            title = ", ".join(f"{c} {_digits(v)}" for c, v in values if not math.isnan(v))
            figures.append(_figure(path, method, title))
        parts.append("<div class=row>" + "".join(figures) + "</div>")
    return "\n".join(parts) + "\n</html>\n"


def _figure(path: Path, label: str, title: str) -> str:
    label, title = html.escape(label), html.escape(title)
    image = f"<img src='{_embedded(path, 192)}' alt='{label}'>"
    return f"<figure title='{title}'>{image}<figcaption>{label}</figcaption></figure>"


if __name__ == "__main__":
    import sys

    try:
        print(merge([Path(folder) for folder in sys.argv[1:]]))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
