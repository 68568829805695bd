"""Draws a grid of images with titles."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

BACKGROUND, INK = (250, 250, 248), (30, 32, 36)


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    titles: Sequence[str] = (),
    size: int = 320,
) -> Image.Image:
    """Lay pictures out in a grid.

    Args:
        rows: rows of pictures; a row may be shorter than the others.
        columns: titles above the columns, or none.
        titles: one above each row, or none.
        size: side of a cell in pixels; pictures are scaled to fit, never cropped.
    """
    gap, line = max(4, size // 40), max(18, size // 12)
    head = line if columns else 0
    caption = line if titles else 0
    width = max((len(row) for row in rows), default=0) * (size + gap) + gap
    canvas = Image.new("RGB", (width, head + len(rows) * (size + gap + caption) + gap), BACKGROUND)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(line * 0.65)
    for i, column in enumerate(columns):
        draw.text((gap + i * (size + gap) + size / 2, head / 2), column, INK, font, anchor="mm")
    for j, row in enumerate(rows):
        top = head + gap + j * (size + gap + caption)
        if titles:
            draw.text((gap, top + caption / 2), titles[j], INK, font, anchor="lm")
        for i, picture in enumerate(row):
            cell = fitted(picture, size)
            left = gap + i * (size + gap) + (size - cell.width) // 2
            canvas.paste(cell, (left, top + caption + (size - cell.height) // 2))
    return canvas


def fitted(picture: Image.Image, size: int) -> Image.Image:
    """The picture as RGB, scaled so that its longer side is `size`."""
    scale = size / max(picture.size)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    rgb = picture.convert("RGB")
    return rgb if rgb.size == shape else rgb.resize(shape, Image.Resampling.LANCZOS)
