"""Images from files: folders of any layout, and zip archives."""

from __future__ import annotations

import io
import logging
import os
import warnings
import zipfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from oodgan.data import images
from oodgan.data.listing import Listing, is_picture, passed_over
from oodgan.data.names import matched
from oodgan.data.source import Sample, Source, checked_size
from oodgan.errors import UserError
from oodgan.foreign import reading

log = logging.getLogger("oodgan")
CLASSES = 19
"""Classes of CelebAMask-HQ's parsing masks, numbered from 0."""
MAX_MEMBER_BYTES = 256 * 2**20
HEAD, TAIL = 2**16, 2**10


class _Files(Source):
    """What folders and archives share. The names are sorted; damaged files are left out when the source is made."""

    def __init__(self, where: str, names: Sequence[str], size: int, check: bool) -> None:
        self.where, self.size, self.skipped = where, checked_size(size), {}
        self.names: list[str] = []
        for name in sorted(names):
            reason = self._damage(name) if check else None
            if reason is None:
                self.names.append(name)
            else:
                self.skipped[name] = reason
        if self.skipped:
            first = ", ".join(f"{name} ({reason})" for name, reason in list(self.skipped.items())[:5])
            warnings.warn(f"{where}: {len(self.skipped)} damaged image(s) skipped: {first}", stacklevel=3)
        if not self.names:
            raise UserError(f"no readable images in {where}")

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        picture = images.read_rgb(io.BytesIO(self._bytes(name)), f"{self.where}/{name}")
        return {"image": images.resize(images.from_pil(_centre(picture)), self.size), "name": name}

    def _damage(self, name: str) -> str | None:
        """Why a file is unreadable. Only files whose first or last bytes look wrong are decoded to be sure."""
        try:
            head, tail = self._ends(name)
            if _looks_whole(head, tail):
                return None
            images.read_rgb(io.BytesIO(self._bytes(name)), name)
        except UserError as error:
            return str(error)
        return None

    @abstractmethod
    def _bytes(self, name: str) -> bytes: ...

    @abstractmethod
    def _ends(self, name: str) -> tuple[bytes, bytes | None]:
        """First and last bytes of a file; None for the last where they are expensive and guarded by a checksum."""


def _centre(picture: Image.Image) -> Image.Image:
    """The largest centred square."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture if picture.width == picture.height else picture.crop((left, top, left + side, top + side))


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


def _looks_whole(head: bytes, tail: bytes | None) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = Image.open(io.BytesIO(head)).format or ""
    except Exception:  # decoders answer half a file with errors of every kind
        return False
    return tail is None or _ENDS.get(kind, b"") in tail


class Folder(_Files):
    """The images below a folder, at any depth (flat, FFHQ's numbered folders, one folder a person...).

    `parsing`: a folder of palette PNGs (CelebAMask-HQ's 19 classes), each named as its image is, with the same
    folders or without. Pictures that are not square are cut to the centred square. Hidden files and folders are passed
    over, and so are files that are no pictures, which are counted and named. `check` looks for truncated files
    beforehand.
    Raises `UserError` for a missing folder, one without images, and masks that could be several images'.
    """

    def __init__(
        self, root: str | Path, size: int = 256, parsing: str | Path | None = None, check: bool = True
    ) -> None:
        listing = Listing.of(root)
        self.root = listing.root
        if listing.note:
            log.warning(listing.note)
        super().__init__(str(self.root), listing.pictures, size, check)
        self.parsing = self._index_parsing(parsing) if parsing else {}

    def _index_parsing(self, folder: str | Path) -> dict[str, Path]:
        masks = Listing.of(folder, "parsing masks", (".png",)).files()
        found = matched(self.names, masks, f"images in {self.root}", "masks")
        read_parsing(next(iter(found.values())))  # another kind of masks is noticed now, not in the first epoch
        return found

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        mask = self.parsing.get(self.names[index])
        if mask is not None:
            sample["parsing"] = read_parsing(mask, self.size)
        return sample

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror}") from None

    def _ends(self, name: str) -> tuple[bytes, bytes | None]:
        try:
            with (self.root / name).open("rb") as file:
                head = file.read(HEAD)
                file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
                return head, file.read()
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror}") from None


def read_parsing(source: str | Path | IO[bytes], size: int | None = None, name: str | None = None) -> torch.Tensor:
    """Read a parsing mask (palette or grey PNG whose values are classes) as int64 (H, W).

    With `size` its centred square as (size, size), nearest neighbour. Raises `UserError` for another kind of
    picture, and for a value that is no class.
    """
    label = name or (str(source) if isinstance(source, str | Path) else "the mask")
    with reading(label, "parsing mask"), Image.open(source, formats=("PNG",)) as picture:
        if picture.mode not in ("P", "L"):
            raise UserError(f"{label} is no parsing mask: mode {picture.mode}, expected palette or grey")
        if (highest := max(picture.getextrema())) >= CLASSES:  # type: ignore[operator]
            raise UserError(f"{label} is no parsing mask: value {highest}, and classes are 0 to {CLASSES - 1}")
        classes = picture if size is None else _centre(picture).resize((size, size), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(classes, dtype=np.int64))


class Zip(_Files):
    """The images in a zip archive, read in place; nothing is unpacked. Each process opens its own handle.

    Members over 256 MB and encrypted ones are skipped. Raises `UserError` for a missing or damaged archive.
    """

    def __init__(self, path: str | Path, size: int = 256, check: bool = True) -> None:
        self.path = Path(path).expanduser()
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        if not self.path.is_file():
            raise UserError(f"no such file: {self.path}")
        members = [info.filename for info in self._archive().infolist() if not info.is_dir()]
        shown = [name for name in members if _is_shown(name)]
        names = [name for name in shown if is_picture(name)]
        if len(names) < len(shown):
            log.warning(passed_over([name for name in shown if not is_picture(name)], str(self.path)))
        super().__init__(str(self.path), names, size, check)

    def _archive(self) -> zipfile.ZipFile:
        if self._handle is None or self._handle[0] != os.getpid():
            with reading(self.path, "zip archive"):
                self._handle = (os.getpid(), zipfile.ZipFile(self.path))
        return self._handle[1]

    def _bytes(self, name: str) -> bytes:
        return self._read(name, -1)

    def _ends(self, name: str) -> tuple[bytes, bytes | None]:
        return self._read(name, HEAD), None

    def _read(self, name: str, count: int) -> bytes:
        with reading(f"{self.path}/{name}", "zip archive's member"):
            if self._archive().getinfo(name).file_size > MAX_MEMBER_BYTES:
                raise UserError(f"larger than {MAX_MEMBER_BYTES // 2**20} MB unpacked")
            with self._archive().open(name) as member:
                return member.read(count)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


def _is_shown(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
