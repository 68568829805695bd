"""The page with a small editor, in a real browser: edits, downloads, wrong uploads, and what others must not see."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'oodgan[app]'")

from oodgan.app.page import Page
from oodgan.app.server import Scratch
from oodgan.app.session import Controls, Studio
from oodgan.editing import Editor
from oodgan.launch import compose

pytestmark = pytest.mark.slow
Come = Callable[[str], Any]


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with Scratch(keep=600) as folder:
        yield folder


@pytest.fixture(scope="module")
def studio(editor: Editor, words: list[str], scratch: Path) -> Studio:
    measured = copy.copy(editor)
    notes = {"range": [-1.5, 1.5], "samples": {"strength": [1.0, 1.5], "move": [0.5, 0.7]}}
    measured.bank = dataclasses.replace(editor.bank, calibration={"smile": notes})
    return Studio(measured, compose("serve", words), scratch)


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    page = Page(studio)
    yield page.launch()
    page.close()


def test_a_moved_slider_changes_the_picture_and_both_downloads_fit_it(
    address: str, visit: Come, studio: Studio, crop: Path, tmp_path: Path
) -> None:
    guest = visit(address)
    guest.crop(crop)
    before = guest.pictures()
    guest.move("edit_smile", 1.0)
    guest.says("smile +1")
    after = guest.pictures()
    assert len(after) == 6 and set(after).isdisjoint(before)
    picture, settings = (guest.download(button, tmp_path) for button in ("make_picture", "make_settings"))
    assert picture.name == "me_edited.png" and settings.name == "me_settings.yaml"
    expected = studio.picture(
        studio.open(crop, aligned=True), Controls(0, {"smile": 1.0}, studio.mask), "pasted", "png"
    )
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(expected)))
    assert "smile: 1.0" in settings.read_text()
    assert not [url for url in guest.requested if urlsplit(url).hostname not in ("127.0.0.1", None)], guest.requested


@pytest.mark.network
def test_auto_moves_the_slider_to_what_was_chosen(address: str, visit: Come, studio: Studio, crop: Path) -> None:
    guest = visit(address)
    guest.page.click("#auto_smile")
    guest.says("Drop a photo")
    guest.crop(crop)
    assert guest.page.locator("#auto_age").count() == 0, "age was not measured"
    guest.page.click("#auto_smile")
    guest.says("auto smile")
    choice = studio.choose(studio.open(crop, aligned=True), Controls(0, {}, studio.mask), "smile")
    guest.says(f"{choice.change:+.2f} of +0.50 sd")
    moved = float(guest.page.locator("#edit_smile input[type=number]").input_value())
    assert moved == pytest.approx(choice.strength, abs=0.026)


def test_the_second_visitor_sees_nothing_of_the_first(address: str, visit: Come, crop: Path) -> None:
    first = visit(address)
    first.crop(crop)
    second = visit(address)
    second.move("edit_smile", 1.0)
    second.says("Drop a photo")
    assert not second.pictures() and len(first.pictures()) == 6
    second.page.click("#make_picture")
    second.page.wait_for_selector("text=Drop a photo to begin")
    first.page.reload()
    first.says("Drop a photo")
    assert not first.pictures()


def test_the_uploaded_file_is_deleted_once_it_was_read(address: str, visit: Come, scratch: Path, crop: Path) -> None:
    guest = visit(address)
    guest.crop(crop)
    left = [path for path in scratch.rglob("*") if path.is_file() and path.read_bytes() == crop.read_bytes()]
    assert left == [] and any(scratch.rglob("result.jpg"))


def test_wrong_uploads_are_told_in_one_line(address: str, visit: Come, tmp_path: Path, crop: Path) -> None:
    guest = visit(address)
    text, big = tmp_path / "notes.txt", tmp_path / "big.png"
    text.write_text("hello")
    big.write_bytes(crop.read_bytes() + bytes(60_000))
    guest.upload(text)
    guest.says("notes.txt is not an image")
    assert str(tmp_path.parent) not in guest.page.inner_text("body")
    guest.page.reload()
    guest.upload(big)
    guest.page.wait_for_selector("text=/exceed|too large/i")
    assert not guest.pictures()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../etc/passwd", "{conf}", "{conf}/config.yaml", "{scratch}", "https://example.com/"]
)
def test_no_other_file_of_the_machine_is_served(address: str, scratch: Path, path: str) -> None:
    conf = Path(__file__).parents[2] / "conf"
    asked = path.format(conf=conf, scratch=scratch)
    answer = httpx.get(f"{address}gradio_api/file={asked}", trust_env=False)
    assert answer.status_code >= 400, answer.text


def test_files_of_the_machine_are_no_uploads(address: str, crop: Path) -> None:
    ids = [part["id"] for part in httpx.get(f"{address}config", trust_env=False).json()["dependencies"]]
    file = {"path": str(crop), "meta": {"_type": "gradio.FileData"}, "orig_name": "me.png"}
    values = [file, True, None, 0, 0, 0, 1.0, 0.01]  # upload, crop, session, face, two strengths, the mask's two
    call: dict[str, Any] = {"data": values, "fn_index": ids[0], "session_hash": "thief", "trigger_id": None}
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        assert client.post("gradio_api/queue/join", json=call).is_success
        with client.stream("GET", "gradio_api/queue/data", params={"session_hash": "thief"}) as events:
            lines = []
            for line in events.iter_lines():
                lines.append(line)
                if "process_completed" in line:
                    break
    assert '"success":false' in lines[-1].replace(" ", "") and crop.is_file()
