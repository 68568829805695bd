"""Photos and the results of methods, matched by name and checked before anything is measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oodgan.data.files import read_parsing
from oodgan.data.images import SUFFIXES, read_size
from oodgan.data.listing import Listing
from oodgan.data.names import distinct, matched, short
from oodgan.errors import UserError
from oodgan.evaluation.methods import BUILT_IN, MASKED
from oodgan.evaluation.photo_set import PhotoSet
from oodgan.evaluation.protocol import Protocol
from oodgan.files import below


@dataclass(frozen=True)
class Pair:
    """One photo with its results and masks, {method: file}; the files of built-in methods may not exist yet.

    `name` is the photo's without folders and ending, or with folders where another photo has it. Methods without masks
    have no entry in `masks`.
    """

    index: int
    name: str
    photo: Path
    results: Mapping[str, Path]
    labels: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)


def match(
    photos: Path,
    methods: Mapping[str, str],
    protocol: Protocol,
    made: Path,
    masks: Path | None = None,
    only: PhotoSet | None = None,
) -> list[Pair]:
    """Match photos and results by name; only photos that every method has, so that all methods are scored on the same.

    Args:
        photos: folder of aligned photos, searched at any depth.
        methods: name -> folder of results, or the name of a built-in method.
        made: where the built-in methods' pictures go (`made/METHOD/NAME.png`), and their masks
            (`made/masks/METHOD/NAME.png`). Masks of a folder of the edit stage lie in its `mask/`.
        masks: folder of parsing masks, PNGs named as the photos are.
        only: the photos that the protocol chooses from; None: all. Chosen ones may differ in size.

    Pictures belong to the photo of their relative path without ending (`oodgan.data.names`).

    Raises:
        UserError: an empty folder, no overlap of names, a name that fits several photos, mixed sizes, pictures that are
            not square or are smaller than the protocol's resolution, masks that are no parsing masks.
    """
    if not methods:
        raise UserError("no methods to score; e.g. 'methods={ours: FOLDER, plain: FOLDER}'")
    indexed = Photos.of(photos)
    photo_files = indexed.files
    names, _ = sides(protocol, photo_files if only is None else only.choose(photo_files))
    folders = {
        m: indexed.matched(_results(Path(value)), f"pictures of {m}")
        for m, value in methods.items()
        if not _made(value)
    }
    for method, files in folders.items():
        if not set(files) & set(names):
            raise UserError(f"no picture of {method} ({methods[method]}) has the name of a photo of the protocol")
    shared = [name for name in names if all(name in files for files in folders.values())]
    if not shared:
        raise UserError(f"no photo has a picture of every method: {', '.join(folders)} have no name in common")
    if len(shared) < len(names):
        warnings.warn(f"{len(names) - len(shared)} of {len(names)} photos lack a picture of some method: left out")
    for what, images in {"photos": photo_files, **folders}.items():
        _check_sizes(what, [images[name] for name in shared], protocol, mixed=only is not None)
    labels = indexed.parsing_masks(masks, shared) if masks is not None else {}
    given = {method: _masks(Path(methods[method]), indexed) for method in folders}
    return [
        Pair(
            index,
            name,
            photo_files[name],
            {m: folders[m][name] if m in folders else below(made / m, name, ".png") for m in methods},
            labels.get(name),
            {m: files[name] for m, files in given.items() if name in files}
            | {m: below(made / "masks" / m, name, ".png") for m, value in methods.items() if str(value) in MASKED},
        )
        for index, name in enumerate(shared)
    ]


def sides(protocol: Protocol, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the protocol's photos to edit, and the real ones that FID compares the results with, if these differ."""
    from oodgan.evaluation.edited_fid import Attribute

    chosen = protocol.choose(names)
    return (chosen, []) if protocol.attribute is None else Attribute.from_config(protocol.attribute).sides(chosen)


@dataclass(frozen=True)
class Photos:
    """The photos below a folder: `files` by shortest unique name, and these names by relative path (`keys`)."""

    files: Mapping[str, Path]
    keys: Mapping[str, str]

    @classmethod
    def of(cls, folder: str | Path, what: str = "photos") -> Photos:
        """List a folder. Raises `UserError` if it is missing, empty, or two photos differ only by their endings."""
        files = Listing.of(folder, what).files()
        keys = short(files)
        distinct(list(files), keys.__getitem__, f"of the {what} in {folder} differ by their endings only")
        return cls({keys[name]: path for name, path in files.items()}, keys)

    def matched(self, folder: str | Path, what: str, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
        """Return the images below a folder by the names of their photos; errors as of `names.matched`."""
        files = Listing.of(folder, what, suffixes).files()
        matches = matched(self.keys, files, "photos", what)
        return {self.keys[name]: path for name, path in matches.items()}

    def parsing_masks(self, folder: str | Path, names: Iterable[str]) -> dict[str, Path]:
        """Return the parsing masks of some photos. Raises `UserError` if there is none, or one is invalid."""
        every = self.matched(folder, "parsing masks", (".png",))
        masks = {name: every[name] for name in names if name in every}
        if not masks:
            raise UserError(f"no parsing mask in {folder} has the name of a photo that is measured")
        for path in masks.values():
            read_parsing(path)
        return masks


def _made(value: str) -> bool:
    return str(value) in BUILT_IN


def _results(folder: Path) -> Path:
    """Return the folder of results; the edit stage writes them to a subfolder."""
    return folder / "result" if (folder / "edits.json").is_file() else folder


def _masks(folder: Path, photos: Photos) -> dict[str, Path]:
    """The masks that the edit stage wrote beside its results."""
    made = (folder / "edits.json").is_file() and (folder / "mask").is_dir()
    return photos.matched(folder / "mask", f"masks in {folder}") if made else {}


def _check_sizes(what: str, files: list[Path], protocol: Protocol, mixed: bool) -> None:
    sizes = {path: read_size(path, f"{what}: {path}") for path in files}
    first, size = next(iter(sizes.items()))
    for path, (width, height) in sizes.items():
        if not mixed and (width, height) != size:
            before = f"{first.name} is {size[0]}x{size[1]}"
            raise UserError(f"{what}: mixed sizes: {before}, {path.name} is {width}x{height}")
        if width != height:
            raise UserError(f"{what}: pictures must be square, {path.name} is {width}x{height}; align the photos first")
        if width < protocol.resolution:
            raise UserError(
                f"{what}: pictures are {width} px, the protocol measures at {protocol.resolution}; "
                f"enlarged pictures are not measured, choose metrics.resolution={width} or less"
            )
