"""Edit photos: oodgan edit PHOTO_OR_FOLDER 'edits={smile: 1.0}' output=DIR

The faces are found, edited and written as DIR/result/<photo>.png; save=[pasted,mask,...] writes more beside it.

    oodgan edit photo.jpg 'edits={smile: 1.0}' output=edited
    oodgan edit shots/ 'edits={eyeglasses: 1, age: -0.5}' save=[pasted] format=jpg      a folder, two attributes
    oodgan edit 'shots/*.webp' 'edits={age: [-1, 0, 1]}'                                a grid of strengths
    oodgan edit group.jpg 'edits={smile: 1}' face=all save=[pasted]                     every face of a photo
    oodgan edit crops/ 'edits={smile: 1}' aligned=true                                  FFHQ-style crops

Finished photos are skipped when the same command runs again; results of other settings are never written over unless
replace=true says so. The exit code is 1 when some of many photos failed.
"""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from oodgan.errors import UserError, nearest, unknown
from oodgan.stages._ledger import Ledger
from oodgan.stages._photos import Job, find

if TYPE_CHECKING:
    from PIL import Image

    from oodgan.editing import Edit, Editor

POSITIONAL = ("*input",)
FORMATS = ("png", "jpg", "webp")
SAVED = ("result", "pasted", "photo", "inverted", "edited", "mask", "coarse")
PARTS = ("generator", "inverter", "directions", "diffcam", "compose", "deghoster")
RECOVERABLE = (UserError, RuntimeError, ValueError, OSError)  # one photo's trouble, not the whole run's


def run(cfg: DictConfig) -> dict[str, Any]:
    """Edit the photos of `cfg.input`; gives counts of photos done, skipped and failed, and the exit code."""
    inputs, plan = _inputs(cfg), Plan.of(cfg)
    jobs = find(inputs, plan.output)
    ledger = Ledger.open(plan.output)
    mark = ledger.use(_settings(cfg))
    todo = [job for job in jobs if not _finished(job, plan, ledger, mark)]
    skipped = len(jobs) - len(todo)
    failed: dict[str, str] = {}
    if todo:
        from oodgan.editing import Editor

        editor = Editor.from_config(cfg)
        for edits in plan.edits:
            editor.checked(edits)
        failed = _edit_all(editor, todo, plan, ledger, mark, alone=len(jobs) == 1)
    _summarise(jobs, todo, failed, ledger, plan)
    done = len(todo) - len(failed)
    return {"exit_code": int(bool(failed)), "photos": done, "skipped": skipped, "failures": failed}


@dataclass(frozen=True)
class Plan:
    """A checked request: where to, which edits (several for strength lists) and what to save."""

    output: Path
    edits: list[dict[str, float]]
    lists: dict[str, list[float]]
    save: tuple[str, ...]
    format: str
    quality: int
    aligned: bool
    face: str
    replace: bool

    @classmethod
    def of(cls, cfg: DictConfig) -> Plan:
        """Check the stage's own keys; raises UserError for the first wrong one."""
        wanted = _edits(cfg)
        lists = {name: value for name, value in wanted.items() if isinstance(value, list)}
        choices = [value if isinstance(value, list) else [value] for value in wanted.values()]
        combos = [dict(zip(wanted, strengths, strict=True)) for strengths in itertools.product(*choices)]
        save = dict.fromkeys(["result", *([cfg.save] if isinstance(cfg.save, str) else cfg.save or [])])
        for name in save:
            if name not in SAVED:
                raise unknown("image to save", name, SAVED)
        if cfg.format not in FORMATS:
            raise UserError(f"format={cfg.format}{nearest(cfg.format, FORMATS)}: png, jpg or webp expected")
        if not 1 <= int(cfg.quality) <= 100:
            raise UserError(f"quality={cfg.quality}: 1 to 100 expected")
        return cls(
            Path(str(cfg.output)).expanduser(), combos, lists, tuple(save), str(cfg.format), int(cfg.quality),
            bool(cfg.aligned), str(cfg.face), bool(cfg.get("replace", False)),
        )  # fmt: skip

    @property
    def grid(self) -> bool:
        return bool(self.lists)

    def file(self, kind: str, job: Job, face: int | None = None, edits: Mapping[str, float] | None = None) -> Path:
        """Where a picture goes: `<output>/<kind>/<name>[_face<i>][_<strengths>].<format>`."""
        name = job.name + ("" if face is None else f"_face{face}")
        if edits is not None and self.grid:
            name += "_" + "_".join(f"{key}{edits[key]:+g}" for key in self.lists)
        return self.output / kind / f"{name}.{self.format}"

    def files(self, job: Job, faces: int) -> list[Path]:
        """All pictures that a photo with so many faces gives."""
        found = []
        for face in _numbers(faces):
            found += [self.file(k, job, face, e) for k in self.save if k != "pasted" for e in self.edits]
            found += [self.file("grid", job, face)] if self.grid else []
        return found + [self.file("pasted", job, None, e) for e in self.edits if "pasted" in self.save]


