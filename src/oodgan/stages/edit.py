"""Edit photos: oodgan edit PHOTO_OR_FOLDER 'edits={smile: 1.0}' output=DIR

Detects and aligns faces, edits them, and writes DIR/result/<photo>.png; save=[pasted,mask,...] writes more images.

    oodgan edit photo.jpg 'edits={smile: 1.0}' output=edited
    oodgan edit photo.jpg --ask 'a slight smile and glasses'                            the edit in words
    oodgan edit photo.jpg 'edits={smile: auto, age: -1sd}'                              automatic strengths
    oodgan edit shots/ 'edits={eyeglasses: 1, age: -0.5}' save=[pasted] format=jpg      a folder, two attributes
    oodgan edit 'shots/*.webp' 'edits={age: [-1, 0, 1]}'                                a grid of strengths
    oodgan edit group.jpg 'edits={smile: 1}' face=all save=[pasted]                     every face of a photo
    oodgan edit crops/ 'edits={smile: 1}' aligned=true                                  FFHQ-style crops
    oodgan edit photo.jpg 'edits={smile: 1}' mask=where.png                             only where a picture is white
    oodgan edit frames/ 'edits={smile: 1}' frames=true                                  ordered frames of a video
    oodgan edit clip.mp4 'edits={smile: 1}'                                             a video, with its sound
    oodgan edit photo.jpg settings=photo_settings.yaml                                  as set in `oodgan serve`

Finished photos are skipped when the same command runs again. Results made with other settings are overwritten only
with replace=true. The exit code is 1 when some of many photos failed, 2 for a mistake in the command.

`auto` asks for the change that strength 1 makes on samples, `+1sd` for one standard deviation of the attribute. The
strength is searched on small previews, within the direction's useful range and above the identity `search.identity`,
and recorded in edits.json.

frames=true edits the frames of a video in natural order (frame2 before frame10). The face is tracked and its position
smoothed over `window` frames, its codes and residuals over `steady` frames. Whole frames are written as
DIR/pasted/<frame>.png; frames without the face are copied unchanged. A clip (mp4, mov, mkv, webm, animated gif) is
decoded to DIR/frames, edited in this way, and written as DIR/<clip> with its timing and sound.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from oodgan.editing import settings
from oodgan.errors import UserError
from oodgan.files import full, hash_of, sweep
from oodgan.stages._frames import SmoothInversions, clip_of, encode_clip, natural, place
from oodgan.stages._ledger import KINDS, Ledger
from oodgan.stages._photos import Job, find
from oodgan.stages._plan import Numbers, Plan, apply_ask, edits_of, inputs_of, numbers_of

if TYPE_CHECKING:
    from PIL import Image

    from oodgan.data.images import Photo
    from oodgan.editing import Editor
    from oodgan.editing.edit import Edit

READS = (
    "generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "parser", "search",
    "identity",
)  # fmt: skip
POSITIONAL = ("*input",)
RECOVERABLE = (UserError, RuntimeError, ValueError, OSError)  # errors of one photo, which do not stop the run
LISTED = 60  # further photos are only counted, except failures


def run(cfg: DictConfig) -> dict[str, Any]:
    """Edit the photos of `cfg.input`. Returns counts of edited, skipped and failed photos, and the exit code."""
    cfg = apply_ask(settings.read(cfg))
    inputs = inputs_of(cfg)
    clip = clip_of(inputs)
    if clip:
        cfg.frames = True
    plan = Plan.of(cfg)
    if clip:
        from oodgan.data import video

        _print(f"decoding {clip}")
        inputs = [str(video.decode(clip, plan.output / "frames" / clip.stem))]
    listing = find(inputs, plan.output)
    for note in listing.notes:
        _print(f"note: {note}")
    jobs = natural(listing.photos) if plan.window else listing.photos
    _spare_photos(jobs, plan)
    ledger = Ledger.open(plan.output)
    sweep(plan.output, deep=False)
    for kind in KINDS:
        sweep(plan.output / kind)
    settings_hash = ledger.use({**settings.decisive(cfg, edits_of(cfg)), **plan.decisive})
    todo = [job for job in jobs if not _finished(job, plan, ledger, settings_hash)]
    failed: dict[str, str] = {}
    if todo:
        from oodgan.editing import Editor

        editor = Editor.from_config(cfg)
        for edits in plan.edits:
            editor.checked(edits)
        failed = _Run(editor, plan, ledger, settings_hash, jobs).over(todo)
    _summarise(jobs, todo, failed, ledger, plan)
    if clip and not failed:
        encode_clip(clip, jobs, plan, _print)
    done, skipped = len(todo) - len(failed), len(jobs) - len(todo)
    return {"exit_code": int(bool(failed)), "photos": done, "skipped": skipped, "failures": failed}


def _finished(job: Job, plan: Plan, ledger: Ledger, settings_hash: str) -> bool:
    targets, source = plan.files(job, numbers_of(ledger.photos.get(job.name, {}))), _hash(job.path)
    if plan.replace:
        return False
    ledger.refuse(job.name, settings_hash, source, targets)
    return ledger.finished(job.name, settings_hash, source, targets)


def _spare_photos(jobs: Sequence[Job], plan: Plan) -> None:
    """Raise UserError if an image would overwrite one of the photos, even with `replace`."""
    folders = {(plan.output / kind).resolve() for kind in KINDS}
    photos = {path for job in jobs if not folders.isdisjoint((path := job.path.resolve()).parents)}
    for job in jobs if photos else ():
        for file in plan.files(job, [None]):
            if file.resolve() in photos:
                raise UserError(f"the result of {job.path} would overwrite {file}: choose another output folder")


def _hash(path: Path) -> str:
    """Return the photo's hash; "" for an unreadable file, whose edit fails later."""
    try:
        return hash_of(path)
    except (OSError, UserError):
        return ""


