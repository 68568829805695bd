"""Named sets of photos (names and hashes): photos used for decisions stay apart from those for reported figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oodgan.errors import UserError
from oodgan.files import hash_of

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class PhotoSet:
    """File names of photos with their hashes (sha256).

    Attributes:
        name: name of the set: that of its file, without ending.
        hashes: file name -> hash (sha256).
    """

    name: str
    hashes: Mapping[str, str]

    @classmethod
    def read(cls, path: str | Path) -> PhotoSet:
        """Read a file as `sha256sum` writes it (`HASH  NAME` a line), with comments after `#`.

        Raises:
            UserError: no such file, an invalid line, a repeated name, or no photo.
        """
        path = Path(path).expanduser()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UserError(f"the set of photos {path} cannot be read: {reason}") from None
        hashes: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.rstrip())
            if match is None:
                raise UserError(f"line {number} of {path} is {line[:60]!r}; a line is `SHA256  NAME`, as of sha256sum")
            if match[2] in hashes:
                raise UserError(f"line {number} of {path}: {match[2]} is there twice")
            hashes[match[2]] = match[1]
        if not hashes:
            raise UserError(f"the set of photos {path} is empty; a line is `SHA256  NAME`, as of sha256sum")
        return cls(path.stem, hashes)

    def choose(self, photos: Mapping[str, Path]) -> list[str]:
        """The keys of `photos` (key -> file) that are in the set, sorted.

        Raises:
            UserError: a photo of the set is missing or occurs twice, or its hash differs from that in the set.
        """
        by_name: dict[str, list[str]] = {}
        for key, path in photos.items():
            by_name.setdefault(path.name, []).append(key)
        chosen = []
        for name, expected in self.hashes.items():
            keys = by_name.get(name, [])
            if len(keys) != 1:
                what = f"is there {len(keys)} times" if keys else "is missing"
                raise UserError(f"the set {self.name} has {len(self.hashes)} photos, of which {name} {what}")
            actual = hash_of(photos[keys[0]])
            if actual != expected:
                raise UserError(
                    f"{photos[keys[0]]} is not the photo of the set {self.name}: its sha256 is {actual[:16]}..., "
                    f"expected {expected[:16]}..."
                )
            chosen.append(keys[0])
        return sorted(chosen)