def _inputs(cfg: DictConfig) -> list[str]:
    if OmegaConf.is_missing(cfg, "input") or not cfg.input:
        raise UserError("which photo? for example: oodgan edit photo.jpg 'edits={smile: 1.0}' output=edited")
    return [str(cfg.input)] if isinstance(cfg.input, str | int | float) else [str(item) for item in cfg.input]


def _edits(cfg: DictConfig) -> dict[str, float | list[float]]:
    if OmegaConf.is_missing(cfg, "edits") or not isinstance(cfg.edits, DictConfig) or not cfg.edits:
        raise UserError("which edit? for example: 'edits={smile: 1.0}', or 'edits={age: [-1, 0, 1]}' for a grid")
    plain = OmegaConf.to_container(cfg.edits, resolve=True)
    assert isinstance(plain, dict)
    return {str(name): _strength(str(name), value) for name, value in plain.items()}


def _strength(name: str, value: Any) -> Any:
    if isinstance(value, list):
        if not value:
            raise UserError(f"edits.{name}=[] has no strength; for example {name}: [-1, 0, 1]")
        return list(dict.fromkeys(_strength(name, item) for item in value))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"strength {value!r} of {name!r} is not a finite number, for example {name}: 1.0")
    return float(value)


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """What decides the pixels: the edit, how faces are chosen, and the parts with their weights."""
    from oodgan.tracking.artifacts import plain

    parts = {name: plain(cfg.get(name)) for name in PARTS}
    for part in parts.values():
        if isinstance(part, dict):
            part.pop("fit", None)
            if part.get("weights"):
                part["weights_sha256"] = _weights_mark(str(part["weights"]))
    return {"edits": _edits(cfg), "aligned": bool(cfg.aligned), "face": str(cfg.face), **parts}


def _weights_mark(source: str) -> str:
    from oodgan.tracking.artifacts import digest
    from oodgan.weights import trained
    from oodgan.weights.registry import REGISTRY

    return REGISTRY[source].sha256 if source in REGISTRY else digest(trained.locate(source))


def _finished(job: Job, plan: Plan, ledger: Ledger, mark: str) -> bool:
    from oodgan.tracking.artifacts import digest

    entry = ledger.photos.get(job.name, {})
    targets, source = plan.files(job, int(entry.get("faces", 1))), digest(job.path)
    if plan.replace:
        return False
    ledger.refuse(job.name, mark, source, targets)
    return ledger.finished(job.name, mark, source, targets)


def _edit_all(
    editor: Editor, jobs: Sequence[Job], plan: Plan, ledger: Ledger, mark: str, alone: bool
) -> dict[str, str]:
    failed: dict[str, str] = {}
    for number, job in enumerate(jobs, 1):
        _say(f"[{number}/{len(jobs)}] {job.path}")
        try:
            _edit_one(editor, job, plan, ledger, mark)
        except RECOVERABLE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            ledger.fail(job.path, reason)
            if alone and isinstance(error, UserError):
                raise
            failed[str(job.path)] = reason
            _say(f"  failed: {reason}")
        editor.subjects.forget()
    return failed


