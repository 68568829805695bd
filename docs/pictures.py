"""Draws docs/pictures/ with the shipped weights: python docs/pictures.py [SHEET ...] (a minute or two on a CPU).

The face is scikit-image's astronaut (NASA, public domain). docs/demo.jpg is the sheet that `make demo` writes. `serve`
needs the extras `app` and `dev`, and a Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from skimage.data import astronaut

from oodgan import Editor
from oodgan.data import images

FOLDER = Path(__file__).parent / "pictures"
PHOTO = Image.fromarray(astronaut())


def write(rows: Sequence[Sequence[Image.Image]], name: str, side: int) -> None:
    """Write rows of pictures, scaled to `side`, as one JPEG."""
    whole = Image.new("RGB", (side * len(rows[0]), side * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            whole.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (x * side, y * side))
    FOLDER.mkdir(exist_ok=True)
    whole.save(FOLDER / f"{name}.jpg", quality=82, optimize=True)
    print(FOLDER / f"{name}.jpg", flush=True)


def over(photo: Image.Image, mask: Image.Image) -> Image.Image:
    """The photo with the mask in red over it."""
    return Image.composite(Image.blend(photo, Image.new("RGB", photo.size, (255, 0, 0)), 0.55), photo, mask)


def masks(editor: Editor) -> None:
    """Edited, the map alone, the mask, and the result of five attributes."""
    names = ("smile", "eyeglasses", "beard", "bangs", "age")
    rows: list[list[Image.Image]] = [[], [], [], []]
    for name in names:
        edit = editor.edit(PHOTO, {name: 1.0})
        known = {key: edit.tensors[key] for key in ("photo", "inverted", "edited")}
        kind, editor.masker.kind = editor.masker.kind, "paper"
        alone = images.mask_to_pil(editor.mask(**known, edits=edit.edits))
        editor.masker.kind = kind
        for row, picture in zip(
            rows, (edit.edited, over(edit.photo, alone), over(edit.photo, edit.mask), edit.result), strict=True
        ):
            row.append(picture)
    write(rows, "masks", 224)


def compositions(editor: Editor) -> None:
    """The coarse image by each composition, beside photo, edited and result."""
    edit = editor.edit(PHOTO, {"smile": -1.0})
    known = {key: edit.tensors[key] for key in ("photo", "inverted", "edited", "mask")}
    kept, made = editor.composition, []
    for mode in ("paper", "poisson", "difference", "layered"):
        editor.composition = {"mode": mode}
        made.append(images.to_pil(editor.compose(**known)))
    editor.composition = kept
    row = [picture.crop((256, 400, 768, 912)) for picture in (edit.photo, edit.edited, *made, edit.result)]
    write([row], "compositions", 216)


def strengths(editor: Editor) -> None:
    """One attribute at several strengths."""
    edits = editor.sweep(PHOTO, "age", [-1.5, -0.75, 0.75, 1.5])
    write([[edit.result for edit in edits]], "strengths", 256)


def serve(editor: Editor) -> None:
    """The web page with an edit in it, as a headless Chromium shows it."""
    from playwright.sync_api import sync_playwright

    from oodgan.app.page import Page
    from oodgan.app.server import Scratch
    from oodgan.app.studio import Studio
    from oodgan.launch import compose

    with Scratch(keep=600) as folder, sync_playwright() as driver:
        studio = Studio(editor, compose("serve", ["port=0"]), folder)
        studio.warm_up()
        page = Page(studio)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.set_default_timeout(300_000)
        tab.goto(page.launch())
        PHOTO.save(folder / "photo.png")
        tab.set_input_files("#photo input[type=file]", folder / "photo.png")
        tab.wait_for_function("document.querySelector('#status')?.innerText.includes('no edit yet')")
        strength = tab.locator("#edit_smile input[type=number]")
        strength.fill("1")
        strength.blur()
        tab.wait_for_function("document.querySelector('#status')?.innerText.includes('smile +1')")
        tab.get_by_role("button", name="My own mask").click()
        canvas = tab.locator("#canvas canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y, width = box["x"], box["y"] + 0.66 * box["height"], box["width"]
        tab.mouse.move(x + 0.4 * width, y)
        tab.mouse.down()
        tab.mouse.move(x + 0.6 * width, y, steps=8)
        tab.mouse.up()
        tab.click("#use_mask")
        tab.wait_for_function("document.querySelector('#status')?.innerText.includes('my own mask')")
        tab.wait_for_timeout(2000)  # pictures load, and what they replace fades
        shown = Image.open(io.BytesIO(tab.screenshot(full_page=True))).convert("RGB")
        shown.save(FOLDER / "serve.jpg", quality=80, optimize=True)
        browser.close()
        page.close()


SHEETS = {"masks": masks, "compositions": compositions, "strengths": strengths, "serve": serve}

if __name__ == "__main__":
    shared = Editor.from_pretrained("mobile_ffhq")
    for chosen in sys.argv[1:] or SHEETS:
        SHEETS[chosen](shared)
