"""Images from files: folders of any layout, and zip archives."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from oodgan.data import images
from oodgan.data.source import Sample, Source, checked_size
from oodgan.errors import UserError

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
            raise UserError(f"no readable images (jpg, png, webp, bmp, tiff) in {where}")

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        picture = images.open_photo(io.BytesIO(self._bytes(name)), f"{self.where}/{name}").image
        return {"image": images.resize(images.from_pil(_centre(picture)), self.size), "name": name}

    def _damage(self, name: str) -> str | None:
        """Why a file is unreadable. Only files whose first or last bytes look wrong are decoded to be sure."""
        try:
            head, tail = self._ends(name)
            if _looks_whole(head, tail):
                return None
            images.open_photo(io.BytesIO(self._bytes(name)), name)
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
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        return False
    return tail is None or _ENDS.get(kind, b"") in tail


class Folder(_Files):
    """The images below a folder, at any depth (flat, FFHQ's numbered folders, one folder a person...).

    `parsing`: a folder of palette PNGs (CelebAMask-HQ's 19 classes), one `<stem>.png` for an image, found at any depth.
    Pictures that are not square are cut to the centred square. Hidden files and folders are passed over. `check` looks
    for truncated files beforehand. Raises `UserError` for a missing folder or one without images.
    """

    def __init__(
        self, root: str | Path, size: int = 256, parsing: str | Path | None = None, check: bool = True
    ) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise UserError(f"no such folder: {self.root}")
        names = [path.relative_to(self.root) for path in self.root.rglob("*") if path.suffix.lower() in images.SUFFIXES]
        shown = [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]
        super().__init__(str(self.root), shown, size, check)
        self.parsing = self._index_parsing(Path(parsing).expanduser()) if parsing else {}

    def _index_parsing(self, folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            raise UserError(f"no such folder of parsing masks: {folder}")
        found = {path.stem: path for path in sorted(folder.rglob("*.png"))}
        if not any(Path(name).stem in found for name in self.names):
            raise UserError(f"no mask in {folder} has the name of an image in {self.root}")
        return found

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        mask = self.parsing.get(Path(self.names[index]).stem)
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


def read_parsing(path: Path, size: int) -> torch.Tensor:
    """Read a parsing mask (palette or grey PNG whose values are classes) as (size, size) int64, nearest neighbour."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in ("P", "L"):
                raise UserError(f"{path} is no parsing mask: mode {picture.mode}, expected palette or grey")
            classes = _centre(picture).resize((size, size), Image.Resampling.NEAREST)
            return torch.from_numpy(np.array(classes, dtype=np.int64))
    except (OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


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
        names = [name for name in members if _is_shown(name) and Path(name).suffix.lower() in images.SUFFIXES]
        super().__init__(str(self.path), names, size, check)

    def _archive(self) -> zipfile.ZipFile:
        if self._handle is None or self._handle[0] != os.getpid():
            try:
                self._handle = (os.getpid(), zipfile.ZipFile(self.path))
            except (zipfile.BadZipFile, OSError) as error:
                raise UserError(f"{self.path} is not a readable zip archive: {error}") from None
        return self._handle[1]

    def _bytes(self, name: str) -> bytes:
        return self._read(name, -1)

    def _ends(self, name: str) -> tuple[bytes, bytes | None]:
        return self._read(name, HEAD), None

    def _read(self, name: str, count: int) -> bytes:
        try:
            if self._archive().getinfo(name).file_size > MAX_MEMBER_BYTES:
                raise UserError(f"{name} is larger than {MAX_MEMBER_BYTES // 2**20} MB unpacked")
            with self._archive().open(name) as member:
                return member.read(count)
        # zipfile's answers to damaged, encrypted (RuntimeError) and strangely packed (NotImplementedError) members.
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, OSError, EOFError) as error:
            raise UserError(f"{name} cannot be read from {self.path}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


def _is_shown(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
