"""The photos to edit, and the names of their results."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from oodgan.data.listing import Listing, is_picture, passed_over
from oodgan.data.names import bare
from oodgan.errors import UserError
from oodgan.stages._ledger import FILE, KINDS


@dataclass(frozen=True)
class Job:
    """A photo to edit, and the name of its results below `result/` without ending."""

    path: Path
    name: str


@dataclass(frozen=True)
class Jobs:
    """The photos to edit, and `notes` about files left out."""

    photos: list[Job]
    notes: list[str]


def find(inputs: Iterable[str], output: Path) -> Jobs:
    """Find the photos of files, folders (at any depth) and globs; the latter two without results of earlier edits.

    Results count as photos if the input is their own folder (`out/result`), unless `output` is `out` again.

    Raises:
        UserError: an input matches nothing, or the results of two photos would have the same name.
    """
    by_path: dict[Path, Job] = {}
    notes: list[str] = []
    for text in map(str, inputs):
        path = Path(text).expanduser()
        if path.is_dir():
            listing = Listing.of(path, "photos")
            notes += [listing.note] if listing.note else []
            jobs = [Job(path / name, bare(name)) for name in listing.pictures if (path / name).is_file()]
            jobs, made = _apart(jobs, output, partial(_lies_below, path.absolute()))
            notes += _left_out(made, output, text)
            if not jobs:
                raise UserError(f"no photo in folder {text}" + (f": {listing.note}" if listing.note else ""))
        elif path.exists():
            jobs = [Job(path, bare(path.name))]
        elif glob.has_magic(text):
            matching = [p for p in sorted(_expand(path)) if p.is_file()]
            jobs = [Job(p, bare(p.name)) for p in matching if is_picture(p.name)]
            others = [str(p) for p in matching if not is_picture(p.name)]
            notes += [passed_over(others, text)] if others else []
            jobs, made = _apart(jobs, output, partial(_is_not_named, path))
            notes += _left_out(made, output, text)
            if not jobs:
                raise UserError(f"no photo matches {text}")
        else:
            raise UserError(f"no such file or folder: {text}")
        for job in jobs:
            by_path.setdefault(job.path.resolve(), job)
    return Jobs(_distinct(list(by_path.values())), notes)


def _lies_below(folder: Path, place: Path) -> bool:
    return folder in place.parents


def _is_not_named(pattern: Path, place: Path) -> bool:
    return place.name not in pattern.parts


def _apart(jobs: list[Job], output: Path, unnamed: Callable[[Path], bool]) -> tuple[list[Job], Counter[Path]]:
    """Split photos from results of earlier edits; returns the photos, and the number of results by output folder.

    Results of an edit are in folders of known names (`KINDS`) beside its record; of the input's own folders, only
    `unnamed` ones count as results.

    Raises:
        UserError: all are results.
    """
    made: Counter[Path] = Counter()
    kept: list[Job] = []
    recorded = cache(lambda folder: (folder / FILE).is_file())
    for job in jobs:
        kinds = [place for place in job.path.absolute().parents if place.name in KINDS and recorded(place.parent)]
        maker = next((place.parent for place in kinds if unnamed(place) or _same(place.parent, output)), None)
        if maker is None:
            kept.append(job)
        else:
            made[maker] += 1
    if made and not kept:
        raise UserError(f"all {len(jobs)} pictures are results of edits, according to {next(iter(made)) / FILE}")
    return kept, made


def _left_out(made: Counter[Path], output: Path, text: str) -> list[str]:
    """Return a note about results of other edits that were left out; those of this edit are left out silently."""
    others = {folder: count for folder, count in made.items() if not _same(folder, output)}
    counts = ", ".join(f"{count} in {folder}" for folder, count in others.items())
    return [f"results of earlier edits below {text} left out: {counts}"] if others else []


def _same(folder: Path, other: Path) -> bool:
    return folder.resolve() == other.resolve()


def _expand(pattern: Path) -> Iterator[Path]:
    """Return the files that a glob matches; `**` does not follow links to folders, which may be cyclic.

    Existing folders with brackets in their names are taken literally.
    """
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part) and not Path(*parts[: i + 1]).exists())
    root = Path(*parts[:first])
    for path in root.glob(str(Path(*parts[first:]))):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


def _distinct(jobs: list[Job]) -> list[Job]:
    """Make names unique by the files' endings if their stems are equal."""
    count = Counter(job.name for job in jobs)
    named = [Job(job.path, f"{job.name}_{_ending(job)}") if count[job.name] > 1 else job for job in jobs]
    taken: dict[str, Job] = {}
    for job in named:
        if job.name in taken:
            raise UserError(
                f"{taken[job.name].path} and {job.path} would both be written to {job.name}: "
                "edit them into different output folders"
            )
        taken[job.name] = job
    return named


def _ending(job: Job) -> str:
    return job.path.suffix[1:].lower()
