"""Several photos at once, without the web page."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'oodgan[app]'")

from oodgan.app.batch import edit_all, zipped
from oodgan.app.session import Controls
from oodgan.app.studio import Studio


def test_an_unreadable_photo_does_not_stop_the_batch_and_uploads_are_deleted(
    studio: Studio, crop: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "notes.txt"
    bad.write_text("hello")
    controls = Controls(0, {"smile": 1.0}, studio.mask)
    expected = studio.picture(studio.open(crop, aligned=True), controls, "result", "png")
    first, second, third = edit_all(studio, [bad, crop, crop], True, controls, "result", "png")
    assert not bad.exists() and not crop.exists()
    assert first.picture is None and "notes.txt is not an image" in first.error
    assert second.picture is not None and not second.error
    assert np.array_equal(np.asarray(Image.open(second.picture)), np.asarray(Image.open(expected)))
    assert third.picture is None and "me.png" in third.error  # the second edit deleted the upload


def test_results_with_the_same_name_are_numbered(tmp_path: Path) -> None:
    pictures = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        pictures.append(tmp_path / folder / "me.png")
        pictures[-1].write_bytes(folder.encode())
    with zipfile.ZipFile(zipped(pictures, tmp_path / "all.zip")) as file:
        assert {name: file.read(name) for name in file.namelist()} == {
            "me.png": b"a", "me_2.png": b"b", "me_3.png": b"c",
        }  # fmt: skip
