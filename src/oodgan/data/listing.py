"""The contents of a folder: its images by relative path, and the files that are left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oodgan.data.images import SUFFIXES
from oodgan.errors import UserError

_SHOWN = 5


@dataclass(frozen=True)
class Listing:
    """Relative paths with forward slashes, sorted: the `pictures` of a folder, and the `others` that are none.

    Hidden files and folders count as neither. Links to folders, which may circle, are among the others.
    """

    root: Path
    pictures: list[str]
    others: list[str]

    @classmethod
    def of(cls, root: str | Path, what: str = "images", suffixes: Sequence[str] = SUFFIXES) -> Listing:
        """List a folder at any depth. Raises `UserError` when there is no such folder, or it cannot be read."""
        root = Path(root).expanduser()
        if not root.is_dir():
            raise UserError(f"{what}: there is no folder {root}")
        pictures: list[str] = []
        others: list[str] = []
        pending = [""]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(root / folder) as entries:
                    for entry in entries:
                        name = f"{folder}{entry.name}"
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{name}/")
                        elif is_picture(entry.name, suffixes) and not _leads_to_folder(entry):
                            pictures.append(name)
                        else:
                            others.append(name)
            except OSError as error:
                raise UserError(f"{root / folder} cannot be read: {error.strerror or error}") from error
        return cls(root, sorted(pictures), sorted(others))

    @property
    def note(self) -> str | None:
        """A sentence that names the files left out; None if there are none."""
        return passed_over(self.others, str(self.root)) if self.others else None

    def files(self) -> dict[str, Path]:
        """Relative path -> file of each picture. Raises `UserError` when there is none."""
        if not self.pictures:
            raise UserError(f"{self.root} contains no images" + (f": {self.note}" if self.others else ""))
        return {name: self.root / name for name in self.pictures}


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_picture(name: str, suffixes: Sequence[str] = SUFFIXES) -> bool:
    """Whether a file's name has the ending of a picture."""
    return os.path.splitext(name)[1].lower() in suffixes


def passed_over(names: Iterable[str], where: str) -> str:
    """Count and name files that are no pictures.

    >>> passed_over(["clip.mp4", "notes.txt"], "shots")
    '2 other file(s) in shots left out: clip.mp4, notes.txt'
    """
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} other file(s) in {where} left out: {', '.join(names[:_SHOWN])}{more}"
