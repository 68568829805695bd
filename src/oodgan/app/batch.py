"""The same edit of several photos, and the part of the page that asks for it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from oodgan.app.looks import KINDS, trouble
from oodgan.app.session import Controls
from oodgan.app.studio import Studio
from oodgan.errors import UserError

NAME = "edited.zip"
_HELP = "Makes the edits above on the largest face of each photo. A mask of your own is not used."


@dataclass(frozen=True)
class Done:
    """One photo of a batch: its name, and its result or what went wrong."""

    name: str
    picture: Path | None = None
    error: str = ""


class Batch:
    """Upload, results and buttons; made inside of the page's blocks."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.most = studio, int(studio.cfg.batch)
        with gr.Accordion("Several photos", open=False):
            gr.Markdown(_HELP)
            label = f"Up to {self.most} photos, {studio.cfg.max_upload:g} MB each"
            self.upload = gr.File(label=label, file_count="multiple", height=170, elem_id="photos")
            self.start = gr.Button("Edit all", size="md", elem_id="edit_photos")
            self.results = gr.Gallery(
                label="Results", columns=3, height="auto", visible=False, buttons=["fullscreen"], elem_id="results"
            )
            self.archive = gr.DownloadButton("Save all (zip)", size="md", visible=False, elem_id="save_photos")

    def connect(self, status: gr.HTML, inputs: list[Any], read: Callable[..., Controls], **how: Any) -> None:
        """Start at a click. `inputs` are crop or photo, kind, format, and then what `read` makes controls of."""

        def run(
            uploads: list[str] | None, aligned: bool, what: str, form: str, *values: Any
        ) -> Iterator[dict[Any, Any]]:
            paths = [Path(upload) for upload in uploads or []]
            wrong = "" if paths else "Drop several photos first."
            if len(paths) > self.most:
                wrong = f"{len(paths)} photos: at most {self.most} at once."
            if wrong:
                for path in paths:
                    path.unlink(missing_ok=True)
                yield {status: trouble(wrong), self.upload: None}
                return
            yield {
                status: f"Editing {len(paths)} photos ...",
                self.upload: None,
                self.archive: gr.update(visible=False),
            }
            done: list[Done] = []
            for one in edit_all(self.studio, paths, aligned, read(*values), KINDS[what], form):
                done.append(one)
                yield self._shown(status, done, len(paths))
            pictures = [one.picture for one in done if one.picture]
            if pictures:
                archive = zipped(pictures, self.studio.new_file(NAME))
                yield {self.archive: gr.update(value=str(archive), visible=True)}

        self.start.click(run, [self.upload, *inputs], [status, self.upload, self.results, self.archive], **how)

    def _shown(self, status: gr.HTML, done: Sequence[Done], count: int) -> dict[Any, Any]:
        errors = "".join(f"<br>{trouble(one.error)}" for one in done if one.error)
        pictures = [(str(one.picture), one.name) for one in done if one.picture]
        return {
            status: f"{len(done)} of {count} photos are done.{errors}",
            self.results: gr.update(value=pictures, visible=bool(pictures)),
        }


def edit_all(
    studio: Studio, uploads: Sequence[Path], aligned: bool, controls: Controls, kind: str, form: str
) -> Iterator[Done]:
    """Edit one photo after the other. Each upload is deleted as soon as it was read; a bad one stops nothing.

    Arguments as of `Studio.picture`; of several faces, the largest is edited.
    """
    for path in uploads:
        try:
            session = studio.open(path, aligned)
            path.unlink(missing_ok=True)
            yield Done(path.name, Path(studio.picture(session, controls, kind, form)))
        except UserError as error:
            yield Done(path.name, error=str(error))
        finally:
            path.unlink(missing_ok=True)


def zipped(pictures: Sequence[Path], archive: Path) -> Path:
    """Write the pictures into a zip file; those of one name are numbered."""
    with zipfile.ZipFile(archive, "w") as file:
        for picture in pictures:
            taken, name, number = set(file.namelist()), picture.name, 1
            while name in taken:
                number += 1
                name = f"{picture.stem}_{number}{picture.suffix}"
            file.write(picture, name)
    return archive
