"""Which photos an edit is asked for, and what their results are called."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from oodgan.data.images import SUFFIXES
from oodgan.errors import UserError


@dataclass(frozen=True)
class Job:
    """A photo to edit, and the name of its results below `result/` without ending."""

    path: Path
    name: str


def find(inputs: Iterable[str], output: Path) -> list[Job]:
    """The photos of files, folders (at any depth) and globs, without those below `output`.

    Raises:
        UserError: an input that matches nothing, or two photos whose results would have one name.
    """
    found: dict[Path, Job] = {}
    for text in inputs:
        for job in _matches(str(text)):
            if output.resolve() not in job.path.resolve().parents:
                found.setdefault(job.path.resolve(), job)
    return _distinct(list(found.values()))


def _matches(text: str) -> Iterator[Job]:
    path = Path(text).expanduser()
    if path.is_dir():
        photos = sorted(p for p in path.rglob("*") if _is_photo(p.relative_to(path)) and p.is_file())
        if not photos:
            raise UserError(f"no photo in folder {text}: files ending in {', '.join(SUFFIXES)} are looked for")
        yield from (Job(p, p.relative_to(path).with_suffix("").as_posix()) for p in photos)
    elif path.exists():
        yield Job(path, path.stem)
    elif glob.has_magic(text):
        photos = [p for p in sorted(_expand(path)) if p.is_file()]
        if not photos:
            raise UserError(f"no photo matches {text}")
        yield from (Job(p, p.stem) for p in photos)
    else:
        raise UserError(f"no such file or folder: {text}")


def _expand(pattern: Path) -> Iterator[Path]:
    """The photos that a glob matches; `**` goes through folders, never through links to folders, which may circle."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:first])
    return (p for p in root.glob(str(Path(*parts[first:]))) if _is_photo(p.relative_to(root)))


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _distinct(jobs: list[Job]) -> list[Job]:
    """Names told apart by the files' endings where stems are the same."""
    stems = [job.name for job in jobs]
    named = [
        Job(job.path, f"{job.name}_{job.path.suffix[1:].lower()}") if stems.count(job.name) > 1 else job for job in jobs
    ]
    taken: dict[str, Job] = {}
    for job in named:
        if job.name in taken:
            raise UserError(
                f"{taken[job.name].path} and {job.path} would both be written to {job.name}: "
                "edit them into different output folders"
            )
        taken[job.name] = job
    return named
