"""Images in WebDataset's tar shards and in LMDB, read in place and in any order."""

from __future__ import annotations

import json
import logging
import os
import tarfile
from pathlib import Path
from typing import Any

from oodgan.data.encoded import LABELS, Encoded, own_members
from oodgan.data.labels import Labels, of_images, parse_labels
from oodgan.data.listing import is_picture, passed_over
from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.remote import local

log = logging.getLogger("oodgan")
MASKS = ("parsing.png", "mask.png", "seg.png")
Place = tuple[int, int, int]  # number of the shard, offset and size of the member


class WebDataset(Encoded):
    """The images in WebDataset's tar shards, read by file offset, so that random order and exact resume work.

    Files whose names are equal up to the first dot form a sample: an image (`.jpg`, `.png`, ...), optionally labels
    (`.cls`: a class, `.json`: {attribute: number}) and a parsing mask (`.parsing.png`, `.mask.png` or `.seg.png`). If
    two shards contain the same name, the shard's name is prepended.

    `path`: a shard, a folder of shards, or a glob. Other arguments and errors are those of `Encoded`; also raises for
    no shards and for compressed ones (`.tar.gz`), which cannot be read in place.
    """

    def __init__(
        self,
        path: str | Path,
        size: int = 256,
        check: bool = True,
        labels: str | Path | None = None,
        parsing: str | Path | None = None,
    ) -> None:
        self.shards = _shards(path)
        self._handle: tuple[int, dict[int, int]] | None = None
        members = [(number, *member) for number, shard in enumerate(self.shards) for member in _members(shard)]
        shards_of: dict[str, set[int]] = {}
        for number, name, _, _ in members:
            shards_of.setdefault(_sample(name)[0], set()).add(number)
        self._places: dict[str, Place] = {}
        masks: dict[str, Place] = {}
        notes: dict[str, tuple[str, Place]] = {}
        image_of: dict[str, str] = {}
        others: list[str] = []
        for number, name, offset, length in members:
            sample, kind = _sample(name)
            sample = sample if len(shards_of[sample]) == 1 else f"{self.shards[number].stem}/{sample}"
            place = (number, offset, length)
            if kind in MASKS:
                masks[sample] = place
            elif kind in ("cls", "json"):
                notes[sample] = (kind, place)
            elif not is_picture(name):
                others.append(name)
            elif sample in image_of:
                raise UserError(f"{self.shards[number]} holds two images of the sample {sample}")
            else:
                image_of[sample] = f"{sample}.{kind}"
                self._places[f"{sample}.{kind}"] = place
        if others:
            log.warning(passed_over(others, str(path)))
        self._mask_places = {image_of[sample]: place for sample, place in masks.items() if sample in image_of}
        own = self._notes({image_of[sample]: note for sample, note in notes.items() if sample in image_of})
        super().__init__(str(path), list(self._places), size, check, labels or own, parsing)

    def _notes(self, notes: dict[str, tuple[str, Place]]) -> Labels | None:
        labels: Labels = {}
        for name, (kind, place) in notes.items():
            with reading(name, "the labels of"):
                label = json.loads(self._at(place))
                values = {"class": label} if kind == "cls" else label
                for attribute, value in values.items():
                    if isinstance(value, bool | int | float):
                        labels.setdefault(str(attribute), {})[name] = float(value)
        return labels or None

    def _at(self, place: Place) -> bytes:
        shard, offset, length = place
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), {})
        files = self._handle[1]
        with reading(self.shards[shard], "shard"):
            if shard not in files:
                files[shard] = os.open(self.shards[shard], os.O_RDONLY)
            data = os.pread(files[shard], length, offset)
        if len(data) < length:
            raise UserError(f"shard {self.shards[shard]} is truncated")
        return data

    def _bytes(self, name: str) -> bytes:
        return self._at(self._places[name])

    def _stamp(self, name: str) -> str | None:
        shard, offset, length = self._places[name]
        stat = os.stat(self.shards[shard])
        return f"{self.shards[shard].name} {stat.st_size} {stat.st_mtime_ns} {offset} {length}"

    def _mask(self, name: str) -> bytes | Path | None:
        place = self._mask_places.get(name)
        return super()._mask(name) if place is None else self._at(place)


def _sample(name: str) -> tuple[str, str]:
    """A member's sample and kind: `a/b.seg.png` -> (`a/b`, `seg.png`)."""
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _shards(path: str | Path) -> list[Path]:
    place = local(path)
    if place.is_dir():
        shards = sorted(place.glob("*.tar"))
    elif place.is_file():
        shards = [place]
    else:
        root = Path(place.anchor) if place.is_absolute() else Path()
        shards = sorted(root.glob(str(place.relative_to(place.anchor) if place.is_absolute() else place)))
    if not shards:
        raise UserError(f"no tar shards at {path}: a .tar file, a folder of them or a glob expected")
    return shards


