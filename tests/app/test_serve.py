"""`oodgan serve` as a user runs it: the shipped weights, a real photo, a real browser, and `oodgan edit` afterwards."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'oodgan[app]'")
pytestmark = [pytest.mark.slow, pytest.mark.network]

PATIENCE = 600  # seconds until the server has loaded, on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """The command in its own process, ended by SIGTERM; `{"address": ..., "folder": ..., "process": ...}`."""
    folder = tmp_path_factory.mktemp("tmp")
    log = folder / "log"
    with log.open("w") as out:
        process = start(
            [sys.executable, "-m", "oodgan", "serve", "port=0", "max_upload=2", "inverter=fast"],
            stderr=out, stdout=out, env={**os.environ, "TMPDIR": str(folder)},
        )  # fmt: skip
    result, limit = None, time.monotonic() + PATIENCE
    while not result and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.5)
        result = re.search(r"http://\S+", log.read_text())
    assert result, log.read_text()
    yield {"address": result[0], "folder": folder, "process": process}
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 0, log.read_text()
    assert not list(folder.glob("oodgan-serve-*")), "no photos may remain"
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture
def photo(astronaut: Image.Image, tmp_path: Path) -> Path:
    astronaut.save(tmp_path / "eileen.png")
    return tmp_path / "eileen.png"


def test_the_edit_command_repeats_a_downloaded_edit_exactly(
    server: dict[str, Any], visit: Callable[..., Any], photo: Path
) -> None:
    guest = visit(server["address"])
    guest.upload(photo)
    guest.wait_for_status("no edit yet")
    before = guest.pictures()
    guest.move("edit_smile", 1.0)
    guest.wait_for_status("smile +1")
    guest.page.get_by_role("button", name="Mask").first.click()
    guest.move("mask_strength", 0.8)
    guest.move("edit_age", -0.5)
    guest.wait_for_status("age -0.5")
    assert set(guest.pictures()).isdisjoint(before)
    picture, settings = (guest.download(button, photo.parent) for button in ("make_picture", "make_settings"))
    words = ["edit", str(photo), f"settings={settings}", f"output={photo.parent / 'again'}", "code_cache=0"]
    done = subprocess.run([sys.executable, "-m", "oodgan", *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    again = Image.open(photo.parent / "again" / "pasted" / "eileen.png")
    assert again.size == (512, 512)
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(again))


def test_the_second_of_two_faces_can_be_chosen(server: dict[str, Any], visit: Callable[..., Any], photo: Path) -> None:
    one = Image.open(photo)
    two = Image.new("RGB", (1024, 512))
    two.paste(one, (0, 0))
    two.paste(one.resize((384, 384)), (576, 64))
    two.save(photo.with_name("two.jpg"), quality=95)
    guest = visit(server["address"])
    guest.upload(photo.with_name("two.jpg"))
    guest.wait_for_status("no edit yet")
    before = guest.pictures()
    guest.page.click("#face label:nth-of-type(2)")
    guest.page.wait_for_function(f"![...document.images].some(img => img.src == {before[-1]!r})")
    assert len(guest.pictures()) == len(before) == 9


def test_a_photo_without_a_face_is_reported(server: dict[str, Any], visit: Callable[..., Any], tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "olive").save(tmp_path / "lawn.jpg")
    guest = visit(server["address"])
    guest.upload(tmp_path / "lawn.jpg")
    guest.wait_for_status("No face was found in lawn.jpg")
    assert not guest.pictures()
