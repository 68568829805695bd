"""Splits into training, validation and test images, by the image's name alone."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from oodgan.data.names import bare, distinct, short
from oodgan.errors import UserError, unknown
from oodgan.foreign import reading

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = (TRAIN, VAL, TEST)


class Split(Protocol):
    """Maps an image's name to `train`, `val` or `test`.

    A split that needs all names of a source at once also has a method `of(names) -> parts` (see `assign`).
    """

    def __call__(self, name: str) -> str: ...


def assign(split: Split, names: Sequence[str]) -> list[str]:
    """Return the part of each image of a source. Raises `UserError` if the split cannot distinguish two names."""
    of = getattr(split, "of", None)
    return of(names) if of else [split(name) for name in names]


def stable_fraction(text: str) -> float:
    """Hash a text to a number in [0, 1), uniformly distributed and the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


class HashSplit:
    """Split by a hash of the file name without folders and ending, so that a moved or re-encoded file keeps its part.

    If several images have that name (e.g. one folder per person), their folders are included. `val` and `test` are
    fractions of all images.
    """

    def __init__(self, val: float = 0.05, test: float = 0.05) -> None:
        if not (val >= 0 and test >= 0 and val + test <= 1):
            raise UserError(f"split shares val={val} and test={test} must be at least 0 and at most 1 together")
        self.val, self.test = val, test

    def __call__(self, name: str) -> str:
        return self._part(PurePosixPath(bare(name)).name)

    def of(self, names: Sequence[str]) -> list[str]:
        """The parts of all images of a source."""
        keys = short(names)
        return [self._part(keys[name]) for name in names]

    def _part(self, key: str) -> str:
        place = stable_fraction(key)
        if place < self.test:
            return TEST
        return VAL if place < self.test + self.val else TRAIN


class OnePart:
    """Put every image into one part, for a folder that is entirely a test set (or a training set)."""

    def __init__(self, part: str = TEST) -> None:
        if part not in SPLITS:
            raise unknown("split", part, SPLITS)
        self.part = part

    def __call__(self, name: str) -> str:
        return self.part


class FFHQSplit:
    """FFHQ by the number in the file name: from 60,000 on (the last 10,000) test; of the others `val` by hash."""

    def __init__(self, first_test: int = 60_000, val: float = 0.02) -> None:
        self.first_test, self._rest = first_test, HashSplit(val=val, test=0)

    def __call__(self, name: str) -> str:
        return TEST if _number(name, "FFHQ") >= self.first_test else self._rest(name)

    def of(self, names: Sequence[str]) -> list[str]:
        """The parts of all images of a source."""
        return _by_number(self, names, "FFHQ")


class CelebAHQSplit:
    """CelebA-HQ's official split: its index, mapped to CelebA's, looked up in CelebA's partition.

    `mapping` is `CelebA-HQ-to-CelebA-mapping.txt`, `partition` is `list_eval_partition.txt`, plain or gzip. 24,183
    images are for training, 2,993 for validation, 2,824 for test.
    """

    def __init__(self, mapping: str | Path, partition: str | Path) -> None:
        codes = {fields[0]: fields[1] for fields in read_table(partition)}
        self.parts: dict[int, str] = {}
        for index, _, original in read_table(mapping, columns=3):
            if not (index.isascii() and index.isdigit()):
                continue
            code = codes.get(original)
            if code not in ("0", "1", "2"):
                raise UserError(f"{original} of {mapping} has no part in {partition}; both must be CelebA's own tables")
            self.parts[int(index)] = SPLITS[int(code)]

    def __call__(self, name: str) -> str:
        number = _number(name, "CelebA-HQ")
        if number not in self.parts:
            raise UserError(f"{name} is not in CelebA-HQ's mapping; files must be named 0.jpg to 29999.jpg")
        return self.parts[number]

    def of(self, names: Sequence[str]) -> list[str]:
        """The parts of all images of a source."""
        return _by_number(self, names, "CelebA-HQ")


def _by_number(split: Split, names: Sequence[str], dataset: str) -> list[str]:
    distinct(names, lambda name: _number(name, dataset), f"have one {dataset} number; choose another split")
    return [split(name) for name in names]


def _number(name: str, dataset: str) -> int:
    stem = PurePosixPath(bare(name)).name
    if not (stem.isascii() and stem.isdigit()):
        raise UserError(f"{name} is not named by its {dataset} number (as in 00042.png); choose another split")
    return int(stem)


def read_table(path: str | Path, columns: int = 2) -> list[list[str]]:
    """Rows of a white-space table, gzip or plain; rows of another width are headers."""
    with reading(path, "table"):
        raw = Path(path).read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    rows = [fields for fields in map(str.split, text.splitlines()) if len(fields) == columns]
    if not rows:
        raise UserError(f"{path} holds no rows of {columns} columns")
    return rows
