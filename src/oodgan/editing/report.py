"""Report of a run: an HTML page without external requests, the same as a PNG, and the numbers as JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from oodgan import __version__
from oodgan.files import replacing, write_json, write_text
from oodgan.reporting.pages import Figure, Section, embedded, jpeg, render
from oodgan.reporting.tables import Table
from oodgan.tracking.curves import Curves, draw, read
from oodgan.tracking.sheet import BACKGROUND, INK, fitted, sheet

if TYPE_CHECKING:
    from oodgan.editing.edit import Edit

COLUMNS = ("photo", "inverted", "edited", "mask over the photo", "coarse", "result")
HTML, PNG, JSON = "report.html", "report.png", "report.json"
_TINT = np.array([255, 64, 32], dtype=np.float32)
_SIDE = 640  # size of an image in the page after a click, pixels


def report(
    folder: str | Path,
    edits: Sequence[Edit],
    curves: Mapping[str, str | Path] | None = None,
    table: Sequence[Mapping[str, Any]] = (),
    title: str = "oodgan report",
) -> Path:
    """Write `report.html`, `report.png` and `report.json` into a folder.

    Args:
        folder: created if it does not exist; files of these names are replaced.
        edits: one row of images each; images not computed yet are computed now.
        curves: title -> run folder or its `metrics.csv`; runs without numbers are left out.
        table: rows with the same keys, e.g. {"edit": "smile +1", "identity kept": 0.93, "LPIPS": 0.02, "seconds": 4.1}.
        title: heading of the page.

    Returns:
        Path of `report.html`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(edit.label, _pictures(edit)) for edit in edits]
    runs = {name: curves_of_run for name, path in (curves or {}).items() if (curves_of_run := read(path))}
    write_json(folder / JSON, _numbers(edits, runs, table))
    drawn = Table(list(table[0]), [[_shown(value) for value in row.values()] for row in table]) if table else None
    with replacing(folder / PNG) as temporary:
        _poster(title, rows, runs, drawn).save(temporary, "PNG")
    write_text(folder / HTML, _page(title, rows, runs, drawn))
    return folder / HTML


def overlay(photo: Image.Image, mask: Image.Image, strength: float = 0.65) -> Image.Image:
    """The mask as a red tint over the photo, both of the same size."""
    weight = np.asarray(mask.convert("L"), dtype=np.float32)[..., None] / 255 * strength
    pixels = np.asarray(photo.convert("RGB"), dtype=np.float32)
    return Image.fromarray(np.rint(pixels * (1 - weight) + _TINT * weight).astype(np.uint8))


def _pictures(edit: Edit) -> list[Image.Image]:
    full = [edit.photo, edit.inverted, edit.edited, overlay(edit.photo, edit.mask), edit.coarse, edit.result]
    return [fitted(picture, min(_SIDE, max(picture.size))) for picture in full]


def _numbers(edits: Sequence[Edit], runs: Mapping[str, Curves], table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def ends(points: Sequence[tuple[int, float]]) -> dict[str, float]:
        values = [value for _, value in points]
        return {"first": values[0], "last": values[-1], "lowest": min(values), "step": points[-1][0]}

    return {
        "version": __version__,
        "table": [{key: _plain(value) for key, value in row.items()} for row in table],
        "edits": [{"edit": e.label, "strengths": e.edits, "seconds": _rounded(e.seconds)} for e in edits],
        "curves": {run: {name: ends(points) for name, points in curves.items()} for run, curves in runs.items()},
    }


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {step: round(value, 3) for step, value in seconds.items()}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _shown(value: Any) -> str:
    value = _plain(value)
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _poster(
    title: str,
    rows: Sequence[tuple[str, list[Image.Image]]],
    runs: Mapping[str, Curves],
    table: Table | None,
) -> Image.Image:
    """Draw everything on the page as one image."""
    pictures = sheet([row for _, row in rows], COLUMNS, [label for label, _ in rows], size=400)
    width = max(pictures.width, 1200)
    parts = [_text([title], width, 34), pictures, _text(_lines(table), width, 24)]
    for run, curves in runs.items():
        with Image.open(io.BytesIO(draw(run, curves, "png"))) as chart:
            drawn = chart.convert("RGB")
            parts.append(drawn.resize((width, round(drawn.height * width / drawn.width)), Image.Resampling.LANCZOS))
    canvas = Image.new("RGB", (width, sum(part.height for part in parts)), BACKGROUND)
    top = 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas


def _lines(table: Table | None) -> list[str]:
    """The table with aligned columns, for a font of fixed width: cells are padded, never cut."""
    if table is None:
        return []
    cells = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["   ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)) for row in cells]


def _text(lines: Sequence[str], width: int, height: int) -> Image.Image:
    line = round(height * 1.5)
    canvas = Image.new("RGB", (width, line * len(lines) + (line if lines else 0)), BACKGROUND)
    font = _font(height)
    for i, text in enumerate(lines):
        ImageDraw.Draw(canvas).text((line / 2, line / 2 + i * line), text, INK, font)
    return canvas


def _font(height: int) -> Any:
    from matplotlib import font_manager

    # matplotlib carries a monospaced font with it, so the columns line up on every machine.
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans Mono"), height)


def _page(
    title: str,
    rows: Sequence[tuple[str, list[Image.Image]]],
    runs: Mapping[str, Curves],
    table: Table | None,
) -> str:
    sections = [Section(table=table)] if table else []
    sections += [Section(label, rows=[_figures(label, pictures)]) for label, pictures in rows]
    if runs:
        charts = [Figure(embedded(draw(run, curves, "svg"), "svg+xml"), hint=run) for run, curves in runs.items()]
        sections.append(Section("Training", charts=charts))
    return render(title, sections)


def _figures(label: str, pictures: Sequence[Image.Image]) -> list[Figure]:
    named = zip(COLUMNS, pictures, strict=True)
    return [Figure(jpeg(picture, quality=90, subsampling=0), name, f"{name}, {label}") for name, picture in named]
