"""Photos and the pictures that methods made of them, matched by name and checked before anything is measured."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from oodgan.data.images import SUFFIXES
from oodgan.errors import UserError
from oodgan.evaluation.methods import BUILT_IN, MASKED
from oodgan.evaluation.protocol import Protocol


@dataclass(frozen=True)
class Pair:
    """One photo with its results and masks, {method: file}; a built-in method may still have to make its files.

    Methods without masks have no entry in `masks`.
    """

    index: int
    name: str
    photo: Path
    results: Mapping[str, Path]
    labels: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)


def match(
    photos: Path, methods: Mapping[str, str], protocol: Protocol, made: Path, masks: Path | None = None
) -> list[Pair]:
    """Pairs in name order, only of photos that every method has, so that all methods are scored on the same ones.

    Args:
        photos: folder of aligned photos, searched at any depth.
        methods: name -> folder of results, or the name of a built-in method.
        made: where the built-in methods' pictures go (`made/METHOD/NAME.png`), and their masks
            (`made/masks/METHOD/NAME.png`). Masks of a folder of the edit stage lie in its `mask/`.
        masks: folder of parsing masks `<stem>.png`.

    Raises:
        UserError: an empty folder, no overlap of names, mixed sizes, pictures that are not square or are smaller than
            the protocol's resolution.
    """
    if not methods:
        raise UserError("no methods to score; e.g. 'methods={ours: FOLDER, plain: FOLDER}'")
    photo_files = by_stem(photos, "photos")
    names = protocol.choose(photo_files)
    folders = {method: by_stem(_results(Path(value)), method) for method, value in methods.items() if not _made(value)}
    for method, files in folders.items():
        if not set(files) & set(names):
            raise UserError(
                f"no picture of {method} ({methods[method]}) has the name of a photo; "
                f"photos are named as {names[0]!r}, pictures as {next(iter(sorted(files)))!r}"
            )
    shared = [name for name in names if all(name in files for files in folders.values())]
    if not shared:
        raise UserError(f"no photo has a picture of every method: {', '.join(folders)} have no name in common")
    if len(shared) < len(names):
        warnings.warn(f"{len(names) - len(shared)} of {len(names)} photos lack a picture of some method: left out")
    _check_sizes("photos", [photo_files[name] for name in shared], protocol)
    for method, files in folders.items():
        _check_sizes(method, [files[name] for name in shared], protocol)
    labels = by_stem(masks, "parsing masks", (".png",)) if masks is not None else {}
    if masks is not None and not set(labels) & set(shared):
        raise UserError(f"no parsing mask in {masks} has the name of a photo")
    given = {method: _masks(Path(methods[method])) for method in folders}
    return [
        Pair(
            index,
            name,
            photo_files[name],
            {m: folders[m][name] if m in folders else made / m / f"{name}.png" for m in methods},
            labels.get(name),
            {m: files[name] for m, files in given.items() if name in files}
            | {m: made / "masks" / m / f"{name}.png" for m, value in methods.items() if str(value) in MASKED},
        )
        for index, name in enumerate(shared)
    ]


def _made(value: str) -> bool:
    return str(value) in BUILT_IN


def _results(folder: Path) -> Path:
    """What the edit stage wrote lies one folder down."""
    return folder / "result" if (folder / "edits.json").is_file() else folder


def _masks(folder: Path) -> dict[str, Path]:
    """The masks that the edit stage wrote beside its results."""
    made = (folder / "edits.json").is_file() and (folder / "mask").is_dir()
    return by_stem(folder / "mask", "masks") if made else {}


def by_stem(folder: Path, what: str, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """Stem -> file of the pictures below a folder.

    Raises:
        UserError: no such folder, nothing in it, or two files of one stem.
    """
    if not folder.is_dir():
        raise UserError(f"{what}: there is no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in suffixes or any(p.startswith(".") for p in path.relative_to(folder).parts):
            continue
        if path.stem in found:
            raise UserError(f"{what}: {found[path.stem]} and {path} have the same name; matching is by name")
        found[path.stem] = path
    if not found:
        raise UserError(f"{what}: the folder {folder} holds no pictures ({', '.join(suffixes)})")
    return found


def _check_sizes(what: str, files: list[Path], protocol: Protocol) -> None:
    first: tuple[Path, tuple[int, int]] | None = None
    for path in files:
        try:
            with Image.open(path) as picture:
                size = picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{what}: {path} cannot be read as a picture ({type(error).__name__})") from error
        first = first or (path, size)
        if size != first[1]:
            before = f"{first[0].name} is {first[1][0]}x{first[1][1]}"
            raise UserError(f"{what}: mixed sizes: {before}, {path.name} is {size[0]}x{size[1]}")
    assert first is not None
    width, height = first[1]
    if width != height:
        raise UserError(f"{what}: pictures must be square, {first[0].name} is {width}x{height}; align the photos first")
    if width < protocol.resolution:
        raise UserError(
            f"{what}: pictures are {width} px, the protocol measures at {protocol.resolution}; "
            f"enlarged pictures are not measured, choose metrics.resolution={width} or less"
        )
