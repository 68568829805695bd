"""The report page: self-contained, with its numbers in a JSON file."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from oodgan.editing.report import COLUMNS, overlay, report
from oodgan.tracking.curves import draw, read
from oodgan.tracking.sheet import sheet


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [f"{step},train/loss,{2.0 / (step + 1)}" for step in range(20)] + ["9,val/loss,0.4", "19,val/loss,0.2"]
    (folder / "metrics.csv").write_text("step,name,value\n" + "\n".join(rows) + "\n19,train/l")
    return folder


@pytest.fixture
def edits(draw_face: Callable[..., Image.Image]) -> list[SimpleNamespace]:
    result = []
    for row, label in enumerate(("smile +1", "age <-1> & more")):
        pictures = [draw_face(10 * row + i, size=64) for i in range(5)]
        names = ("photo", "inverted", "edited", "coarse", "result")
        mask = Image.new("L", (64, 64), 128)
        seconds = {"align": 0.12345}
        result.append(
            SimpleNamespace(
                label=label, edits={"x": 1.0}, seconds=seconds, mask=mask, **dict(zip(names, pictures, strict=True))
            )
        )
    return result


def test_the_report_page_is_self_contained(tmp_path: Path, edits: list, run_folder: Path) -> None:
    table = [{"edit": e.label, "identity kept": np.float32(0.9123), "LPIPS": 0.02, "seconds": 3.1} for e in edits]
    page = report(tmp_path / "out", edits, {"diffcam": run_folder, "empty": tmp_path}, table, title="demo <1>")
    text = page.read_text()
    embedded = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(embedded) == len(edits) * len(COLUMNS)
    assert all(Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64) for data in embedded)
    assert text.count("data:image/svg+xml") == 1
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import""", text)
    assert "demo &lt;1&gt;" in text and "age &lt;-1&gt; &amp; more" in text and "0.912" in text
    with Image.open(tmp_path / "out" / "report.png") as poster:
        assert poster.width > 6 * 400 and poster.height > 2 * 400
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert numbers["table"][0]["identity kept"] == pytest.approx(0.9123)
    assert numbers["edits"][0]["seconds"] == {"align": 0.123}
    assert numbers["curves"]["diffcam"]["train/loss"] == {"first": 2.0, "last": 0.1, "lowest": 0.1, "step": 19}


def test_the_mask_is_drawn_over_the_photo() -> None:
    photo, mask = Image.new("RGB", (2, 1), (100, 100, 100)), Image.new("L", (2, 1), 0)
    mask.putpixel((1, 0), 255)
    (left, right) = np.asarray(overlay(photo, mask))[0].tolist()
    assert left == [100, 100, 100] and right[0] > 180 and right[2] < 100


def test_loss_curves_are_read_and_drawn(run_folder: Path) -> None:
    result = read(run_folder)
    assert set(result) == {"train/loss", "val/loss"} and result["val/loss"] == [(9, 0.4), (19, 0.2)]
    assert Image.open(io.BytesIO(draw("run", result, "png"))).width > 1000
    assert draw("run", result) == draw("run", result) and b"<svg" in draw("run", result)


def test_pictures_on_a_sheet_are_not_cropped() -> None:
    tall = Image.new("RGB", (50, 100), (255, 0, 0))
    drawn = np.asarray(sheet([[tall, tall], [tall]], ("one", "two"), ("a", "b"), size=200))
    red = (drawn == (255, 0, 0)).all(axis=2).sum()
    assert red == 3 * 100 * 200