class _Run:
    """Edits photos that are not finished: each is edited, written and recorded before the next."""

    def __init__(self, editor: Editor, plan: Plan, ledger: Ledger, settings_hash: str, jobs: Sequence[Job]) -> None:
        self.editor, self.plan, self.ledger, self.settings_hash = editor, plan, ledger, settings_hash
        self.alone = len(jobs) == 1
        self.faces = place(jobs, plan.face, plan.window, _print) if plan.window else {}
        self.smooth = SmoothInversions(editor, jobs, self.faces, plan.steady)
        self.searches: list[dict[str, Any]] = []
        self.edits = [self._fixed(edits) for edits in plan.edits] if plan.window else plan.edits
        self.several = len({number for faces in self.faces.values() for number in faces}) > 1
        self.noted: set[str] = set()

    def _fixed(self, edits: Mapping[str, float | str]) -> Mapping[str, float | str]:
        """Return one strength for all frames: a requested change is searched on the middle frame with a face."""
        if not any(isinstance(strength, str) for strength in edits.values()):
            return edits
        shown = [path for path, faces in self.faces.items() if faces]
        path = shown[len(shown) // 2]
        edit = self.editor.edit(path, edits, face=next(iter(self.faces[path].values())))
        self.searches.append({**_search_record(edit, 0), "frame": path.name})
        _print(f"strengths of all frames, chosen on {path.name}: {_choices(edit)}")
        return edit.edits

    def over(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Edit the photos. Returns {path: reason} of failures."""
        failed: dict[str, str] = {}
        for number, job in enumerate(jobs, 1):
            _print(f"[{number}/{len(jobs)}] {job.path}")
            try:
                self._edit(job)
            except RECOVERABLE as error:
                if full(error) or isinstance(error, BrokenPipeError):
                    raise
                reason = " ".join(str(error).split()) or type(error).__name__
                self.ledger.fail(job.path, reason)
                if self.alone and isinstance(error, UserError):
                    raise
                failed[str(job.path)] = reason
                _print(f"  failed: {reason}")
            self.editor.subjects.forget()
        return failed

    def _edit(self, job: Job) -> None:
        from oodgan.data.images import open_photo

        plan, ledger = self.plan, self.ledger
        entry: dict[str, Any] = {"photo": str(job.path), "sha256": _hash(job.path), "settings": self.settings_hash}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            photo = open_photo(job.path)
            every = [self._edits(photo, edits, job.path) for edits in self.edits]
            entry["faces"] = len(every[0])
            if plan.window:
                entry["tracks"] = list(self.faces[job.path]) if self.several else [None] * len(every[0])
            numbers = numbers_of(entry)
            searches = self.searches or [
                _search_record(edit, face) for edits in every for face, edit in enumerate(edits) if edit.chosen
            ]
            if searches:
                entry["sought"] = searches
            if searches and not self.searches:
                _print("  " + "; ".join(_choices(edit) for edits in every for edit in edits if edit.chosen))
            ledger.claim(job.name, plan.files(job, numbers), plan.replace, **entry)
            seconds = _write(every, photo, job, plan, numbers)
        notes = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
        self._note(notes)
        ledger.note(job.name, **entry, seconds=seconds, notes=notes)

    def _edits(self, photo: Photo, edits: Mapping[str, float | str], path: Path) -> list[Edit]:
        if not self.plan.window:
            return self.editor.edit([photo], edits, aligned=self.plan.aligned, face=self.plan.face, **self.plan.own)
        every = []
        for track, face in self.faces[path].items():
            every.append(self.editor.edit(photo, edits, face=face, **self.plan.own))
            self.smooth.apply(every[-1].subject, path, track)
        return every

    def _note(self, notes: Sequence[str]) -> None:
        """Print notes; for frames, each kind of note only once."""
        for note in notes:
            kind = "".join(letter for letter in note if not letter.isdigit())
            if not (self.plan.window and kind in self.noted):
                _print(f"  note: {note}")
            self.noted.add(kind)


def _search_record(edit: Edit, face: int) -> dict[str, Any]:
    """Return the record of searched strengths."""
    chosen = {name: choice.as_dict() for name, choice in edit.chosen.items()}
    return {"face": face, "edits": edit.edits, "chosen": chosen}


def _choices(edit: Edit) -> str:
    return ", ".join(f"{name} {choice}" for name, choice in edit.chosen.items())


def _write(every: Sequence[Sequence[Edit]], source: Photo, job: Job, plan: Plan, numbers: Numbers) -> dict[str, float]:
    """Compute and write all images of one photo. Returns the seconds of each step over all faces and edits."""
    from oodgan.data.images import write_image
    from oodgan.editing.edit import paste

    def write(picture: Image.Image, path: Path, kind: str) -> None:
        icc = None if kind == "mask" else source.icc
        write_image(picture, path, exif=source.exif, icc=icc, quality=plan.quality)

    cells: dict[int | None, list[Any]] = {face: [] for face in numbers}
    seconds: dict[str, float] = {}
    for strengths, edits in zip(plan.edits, every, strict=True):
        for face, edit in zip(cells, edits, strict=True):
            for kind in plan.save:
                if kind != "pasted":
                    write(edit.picture(kind), plan.file(kind, job, face, strengths), kind)
            cells[face] += [edit.result] if plan.grid else []
        if "pasted" in plan.save:
            whole = paste(edits) if edits else source.image
            write(whole, plan.file("pasted", job, None, strengths), "pasted")
        for edit in edits:
            for step, spent in edit.seconds.items():
                seconds[step] = round(seconds.get(step, 0.0) + spent, 3)
    for face, pictures in cells.items():
        if plan.grid:
            write(_grid(pictures, plan), plan.file("grid", job, face), "grid")
    return seconds


def _grid(pictures: Sequence[Any], plan: Plan) -> Any:
    """Return a grid: columns by the last list of strengths, rows by the others."""
    from oodgan.editing.edit import strength_text
    from oodgan.tracking.sheet import sheet

    *others, last = plan.lists
    across = len(plan.lists[last])
    rows = [list(pictures[i : i + across]) for i in range(0, len(pictures), across)]
    titles = [", ".join(f"{name} {strength_text(edits[name])}" for name in others) for edits in plan.edits[::across]]
    columns = [f"{last} {strength_text(strength)}" for strength in plan.lists[last]]
    return sheet(rows, columns, titles if others else (), size=384)


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _summarise(jobs: Sequence[Job], todo: Sequence[Job], failed: Mapping[str, str], ledger: Ledger, plan: Plan) -> None:
    from rich.table import Table

    from oodgan.reporting.terminal import console

    table = Table("photo", "faces", "seconds", "result", title=None)
    for job in jobs:
        entry = ledger.photos.get(job.name, {})
        if str(job.path) in failed:
            table.add_row(str(job.path), "", "", f"failed: {failed[str(job.path)]}")
        elif len(jobs) <= LISTED:
            spent = f"{sum(entry.get('seconds', {}).values()):.1f}" if job in todo else "done before"
            table.add_row(str(job.path), str(entry["faces"]), spent, str(_main(job, plan, entry)))
    if table.row_count:
        console().print(table)
    done = len(todo) - len(failed)
    console().print(f"{done} edited, {len(jobs) - len(todo)} skipped as finished, {len(failed)} failed; see "
                    f"{plan.output / 'edits.json'}", soft_wrap=True)  # fmt: skip


def _main(job: Job, plan: Plan, entry: Mapping[str, Any]) -> Path:
    """Return the main image."""
    kind, numbers = plan.save[0], numbers_of(entry)
    if kind == "pasted" and not plan.grid:
        return plan.file(kind, job)
    return plan.file("grid" if plan.grid else kind, job, numbers[0] if numbers else None)
