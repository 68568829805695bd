"""Images in folders and zip archives."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path, PurePosixPath

from oodgan.data.encoded import HEAD, LABELS, TAIL, Encoded, own_members, read_parsing
from oodgan.data.labels import Labels, of_images, parse_labels
from oodgan.data.listing import Listing, is_picture, passed_over
from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.remote import local

__all__ = ["Folder", "Zip", "read_parsing"]
log = logging.getLogger("oodgan")
MAX_MEMBER_BYTES = 256 * 2**20
DATASET_JSON = "dataset.json"


class Folder(Encoded):
    """The images below a folder, at any depth (flat, FFHQ's numbered folders, one folder a person...).

    Hidden files and folders are ignored. Files that are no images are left out and named in a note.
    Other arguments and errors are those of `Encoded`.
    """

    def __init__(
        self,
        root: str | Path,
        size: int = 256,
        parsing: str | Path | None = None,
        check: bool = True,
        labels: str | Path | None = None,
    ) -> None:
        listing = Listing.of(local(root))
        self.root = listing.root
        if listing.note:
            log.warning(listing.note)
        super().__init__(str(self.root), listing.pictures, size, check, labels, parsing)

    def _bytes(self, name: str) -> bytes:
        with reading(self.root / name, "image"):
            return (self.root / name).read_bytes()

    def _ends(self, name: str) -> tuple[bytes, bytes | None]:
        with reading(self.root / name, "image"), (self.root / name).open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return head, file.read()

    def _stamp(self, name: str) -> str | None:
        try:
            stat = os.stat(self.root / name)
        except OSError:
            return None
        return f"{stat.st_size} {stat.st_mtime_ns}"


class Zip(Encoded):
    """The images in a zip archive, read in place; nothing is unpacked.

    Reads labels from NVlabs' `dataset.json` (`dataset_tool.py`) or `labels.json`, and masks `NAME.parsing.png` beside
    `NAME.jpg`. Members over 256 MB and encrypted ones are skipped. Other arguments and errors are those of `Encoded`;
    a missing or damaged archive also raises `UserError`.
    """

    def __init__(
        self,
        path: str | Path,
        size: int = 256,
        check: bool = True,
        labels: str | Path | None = None,
        parsing: str | Path | None = None,
    ) -> None:
        self.path = local(path)
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        if not self.path.is_file():
            raise UserError(f"no such file: {self.path}")
        self._members = {i.filename: i.CRC for i in self._archive().infolist() if not i.is_dir()}
        shown = [name for name in self._members if _is_shown(name)]
        names, self._mask_members = own_members([name for name in shown if is_picture(name)])
        others = [name for name in shown if not is_picture(name) and name not in (DATASET_JSON, LABELS)]
        if others:
            log.warning(passed_over(others, str(self.path)))
        super().__init__(str(self.path), names, size, check, labels or self._own_labels(names), parsing)

    def _own_labels(self, names: list[str]) -> Labels | None:
        member = next((name for name in (LABELS, DATASET_JSON) if name in self._members), None)
        if member is None:
            return None
        with reading(f"{self.path}/{member}", "label file"):
            content = self._bytes(member)
            if b"".join(content.split()) == b'{"labels":null}':  # NVlabs' notation for no labels
                return None
            return of_images(parse_labels(member, content), names)

    def _archive(self) -> zipfile.ZipFile:
        if self._handle is None or self._handle[0] != os.getpid():
            with reading(self.path, "zip archive"):
                self._handle = (os.getpid(), zipfile.ZipFile(self.path))
        return self._handle[1]

    def _bytes(self, name: str) -> bytes:
        return self._read(name, -1)

    def _ends(self, name: str) -> tuple[bytes, bytes | None]:
        return self._read(name, HEAD), None

    def _stamp(self, name: str) -> str | None:
        return str(self._members[name])

    def _mask(self, name: str) -> bytes | Path | None:
        member = self._mask_members.get(name)
        return super()._mask(name) if member is None else self._bytes(member)

    def _read(self, name: str, count: int) -> bytes:
        with reading(f"{self.path}/{name}", "zip archive's member"):
            if self._archive().getinfo(name).file_size > MAX_MEMBER_BYTES:
                raise UserError(f"larger than {MAX_MEMBER_BYTES // 2**20} MB unpacked")
            with self._archive().open(name) as member:
                return member.read(count)


def _is_shown(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