def _edit_one(editor: Editor, job: Job, plan: Plan, ledger: Ledger, mark: str) -> None:
    from oodgan.data.images import open_photo
    from oodgan.tracking.artifacts import digest

    photo = open_photo(job.path)
    entry: dict[str, Any] = {"photo": str(job.path), "sha256": digest(job.path), "settings": mark}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        every = [editor.edit([photo], edits, aligned=plan.aligned, face=plan.face) for edits in plan.edits]
    notes = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
    for note in notes:
        _say(f"  note: {note}")
    faces = len(every[0])
    if faces != int(ledger.photos.get(job.name, {}).get("faces", 1)) and not plan.replace:
        ledger.refuse(job.name, mark, entry["sha256"], plan.files(job, faces))
    ledger.note(job.name, **entry, faces=faces, finished=False)
    seconds = _write(every, job, plan)
    ledger.note(job.name, **entry, faces=faces, seconds=seconds, notes=notes, finished=True)


def _write(every: Sequence[Sequence[Edit]], job: Job, plan: Plan) -> dict[str, float]:
    """Compute and write all pictures of one photo; seconds of each step over faces and edits together."""
    from oodgan.data.images import write_image
    from oodgan.editing import paste

    source = every[0][0].subject.source

    def write(picture: Image.Image, path: Path, kind: str) -> None:
        icc = None if kind == "mask" else source.icc
        write_image(picture, path, exif=source.exif, icc=icc, quality=plan.quality)

    cells: dict[int | None, list[Any]] = {face: [] for face in _numbers(len(every[0]))}
    seconds: dict[str, float] = {}
    for edits in every:
        for face, edit in zip(cells, edits, strict=True):
            for kind in plan.save:
                if kind == "pasted":
                    continue
                write(edit.picture(kind), plan.file(kind, job, face, edit.edits), kind)
            cells[face] += [edit.result] if plan.grid else []
        if "pasted" in plan.save:
            write(paste(edits), plan.file("pasted", job, None, edits[0].edits), "pasted")
        for edit in edits:
            for step, spent in edit.seconds.items():
                seconds[step] = round(seconds.get(step, 0.0) + spent, 3)
    for face, pictures in cells.items():
        if plan.grid:
            write(_grid(pictures, plan), plan.file("grid", job, face), "grid")
    return seconds


def _grid(pictures: Sequence[Any], plan: Plan) -> Any:
    """Columns by the last strength list, rows by the others."""
    from oodgan.tracking.sheet import sheet

    *others, last = plan.lists
    across = len(plan.lists[last])
    rows = [list(pictures[i : i + across]) for i in range(0, len(pictures), across)]
    titles = [", ".join(f"{name} {edits[name]:+g}" for name in others) for edits in plan.edits[::across]]
    return sheet(rows, [f"{last} {strength:+g}" for strength in plan.lists[last]], titles if others else (), size=384)


def _numbers(faces: int) -> list[int | None]:
    """How faces are told apart in file names: not at all when there is one."""
    return [None] if faces == 1 else list(range(faces))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _summarise(jobs: Sequence[Job], todo: Sequence[Job], failed: Mapping[str, str], ledger: Ledger, plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("photo", "faces", "seconds", "result", title=None)
    for job in jobs:
        entry = ledger.photos.get(job.name, {})
        if str(job.path) in failed:
            table.add_row(str(job.path), "", "", f"failed: {failed[str(job.path)]}")
            continue
        spent = f"{sum(entry.get('seconds', {}).values()):.1f}" if job in todo else "done before"
        where = plan.file("grid" if plan.grid else "result", job, _numbers(int(entry["faces"]))[0])
        table.add_row(str(job.path), str(entry["faces"]), spent, str(where))
    console = Console()
    console.print(table)
    done = len(todo) - len(failed)
    console.print(f"{done} edited, {len(jobs) - len(todo)} skipped as finished, {len(failed)} failed; see "
                  f"{plan.output / 'edits.json'}", highlight=False, soft_wrap=True)  # fmt: skip
