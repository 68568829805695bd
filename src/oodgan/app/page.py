"""The page's components and what happens when they are used."""

from __future__ import annotations

import html
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from oodgan.app.batch import Batch
from oodgan.app.brush import Brush, canvas, painted
from oodgan.app.downloads import Downloads
from oodgan.app.looks import CSS, DROP, JS, theme, trouble
from oodgan.app.server import BoundedBodies, free_port
from oodgan.app.session import Controls, Session, numbered
from oodgan.app.studio import MASK_SETTINGS, QUALITIES, VIEWS, Studio
from oodgan.errors import UserError

STEP = 0.05
_HEAD = """\
# oodgan
Edit a face in a photo that its GAN has never seen. Everything outside the mask stays the photo's own pixels, and the \
photo stays on this machine.
"""


class Page:
    """The page of a studio, and its local server."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.cfg = studio, studio.cfg
        with gr.Blocks(title="oodgan", analytics_enabled=False) as self.blocks:
            self._build()

    def launch(self) -> str:
        """Start serving in threads of this process; the page's address."""
        self.blocks.queue(max_size=int(self.cfg.queue), default_concurrency_limit=1, api_open=False)
        port = int(self.cfg.port)
        try:
            _, address, _ = self.blocks.launch(
                server_name=str(self.cfg.host), server_port=port or free_port(str(self.cfg.host)),
                max_file_size=f"{math.ceil(float(self.cfg.max_upload) * 1000)}kb", inbrowser=bool(self.cfg.browser),
                share=False, prevent_thread_lock=True, quiet=True, show_error=False, allowed_paths=[],
                footer_links=[], enable_monitoring=False, ssr_mode=False, mcp_server=False, pwa=False,
                state_session_capacity=50, theme=theme(), css=CSS,
                app_kwargs={"middleware": [Middleware(BoundedBodies, limit=self._largest_request())]},
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"port={port} of {self.cfg.host} cannot be opened (in use?): {error}") from error
        return address

    def close(self) -> None:
        """Stop serving."""
        self.blocks.close(verbose=False)

    def _largest_request(self) -> int:
        """Bytes of the largest request: a batch of photos and what is sent around it."""
        return math.ceil((float(self.cfg.max_upload) * int(self.cfg.batch) + 1) * 1_000_000)

    def _build(self) -> None:
        self.session = gr.State(None, time_to_live=float(self.cfg.keep) * 60)
        gr.Markdown(_HEAD)
        with gr.Row():
            with gr.Column(scale=2, min_width=400, elem_id="controls"):
                with gr.Column(elem_id="photo_controls"):
                    self._photo_controls()
                with gr.Column(elem_id="edit_controls"):
                    self._edit_controls()
                    self.brush = Brush()
                    self.batch = Batch(self.studio)
            with gr.Column(scale=3, min_width=480, elem_id="pictures"):
                self._pictures()
                self.downloads = Downloads(self.studio, str(self.cfg.format))
        self._events()

    def _photo_controls(self) -> None:
        self.upload = gr.File(label=f"Photo (up to {self.cfg.max_upload:g} MB)", height=170, elem_id="photo")
        self.aligned = gr.Checkbox(label="It is an aligned face crop (FFHQ) already", elem_id="aligned")
        self.quality = gr.Radio(
            choices=[(label, name) for name, label in QUALITIES.items()], value=self.studio.quality or None,
            label="Quality of the inversion", info="Better ones take a few times longer for a photo's first edit.",
            visible=bool(self.studio.quality), elem_id="quality",
        )  # fmt: skip
        with gr.Group(visible=False) as self.choice:
            self.boxes = gr.Image(show_label=False, interactive=False, buttons=[], alt_text="faces with numbers")
            self.face = gr.Radio(choices=[("0", 0)], value=0, label="Which face?", elem_id="face")

    def _edit_controls(self) -> None:
        self.sliders: dict[str, gr.Slider] = {}
        self.autos: dict[str, gr.Button] = {}
        with gr.Accordion("Edits"):
            with gr.Row():
                self.back = gr.Button("Undo", size="sm", min_width=80, elem_id="undo")
                self.reset = gr.Button("All to zero", size="sm", min_width=80, elem_id="all_zero")
            for start in range(0, len(self.studio.names), 2):
                with gr.Row(elem_classes="pair"):
                    for name in self.studio.names[start : start + 2]:
                        with gr.Column(min_width=180):
                            self.sliders[name] = self._strength(name)
                            if self.studio.can_choose(name):
                                self.autos[name] = gr.Button(
                                    "auto", size="sm", elem_id=f"auto_{name}", elem_classes="auto"
                                )
        self.mask: dict[str, gr.Slider] = {}
        own = self.studio.mask
        with gr.Accordion("Mask", visible=bool(own), open=False):
            if own:
                for name, (most, step) in MASK_SETTINGS.items():
                    self.mask[name] = gr.Slider(
                        0, most, own[name], step=step, label=name, elem_id=f"mask_{name}", buttons=["reset"]
                    )

    def _strength(self, name: str) -> gr.Slider:
        """A slider over the direction's useful range, widened to whole steps."""
        low, high = self.studio.editor.bank.range(name)
        ends = math.floor(round(low / STEP, 6)) * STEP, math.ceil(round(high / STEP, 6)) * STEP
        label = name.replace("_", " ")
        return gr.Slider(*ends, 0, step=STEP, label=label, elem_id=f"edit_{name}", buttons=["reset"], min_width=180)

    def _pictures(self) -> None:
        self.status = gr.HTML(DROP, elem_id="status")
        self.compare = gr.ImageSlider(
            label="Before and after", interactive=False, max_height=760, buttons=["fullscreen"], elem_id="compare"
        )
        self.small: dict[str, gr.Image] = {}
        with gr.Row(elem_id="views"):
            for name in VIEWS:
                self.small[name] = gr.Image(
                    label=name, alt_text=name, interactive=False, buttons=["fullscreen"], elem_id=f"view_{name}"
                )

    def _events(self) -> None:
        inputs = [self.session, self.face, self.quality, *self.sliders.values(), *self.mask.values()]
        shown = [self.session, self.status, self.compare, *self.small.values()]
        quiet: Any = {"api_visibility": "private", "concurrency_id": "editor", "concurrency_limit": 1}
        opened = [*shown, self.upload, self.choice, self.boxes, self.face, self.brush.canvas]
        sliders = [*self.sliders.values(), *self.mask.values()]
        self.upload.upload(self._open, [self.upload, self.aligned, *inputs], opened, **quiet)
        self.face.input(self._turn, inputs, [*shown, self.brush.canvas], **quiet)
        gr.on(
            [*(slider.release for slider in sliders), self.quality.input],
            self._show,
            inputs,
            shown,
            trigger_mode="always_last",
            **quiet,
        )
        zero = self.reset.click(lambda: [0] * len(self.sliders), None, list(self.sliders.values()), **quiet)
        zero.then(self._show, inputs, shown, **quiet)
        self.back.click(self._undo, inputs, [*shown, *sliders], **quiet)
        self.brush.on_use(self._draw, inputs, shown, **quiet)
        self.brush.drop.click(self._turn, inputs, [*shown, self.brush.canvas], **quiet)
        kinds = [self.aligned, self.downloads.what, self.downloads.form]
        self.batch.connect(self.status, [*kinds, *inputs], lambda _, __, *v: self._controls(0, v[0], v[1:]), **quiet)
        for name, auto in self.autos.items():
            auto.click(self._auto(name), inputs, [*shown, self.sliders[name]], **quiet)
        self.downloads.connect(self.brush.save, inputs, self._controls, **quiet)
        self.blocks.load(None, js=JS)

    def _open(
        self,
        upload: str | None,
        aligned: bool,
        _: Session | None,
        face: int,
        quality: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
        *numbers: float,
    ) -> Iterator[dict[Any, Any]]:
        """Read a photo, show its first face, then edit that; the uploaded file is deleted as soon as it was read."""
        if upload is None:
            return
        progress(0.1, desc="looking for faces")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                session = self.studio.open(Path(upload), aligned)
                crop = self.studio.crop(session, 0)
        except UserError as error:
            gr.Warning(html.escape(str(error)), duration=15)
            yield {self.upload: None, self.status: trouble(error)}
            return
        finally:
            Path(upload).unlink(missing_ok=True)
        for note in caught:
            gr.Info(html.escape(str(note.message)))
        several = len(session.faces) > 1
        yield {
            self.session: session,
            self.upload: None,
            self.status: "Inverting the photo ...",
            self.choice: gr.Group(visible=several),
            self.boxes: numbered(session) if several else None,
            self.face: gr.Radio(choices=[(str(i), i) for i in range(len(session.faces) or 1)], value=0),
            self.compare: (crop, crop),
            self.brush.canvas: canvas(self.studio.face(session, 0)),
        }
        yield self._show(session, 0, quality, progress, *numbers)

    def _turn(self, session: Session | None, face: int, quality: str | None, *numbers: float) -> dict[Any, Any]:
        """Show a face with nothing drawn on it."""
        if session is None:
            return {self.status: DROP}
        session.own = None
        shown = self._show(session, face, quality, gr.Progress(), *numbers)
        return {**shown, self.brush.canvas: canvas(self.studio.face(session, face))}

    def _draw(
        self, painting: str, mode: str, session: Session | None, face: int, quality: str | None, *numbers: float
    ) -> dict[Any, Any]:
        """Edit within what is painted."""
        if session is None:
            return {self.status: DROP}
        try:
            session.own = self.studio.drawn(session, face, painted(painting), mode)
        except UserError as error:
            return {self.status: trouble(error)}
        return self._show(session, face, quality, gr.Progress(), *numbers)

    def _undo(self, session: Session | None, face: int, quality: str | None, *_: float) -> dict[Any, Any]:
        """Take back the last change of a slider."""
        numbers = session.undo() if session else None
        if numbers is None:
            return {self.status: "Nothing to undo." if session else DROP}
        sliders = (*self.sliders.values(), *self.mask.values())
        return {
            **self._show(session, face, quality, gr.Progress(), *numbers),
            **dict(zip(sliders, numbers, strict=True)),
        }

    def _controls(self, face: int, quality: str | None, numbers: Sequence[float]) -> Controls:
        strengths = dict(zip(self.sliders, numbers, strict=False))
        mask = dict(zip(self.mask, numbers[len(strengths) :], strict=True))
        return Controls(int(face), strengths, mask, quality or "")

    def _show(
        self,
        session: Session | None,
        face: int,
        quality: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
        *numbers: float,
    ) -> dict[Any, Any]:
        """Edit as the controls say, and show every step."""
        if session is None:
            return {self.status: DROP}
        start = time.perf_counter()
        session.record(numbers)
        try:
            edit = self.studio.edit(session, self._controls(face, quality, numbers))
            for done, name in enumerate(VIEWS):
                progress((done, len(VIEWS)), desc=name)
                edit.picture(name)
            files = self.studio.views(edit)
        except UserError as error:
            return {self.status: trouble(error)}
        label = edit.label if any(edit.edits.values()) else "no edit yet: move a slider"
        if session.own and any(edit.edits.values()):
            label += ", within my own mask" if session.own.mode == "multiply" else ", my own mask"
        return {
            self.session: session,  # set again, so that it is kept for longer
            self.status: f"{html.escape(label)} <small>({time.perf_counter() - start:.1f} s)</small>",
            self.compare: (files["photo"], files["result"]),
            **{self.small[name]: files[name] for name in VIEWS},
        }

    def _auto(self, name: str) -> Callable[..., dict[Any, Any]]:
        def choose(
            session: Session | None,
            face: int,
            quality: str | None,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
            *numbers: float,
        ) -> dict[Any, Any]:
            """Move the slider to where the face shows as much as asked for, and show the edit."""
            if session is None:
                return {self.status: DROP}
            progress(0, desc=f"seeking the strength of {name}")
            try:
                choice = self.studio.choose(session, self._controls(face, quality, numbers), name)
            except UserError as error:
                return {self.status: trouble(error)}
            strength, moved = round(round(choice.strength / STEP) * STEP, 6), list(numbers)
            moved[list(self.sliders).index(name)] = strength
            shown = self._show(session, face, quality, progress, *moved)
            shown[self.status] += f"<br><small>{html.escape(f'auto {name} {choice}')}</small>"
            return {**shown, self.sliders[name]: strength}

        return choose
