"""The part of the page that saves the picture, the settings and the own mask."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from oodgan.app.looks import CROP, DROP, KINDS, WHOLE
from oodgan.app.session import Controls, Session
from oodgan.app.studio import Studio
from oodgan.data.images import FORMATS
from oodgan.errors import UserError

_HELP = """\
`oodgan edit PHOTO settings=FILE` repeats the edit from the settings file, pixel by pixel. \
A mask of your own must lie beside it: save it, too."""

Read = Callable[[int, "str | None", Sequence[float]], Controls]
"""(face, quality, numbers of the sliders) -> the page's controls."""


class Downloads:
    """Choice of kind and format, and buttons; made inside of the page's blocks."""

    def __init__(self, studio: Studio, form: str) -> None:
        self.studio = studio
        with gr.Row(equal_height=True):
            self.what = gr.Radio([WHOLE, CROP], value=WHOLE, label="Download", scale=3)
            self.form = gr.Dropdown(list(FORMATS), value=form, label="Format", min_width=110, scale=1)
            with gr.Column(scale=2, min_width=160):
                self.make_picture = gr.Button("Save picture", variant="primary", size="md", elem_id="make_picture")
                self.make_settings = gr.Button("Save settings", size="md", elem_id="make_settings")
        # A download button serves the file set before the click, so hidden buttons are clicked after the file is made.
        self.picture_file = gr.DownloadButton(visible="hidden", elem_id="picture_file")
        self.settings_file = gr.DownloadButton(visible="hidden", elem_id="settings_file")
        self.mask_file = gr.DownloadButton(visible="hidden", elem_id="mask_file")
        gr.Markdown(_HELP)

    def connect(self, save_mask: gr.Button, inputs: list[Any], read: Read, **how: Any) -> None:
        """Write and download a file at a click. `inputs` are session, face, quality, and the numbers of `read`."""
        for button, holder, write in (
            (self.make_picture, self.picture_file, self.studio.picture),
            (self.make_settings, self.settings_file, self.studio.settings),
            (save_mask, self.mask_file, self.studio.mask_file),
        ):
            made = button.click(_maker(write, read), [*inputs, self.what, self.form], holder, **how)
            made.success(None, js=f"() => setTimeout(() => document.querySelector('#{holder.elem_id}').click(), 100)")


def _maker(write: Callable[[Session, Controls, str, str], str], read: Read) -> Callable[..., str]:
    def make(session: Session | None, face: int, quality: str | None, *values: Any) -> str:
        *numbers, what, form = values
        if session is None:
            raise gr.Error(DROP, print_exception=False)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                file = write(session, read(face, quality, numbers), KINDS[what], form)
        except UserError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        for note in caught:
            gr.Info(html.escape(str(note.message)))
        return file

    return make
