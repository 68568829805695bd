"""Fixtures for the app: a small editor, a browser and visitors of the page."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from oodgan.app.studio import Studio
from oodgan.diffcam.masks import Masker
from oodgan.diffcam.network import DiffCAM
from oodgan.directions.bank import Bank
from oodgan.editing import Editor
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion.inverter import OptimisationInverter
from oodgan.inversion.refine import Refinement
from oodgan.inversion.value import Inversion
from oodgan.launch import compose

NAMES = ("smile", "age")
WORDS = [
    "generator=tiny",
    "inverter=optimisation",
    "directions=sefa",
    "deghoster=none",
    "port=0",
    "max_upload=0.05",
    "batch=3",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Counting(OptimisationInverter):
    calls = 0

    def invert(self, photos: torch.Tensor) -> Inversion:
        self.calls += 1
        return super().invert(photos)


@pytest.fixture(scope="session")
def words() -> list[str]:
    """Overrides for a configuration like the small editor's, with a free port and a low upload limit."""
    return WORDS


@pytest.fixture(scope="module")
def editor() -> Editor:
    torch.manual_seed(0)
    generator = StyleGAN2(resolution=32).eval().requires_grad_(False)
    vectors = torch.randn(2, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    network = DiffCAM("vgg16", 2, pretrained=False, layers=[3, 8], cut=9)
    masker = Masker(network, NAMES, torch.ones(2, 32, 32), size=32)
    refinement = Refinement(steps=1, size=32, losses={"l2": 1.0, "lpips": 0.0, "identity": 0.0})
    bank = Bank(NAMES, vectors, generator.id, generator.id)
    return Editor(generator, Counting(generator, refinement), bank, masker)


@pytest.fixture
def studio(editor: Editor, tmp_path: Path) -> Studio:
    return Studio(editor, compose("serve", WORDS), tmp_path / "scratch")


@pytest.fixture
def crop(tmp_path: Path, draw_face: Callable[..., Image.Image]) -> Path:
    draw_face(3, size=48).save(tmp_path / "me.png")
    return tmp_path / "me.png"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium, driven by playwright; skips if there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no Chromium is installed: none of {', '.join(BROWSERS)} is on the PATH")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'oodgan[dev]'")
    with api.sync_playwright() as driver:
        result = driver.chromium.launch(executable_path=program, args=list(FLAGS))
        yield result
        result.close()


class Visit:
    """One visitor's tab: the requested URLs, and actions on the page."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        options = {"viewport": {"width": 1300, "height": 1200}, **options}
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.requested: list[str] = []
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#photo input[type=file]", state="attached")

    def upload(self, path: Path) -> None:
        self.page.set_input_files("#photo input[type=file]", str(path))

    def crop(self, path: Path) -> None:
        """Upload an aligned crop and wait until it is inverted."""
        self.page.check("#aligned input")
        self.upload(path)
        self.wait_for_status("no edit yet")

    def move(self, slider: str, value: float) -> None:
        field = self.page.locator(f"#{slider} input[type=number]")
        field.fill(str(value))
        field.blur()

    def value(self, slider: str) -> float:
        return float(self.page.locator(f"#{slider} input[type=number]").input_value())

    def drop(self, paths: list[Path]) -> None:
        """Drop several photos, and wait until they are uploaded."""
        for path in paths:
            if not path.exists():
                path.write_bytes(paths[0].read_bytes())
        self.page.wait_for_selector("#photos input[type=file]", state="attached")
        self.page.set_input_files("#photos input[type=file]", [str(path) for path in paths])
        self.page.wait_for_function(f"document.querySelectorAll('#photos tr.file').length == {len(paths)}")

    def paint(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw a line on the face, between two points given as fractions of its width and height."""
        canvas = self.page.locator("#canvas canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        self.page.mouse.move(*places[1], steps=4)
        self.page.mouse.up()

    def wait_for_status(self, text: str) -> None:
        """Wait until the status line above the pictures contains this text."""
        self.page.wait_for_function(f"document.querySelector('#status')?.innerText.includes({text!r})")

    def pictures(self) -> list[str]:
        """Returns the addresses of the pictures that are shown."""
        result = self.page.eval_on_selector_all("img", "all => all.map(img => img.src)")
        return [address for address in result if "/file=" in address]

    def fetch(self, address: str) -> bytes:
        return self.context.request.get(address).body()

    def download(self, button: str, folder: Path) -> Path:
        with self.page.expect_download() as started:
            self.page.click(f"#{button}")
        path = folder / started.value.suggested_filename
        started.value.save_as(path)
        return path


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """`visit(address, **options)`: a new visitor with separate cookies and storage; options are the browser's."""
    visits: list[Visit] = []

    def open_visit(address: str, **options: Any) -> Visit:
        visits.append(Visit(browser, address, **options))
        return visits[-1]

    yield open_visit
    for one in visits:
        one.context.close()
