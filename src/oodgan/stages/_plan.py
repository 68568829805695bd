"""The plan of an `oodgan edit` command: edits, images to save, and their file names."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from oodgan.command.words import typed_keys
from oodgan.data.images import FORMATS
from oodgan.editing import ask
from oodgan.editing.edit import strength_text
from oodgan.editing.own_mask import MODES
from oodgan.editing.strength import Target, parse
from oodgan.errors import UserError, nearest, unknown
from oodgan.files import below, hash_of
from oodgan.stages._ledger import SAVED
from oodgan.stages._photos import Job

Numbers = Sequence[int | None]
"""How the faces of a photo are told apart in file names: [None], not at all, when there is one."""


@dataclass(frozen=True)
class Plan:
    """A checked request: output folder, edits (several for lists of strengths) and images to save, the main one first.

    `window` is the number of frames over which landmarks are smoothed, 0 for photos that are not frames, and `steady`
    that over which inversions are.
    """

    output: Path
    edits: list[dict[str, Any]]
    lists: dict[str, list[float]]
    save: tuple[str, ...]
    format: str
    quality: int
    aligned: bool
    face: str
    replace: bool
    window: int = 0
    mask: Path | None = None
    mask_mode: str = MODES[0]
    steady: int = 1

    @classmethod
    def of(cls, cfg: DictConfig) -> Plan:
        """Check the stage's own keys. Raises UserError for the first invalid one."""
        wanted = edits_of(cfg)
        lists = {name: value for name, value in wanted.items() if isinstance(value, list)}
        choices = [value if isinstance(value, list) else [value] for value in wanted.values()]
        combos = [dict(zip(wanted, strengths, strict=True)) for strengths in itertools.product(*choices)]
        window, steady = _window(cfg)
        more = [cfg.save] if isinstance(cfg.save, str) else cfg.save or []
        save = dict.fromkeys(["pasted" if window else "result", *map(str, more)])
        for name in save:
            if name not in SAVED:
                raise unknown("image to save", name, SAVED)
        if cfg.format not in FORMATS:
            raise UserError(f"format={cfg.format}{nearest(str(cfg.format), FORMATS)}: png, jpg or webp expected")
        if str(cfg.face) not in ("largest", "all") and not str(cfg.face).isdecimal():
            raise UserError(f"face={cfg.face}: largest, all, or a number from 0 expected")
        if isinstance(cfg.quality, bool) or not isinstance(cfg.quality, int) or not 1 <= cfg.quality <= 100:
            raise UserError(f"quality={cfg.quality}: 1 to 100 expected")
        return cls(
            Path(str(cfg.output)).expanduser(), combos, lists, tuple(save), str(cfg.format), int(cfg.quality),
            bool(cfg.aligned), str(cfg.face), bool(cfg.get("replace", False)), window, *_mask(cfg), steady,
        )  # fmt: skip

    @property
    def grid(self) -> bool:
        return bool(self.lists)

    @property
    def decisive(self) -> dict[str, Any]:
        """Return the settings that results depend on, besides edits and parts."""
        own = {} if self.mask is None else {"mask": hash_of(self.mask), "mask_mode": self.mask_mode}
        steady = {"steady": self.steady} if self.steady > 1 else {}
        return own | ({"frames": self.window, **steady} if self.window else {})

    @property
    def own(self) -> dict[str, Any]:
        """The keywords of `Editor.edit` for the user's own mask."""
        return {} if self.mask is None else {"mask": self.mask, "mask_mode": self.mask_mode}

    def file(self, kind: str, job: Job, face: int | None = None, edits: Mapping[str, Any] | None = None) -> Path:
        """Return the path of an image: `<output>/<kind>/<name>[_face<i>][_<strengths>].<format>`."""
        ending = "" if face is None else f"_face{face}"
        if edits is not None and self.grid:
            ending += "_" + "_".join(f"{key}{strength_text(edits[key])}" for key in self.lists)
        return below(self.output / kind, job.name, f"{ending}.{self.format}")

    def files(self, job: Job, numbers: Numbers) -> list[Path]:
        """Return the paths of all images of a photo with these faces."""
        files = []
        for face in numbers:
            files += [self.file(k, job, face, e) for k in self.save if k != "pasted" for e in self.edits]
            files += [self.file("grid", job, face)] if self.grid else []
        return files + [self.file("pasted", job, None, e) for e in self.edits if "pasted" in self.save]