def _members(shard: Path) -> list[tuple[str, int, int]]:
    """(name, offset, size) of the files in a tar archive."""
    with reading(shard, "shard"):
        with shard.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        if packed:
            raise UserError("it is compressed by gzip, and compressed archives cannot be read in place: decompress it")
        with tarfile.open(shard, "r:") as archive:
            return [(m.name.removeprefix("./"), m.offset_data, m.size) for m in archive if m.isreg()]


_OPEN: dict[str, tuple[tuple[int, ...], Any]] = {}  # environments by path, with the process and the file's state


def _opened_lmdb(path: str, *state: int) -> Any:
    """Open an LMDB environment once per process; reopen it after a fork and when the file was replaced."""
    try:
        import lmdb
    except ImportError:
        raise UserError("data=lmdb needs the library lmdb: pip install 'oodgan[lmdb]'") from None
    key = (os.getpid(), *state)
    if path in _OPEN and _OPEN[path][0] == key:
        return _OPEN[path][1]
    if path in _OPEN:
        _OPEN.pop(path)[1].close()
    settings = {"readonly": True, "lock": False, "readahead": False, "meminit": False}
    _OPEN[path] = (key, lmdb.open(path, subdir=os.path.isdir(path), **settings))
    return _OPEN[path][1]


class Lmdb(Encoded):
    """The images in an LMDB environment: rosinality's (`prepare_data.py`: keys `256-00042` and `length`), or any of
    encoded images by key, with masks `NAME.parsing.png` and `labels.json` beside them where there are some.

    `resolution`: which of rosinality's sizes to read; None: the largest. Other arguments and errors are those of
    `Encoded`; also raises if the library lmdb, the environment or the resolution is missing.
    """

    def __init__(
        self,
        path: str | Path,
        size: int = 256,
        resolution: int | None = None,
        check: bool = True,
        labels: str | Path | None = None,
        parsing: str | Path | None = None,
    ) -> None:
        self.path = local(path)
        if not self.path.exists():
            raise UserError(f"no such LMDB environment: {self.path}")
        with reading(self.path, "LMDB environment"), self._environment().begin() as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(values=False)]
        every = self._named(keys, resolution)
        names, self._mask_names = own_members([name for name in every if name != LABELS])
        self._keys = every
        stat = (self.path / "data.mdb" if self.path.is_dir() else self.path).stat()
        self._state = f"{stat.st_size} {stat.st_mtime_ns}"
        super().__init__(str(self.path), names, size, check, labels or self._own_labels(names), parsing)

    def _own_labels(self, names: list[str]) -> Labels | None:
        if LABELS not in self._keys:
            return None
        with reading(f"{self.path}/{LABELS}", "label file"):
            return of_images(parse_labels(LABELS, self._bytes(LABELS)), names)

    def _mask(self, name: str) -> bytes | Path | None:
        own = self._mask_names.get(name)
        return super()._mask(name) if own is None else self._bytes(own)

    def _named(self, keys: list[bytes], resolution: int | None) -> dict[str, bytes]:
        """Name -> key: of rosinality's the number, of others the key itself."""
        sized: dict[int, dict[str, bytes]] = {}
        for key in keys:
            before, dash, number = key.partition(b"-")
            if dash and before.isdigit() and number.isdigit():
                sized.setdefault(int(before), {})[number.decode()] = key
        if not sized:
            if resolution is not None:
                raise UserError(f"resolution={resolution}, but {self.path} does not hold images by resolution")
            return {key.decode("utf-8", "surrogateescape"): key for key in keys if key != b"length"}
        if resolution is not None and resolution not in sized:
            raise UserError(f"resolution={resolution}: {self.path} holds {', '.join(map(str, sorted(sized)))}")
        return sized[max(sized) if resolution is None else resolution]

    def _environment(self) -> Any:
        with reading(self.path, "LMDB environment"):
            stat = (self.path / "data.mdb" if self.path.is_dir() else self.path).stat()
            return _opened_lmdb(os.path.realpath(self.path), stat.st_ino, stat.st_mtime_ns)

    def _bytes(self, name: str) -> bytes:
        with reading(f"{self.path}/{name}", "image"), self._environment().begin() as transaction:
            value = transaction.get(self._keys[name])
            if value is None:
                raise UserError("it is no longer there")
            return bytes(value)

    def _stamp(self, name: str) -> str | None:
        return self._state
