"""Matching of images with their labels, masks and results, by relative path without ending.

Two names match if they are equal or one is the end of the other: `anna/0.png` matches `anna/0`, `faces/anna/0.jpg`
and, if no other folder has a `0`, `0.png`. A name that matches several images is an error.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from oodgan.data.images import SUFFIXES
from oodgan.errors import UserError

Value = TypeVar("Value")


def clean(name: str) -> str:
    """Normalise a name written by another tool or system: forward slashes, no leading `./`.

    >>> clean("./anna/0.png"), clean("anna\\\\0.png")
    ('anna/0.png', 'anna/0.png')
    """
    return "/".join(part for part in str(name).strip().replace("\\", "/").split("/") if part not in ("", "."))


def bare(name: str) -> str:
    """Return a name without the ending of an image file; other dots are kept.

    >>> bare("anna/0.JPG"), bare("v1.5"), bare("v1.5.png")
    ('anna/0', 'v1.5', 'v1.5')
    """
    stem, _, ending = name.rpartition(".")
    return stem if stem and f".{ending}".lower() in SUFFIXES and not stem.endswith("/") else name


def readable(name: str) -> str:
    """A file's name as text: one of an old disk, which is not UTF-8, is read as Latin-1.

    >>> readable("caf\\udce9.png"), readable("写真.png")
    ('café.png', '写真.png')
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")
    return name


def short(names: Iterable[str]) -> dict[str, str]:
    """Each file of a collection -> its name without folders and ending, or with folders where another has that name.

    >>> short(["00000/00012.png", "anna/0.png", "ben/0.jpg"])
    {'00000/00012.png': '00012', 'anna/0.png': 'anna/0', 'ben/0.jpg': 'ben/0'}
    """
    names = dict.fromkeys(names)
    count = Counter(_last(bare(name)) for name in names)
    return {name: _last(bare(name)) if count[_last(bare(name))] == 1 else bare(name) for name in names}


def _last(name: str) -> str:
    return name.rpartition("/")[2]


class Lookup:
    """Finds an image of a collection by a name from elsewhere.

    `names` are relative paths; `what` describes them in messages.
    """

    def __init__(self, names: Iterable[str], what: str = "images") -> None:
        self.what = what
        self._names = dict.fromkeys(names)
        self._by_last: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for name in self._names:
            path = bare(name)
            self._by_last[_last(path)].append((path, name))

    def find(self, other: str) -> str | None:
        """Return the image that matches `other`, or None. Raises `UserError` if several match."""
        for wanted in (other, clean(other)):
            if wanted in self._names:
                return wanted
        path = bare(clean(other))
        near = self._by_last.get(_last(path), [])
        same = [name for have, name in near if have == path]
        fits = same or [name for have, name in near if path.endswith(f"/{have}") or have.endswith(f"/{path}")]
        if len(fits) > 1:
            raise UserError(
                f"{other!r} matches {fits[0]!r} and {fits[1]!r} of the {self.what}: give its path below their folder"
            )
        return fits[0] if fits else None

    @property
    def first(self) -> str:
        """One of the names, as an example in messages."""
        return next(iter(self._names), "nothing")


def matched(
    names: Iterable[str], others: Mapping[str, Value], what: str = "images", kind: str = "files"
) -> dict[str, Value]:
    """Match `names` with {other name: value}; return {name: value} of those that match.

    Raises:
        UserError: an other name matches several images, two match one image, or none matches any.
    """
    lookup = Lookup(names, what)
    matches: dict[str, Value] = {}
    taken: dict[str, str] = {}
    for other, value in others.items():
        name = lookup.find(other)
        if name is None:
            continue
        if name in taken:
            raise UserError(f"{taken[name]!r} and {other!r} of the {kind} both belong to {name!r} of the {what}")
        matches[name], taken[name] = value, other
    if not matches:
        named = f"{what} are named like {lookup.first!r}, {kind} like {next(iter(others), 'nothing')!r}"
        raise UserError(f"none of the {kind} has the name of one of the {what}: {named}")
    return matches


def distinct(names: Sequence[str], key: Callable[[str], object], why: str) -> None:
    """Raise `UserError` if two names have the same key; `why` explains the problem."""
    seen: dict[object, str] = {}
    for name in names:
        other = seen.setdefault(key(name), name)
        if other != name:
            raise UserError(f"{other!r} and {name!r} {why}")
