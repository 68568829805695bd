"""The page with a small editor, in a real browser: edits, downloads, wrong uploads, privacy."""

from __future__ import annotations

import copy
import dataclasses
import re
import zipfile
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
from oodgan.app.session import Controls
from oodgan.app.studio import Studio
from oodgan.editing import Editor, settings
from oodgan.launch import compose

pytestmark = pytest.mark.slow
Come = Callable[..., Any]


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


def test_moving_a_slider_updates_the_picture_and_both_downloads(
    address: str, visit: Come, studio: Studio, crop: Path, tmp_path: Path
) -> None:
    guest = visit(address)
    guest.crop(crop)
    before = guest.pictures()
    guest.move("edit_smile", 1.0)
    guest.wait_for_status("smile +1")
    after = guest.pictures()
    assert len(after) == 8 and set(after).isdisjoint(before)
    picture, made = (guest.download(button, tmp_path) for button in ("make_picture", "make_settings"))
    assert picture.name == "me_edited.png" and made.name == "me_settings.yaml"
    expected = studio.picture(
        studio.open(crop, aligned=True), Controls(0, {"smile": 1.0}, studio.mask), "pasted", "png"
    )
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(expected)))
    assert "smile: 1.0" in made.read_text()
    assert not [url for url in guest.requested if urlsplit(url).hostname not in ("127.0.0.1", None)], guest.requested


@pytest.mark.network
def test_auto_moves_the_slider_to_the_chosen_strength(address: str, visit: Come, studio: Studio, crop: Path) -> None:
    guest = visit(address)
    guest.page.click("#auto_smile")
    guest.wait_for_status("Drop a photo")
    guest.crop(crop)
    assert guest.page.locator("#auto_age").count() == 0, "age has no calibration"
    guest.page.click("#auto_smile")
    guest.wait_for_status("auto smile")
    choice = studio.choose(studio.open(crop, aligned=True), Controls(0, {}, studio.mask), "smile")
    guest.wait_for_status(f"{choice.change:+.2f} of +0.50 sd")
    moved = float(guest.page.locator("#edit_smile input[type=number]").input_value())
    assert moved == pytest.approx(choice.strength, abs=0.026)


def test_reset_sets_one_slider_to_zero_and_undo_restores_it(address: str, visit: Come, crop: Path) -> None:
    guest = visit(address)
    guest.page.click("#undo")
    guest.wait_for_status("Drop a photo")
    guest.crop(crop)
    guest.page.click("#undo")
    guest.wait_for_status("Nothing to undo")
    guest.move("edit_smile", 1.0)
    guest.wait_for_status("smile +1")
    guest.move("edit_age", -1.0)
    guest.wait_for_status("smile +1, age -1")
    guest.page.click("[aria-label='Reset smile']")
    guest.page.wait_for_function("!document.querySelector('#status').innerText.includes('smile')")
    assert guest.value("edit_smile") == 0 and guest.value("edit_age") == -1
    guest.page.click("#undo")
    guest.wait_for_status("smile +1, age -1")
    assert guest.value("edit_smile") == 1
    guest.page.click("#all_zero")
    guest.wait_for_status("no edit yet")
    guest.page.click("#undo")
    guest.wait_for_status("smile +1, age -1")


def test_the_photo_changes_only_where_a_mask_is_painted(
    address: str, visit: Come, studio: Studio, crop: Path, tmp_path: Path
) -> None:
    guest = visit(address)
    guest.page.click("text=My own mask")
    guest.page.click("#use_mask")
    guest.wait_for_status("Drop a photo")
    guest.crop(crop)
    guest.move("edit_smile", 1.0)
    guest.wait_for_status("smile +1")
    guest.page.click("#use_mask")
    guest.wait_for_status("Nothing is painted")
    guest.page.click("text=takes its place")
    guest.paint((0.2, 0.25), (0.3, 0.25))
    guest.page.click("#use_mask")
    guest.wait_for_status("my own mask")
    files = [guest.download(button, tmp_path) for button in ("make_picture", "make_settings", "make_mask")]
    photo, picture, mask = (
        np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (crop, files[0], files[2])
    )
    changed = np.abs(picture - photo).max(2) > 0
    assert changed.any() and not changed[24:].any() and not changed[:, 24:].any()
    assert mask[12, 12].min() > 200 and not mask[24:].any() and not mask[:, 24:].any()
    cfg = settings.read(compose("edit", ["input=me.png", f"settings='{files[1]}'"]))
    assert (cfg.mask, cfg.mask_mode) == (str(files[2]), "replace")
    again = studio.editor.edit(crop, {"smile": 1.0}, aligned=True, mask=cfg.mask, mask_mode=cfg.mask_mode)
    assert np.array_equal(np.asarray(again.pasted), picture)
    guest.page.click("#canvas .back")
    guest.page.click("#use_mask")
    guest.wait_for_status("Nothing is painted")
    guest.page.click("#drop_mask")
    guest.page.wait_for_function("!document.querySelector('#status').innerText.includes('ask')")
    guest.page.click("#make_mask")
    guest.page.wait_for_selector("text=No mask is in use")


