"""The painted mask: strokes sent by the page and the canvas."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'oodgan[app]'")

from oodgan.app.brush import LARGEST, SIDE, canvas, painted
from oodgan.errors import UserError


def data_url(image: Image.Image, kind: str = "png") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_strokes_become_white_and_an_empty_canvas_gives_no_mask() -> None:
    drawing = Image.new("RGBA", (SIDE, SIDE))
    drawing.paste((239, 68, 68, 255), (10, 20, 30, 40))
    assert painted(data_url(drawing)).getbbox() == (10, 20, 30, 40)
    assert painted("").getbbox() is None


@pytest.mark.parametrize(
    "painting",
    [
        "/etc/passwd", "data:image/png;base64,###", "data:image/png;base64,aGVsbG8=",
        data_url(Image.new("RGBA", (SIDE + 1, SIDE))), data_url(Image.new("RGB", (SIDE, SIDE)), "jpeg"),
        "data:image/png;base64," + "A" * LARGEST,
    ],
)  # fmt: skip
def test_a_painting_that_the_page_did_not_send_is_refused(painting: str) -> None:
    with pytest.raises(UserError, match="not sent by this page"):
        painted(painting)


def test_the_face_is_embedded_in_the_page() -> None:
    html = canvas(Image.new("RGB", (64, 64), "red"))
    assert "data:image/jpeg;base64," in html and "FACE" not in html and "http" not in html