def numbers_of(entry: Mapping[str, Any]) -> Numbers:
    """Return the face numbers in a photo's record; a single face if there is no record yet."""
    if "tracks" in entry:
        return list(entry["tracks"])
    faces = int(entry.get("faces", 1))
    return [None] if faces == 1 else list(range(faces))


def inputs_of(cfg: DictConfig) -> list[str]:
    """Return the given photos, folders and globs. Raises UserError if there are none."""
    if OmegaConf.is_missing(cfg, "input") or cfg.input in (None, "") or cfg.input == []:
        raise UserError("which photo? for example: oodgan edit photo.jpg 'edits={smile: 1.0}' output=edited")
    return [str(cfg.input)] if isinstance(cfg.input, str | int | float) else [str(item) for item in cfg.input]


def apply_ask(cfg: DictConfig) -> DictConfig:
    """Return the configuration with the edits of the text `ask`, which are printed; unchanged without one."""
    if not cfg.get("ask"):
        return cfg
    if "edits" in {key.partition(".")[0] for key in typed_keys()}:
        raise UserError("edits and ask: give one of them")
    with_edits = cfg.copy()
    with_edits.edits = ask.parse(str(cfg.ask))
    edits = ", ".join(f"{name}: {strength:g}" for name, strength in with_edits.edits.items())
    print(f"{cfg.ask!r}: edits={{{edits}}}", file=sys.stderr, flush=True)
    return with_edits


def edits_of(cfg: DictConfig) -> dict[str, float | str | list[float]]:
    """Return {attribute: strength, list of strengths, `auto` or a change (`+1sd`)}. Raises UserError for others."""
    if OmegaConf.is_missing(cfg, "edits") or not isinstance(cfg.edits, DictConfig) or not cfg.edits:
        raise UserError("which edit? for example: 'edits={smile: 1.0}', or 'edits={age: [-1, 0, 1]}' for a grid")
    plain = OmegaConf.to_container(cfg.edits, resolve=True)
    assert isinstance(plain, dict)
    return {str(name): _strength(str(name), value) for name, value in plain.items()}


def _strength(name: str, value: Any) -> Any:
    if isinstance(value, list):
        if not value:
            raise UserError(f"edits.{name}=[] has no strength; for example {name}: [-1, 0, 1]")
        text = next((item for item in value if isinstance(item, str)), None)
        if text is not None:
            raise UserError(
                f"edits.{name}: {text!r} in a list of strengths, which are numbers; for one strength: {name}: {text}"
            )
        return list(dict.fromkeys(_strength(name, item) for item in value))
    strength = parse(name, value)
    return str(strength) if isinstance(strength, Target) else strength


def _mask(cfg: DictConfig) -> tuple[Path | None, str]:
    mode = str(cfg.get("mask_mode", MODES[0]))
    if mode not in MODES:
        raise unknown("mask_mode", mode, MODES)
    path = Path(str(cfg.mask)).expanduser() if cfg.get("mask") else None
    if path is not None and not path.is_file():
        raise UserError(f"mask={path}: there is no such file; a picture of the photo's size, white where it may change")
    return path, mode


def _window(cfg: DictConfig) -> tuple[int, int]:
    """Return the numbers of frames over which landmarks and inversions are smoothed; (0, 1) for photos."""
    if not cfg.get("frames"):
        return 0, 1
    if cfg.aligned:
        raise UserError("frames=true aligns the frames itself: leave aligned=true out, or frames=true for crops")
    return _frames(cfg, "window", 9), _frames(cfg, "steady", 1)


def _frames(cfg: DictConfig, key: str, default: int) -> int:
    count = cfg.get(key, default)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"{key}={count}: a whole number of frames from 1 (1: not smoothed) expected")
    return count