def test_several_photos_are_edited_at_once(
    address: str, visit: Come, scratch: Path, crop: Path, tmp_path: Path, studio: Studio
) -> None:
    guest = visit(address)
    guest.page.click("text=Several photos")
    guest.page.click("#edit_photos")
    guest.wait_for_status("Drop several photos first")
    text, other = tmp_path / "notes.txt", tmp_path / "you.png"
    text.write_text("hello")
    Image.open(crop).rotate(180).save(other)
    guest.page.check("#aligned input")
    guest.move("edit_smile", 1.0)
    guest.drop([crop, text, other])
    guest.page.click("#edit_photos")
    guest.wait_for_status("3 of 3 photos are done")
    guest.wait_for_status("notes.txt is not an image")
    guest.page.wait_for_selector("#save_photos")
    with zipfile.ZipFile(guest.download("save_photos", tmp_path)) as file:
        assert file.namelist() == ["me_edited.png", "you_edited.png"]
        picture = np.asarray(Image.open(file.open("me_edited.png")))
    expected = studio.editor.edit(crop, {"smile": 1.0, "age": 0.0}, aligned=True).pasted
    assert np.array_equal(picture, np.asarray(expected))
    held = {path.read_bytes() for path in (crop, text, other)}
    assert not [path for path in scratch.rglob("*") if path.is_file() and path.read_bytes() in held]
    guest.drop([crop, text, other, crop.with_name("four.png")])
    guest.page.click("#edit_photos")
    guest.wait_for_status("4 photos: at most 3 at once")


def test_every_control_has_a_name_for_screen_readers(address: str, visit: Come, crop: Path) -> None:
    guest = visit(address)
    for part in ("Mask", "My own mask", "Several photos"):
        guest.page.get_by_role("button", name=part).first.click()
    guest.crop(crop)
    lines = guest.page.locator("main").aria_snapshot().splitlines()
    used = [
        line.strip() for line in lines if re.match(r"\s*- (button|slider|spinbutton|checkbox|radio|combobox)", line)
    ]
    assert len(used) > 30 and all('"' in line for line in used), [line for line in used if '"' not in line]
    names = {re.sub(r"[:\[].*", "", line) for line in used}
    assert {'- button "Reset smile" ', '- button "Reset age" '} <= {f"{name.strip()} " for name in names}
    assert guest.page.locator("#status").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_photo_result_and_sliders_are_stacked(address: str, visit: Come, crop: Path, scheme: str) -> None:
    guest = visit(address, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    guest.crop(crop)
    size = guest.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1]
    tops = [guest.page.locator(place).bounding_box()["y"] for place in ("#photo", "#compare", "#views", "#edit_smile")]
    assert tops == sorted(tops)
    assert guest.page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")


def test_visitors_do_not_see_each_others_photos(address: str, visit: Come, crop: Path) -> None:
    first = visit(address)
    first.crop(crop)
    second = visit(address)
    second.move("edit_smile", 1.0)
    second.wait_for_status("Drop a photo")
    assert not second.pictures() and len(first.pictures()) == 8
    second.page.click("#make_picture")
    second.page.wait_for_selector("text=Drop a photo to begin")
    first.page.reload()
    first.wait_for_status("Drop a photo")
    assert not first.pictures()


def test_the_uploaded_file_is_deleted_after_it_is_read(address: str, visit: Come, scratch: Path, crop: Path) -> None:
    guest = visit(address)
    guest.crop(crop)
    left = [path for path in scratch.rglob("*") if path.is_file() and path.read_bytes() == crop.read_bytes()]
    assert left == [] and any(scratch.rglob("result.jpg"))


def test_wrong_uploads_are_reported_in_one_line(address: str, visit: Come, tmp_path: Path, crop: Path) -> None:
    guest = visit(address)
    text, big = tmp_path / "notes.txt", tmp_path / "big.png"
    text.write_text("hello")
    big.write_bytes(crop.read_bytes() + bytes(60_000))
    guest.upload(text)
    guest.wait_for_status("notes.txt is not an image")
    assert str(tmp_path.parent) not in guest.page.inner_text("body")
    guest.page.reload()
    guest.upload(big)
    guest.page.wait_for_selector("text=/exceed|too large/i")
    assert not guest.pictures()


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../../etc/passwd", "{conf}", "{conf}/config.yaml", "{scratch}", "https://example.com/"]
)
def test_files_outside_the_app_are_not_served(address: str, scratch: Path, path: str) -> None:
    conf = Path(__file__).parents[2] / "conf"
    requested = path.format(conf=conf, scratch=scratch)
    answer = httpx.get(f"{address}gradio_api/file={requested}", trust_env=False)
    assert answer.status_code >= 400, answer.text


def test_server_paths_are_not_accepted_as_uploads(address: str, crop: Path) -> None:
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
