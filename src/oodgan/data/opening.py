"""Opens a data set by its path; the format follows from its content."""

from __future__ import annotations

from pathlib import Path

from oodgan.data.celebamask import PHOTOS, CelebAMaskHQ
from oodgan.data.encoded import Encoded
from oodgan.data.files import Folder, Zip
from oodgan.data.shards import Lmdb, WebDataset
from oodgan.data.tables import Parquet
from oodgan.errors import UserError
from oodgan.remote import local

TABLES = (".parquet", ".arrow")


def open_source(path: str | Path, size: int = 256, check: bool = True) -> Encoded:
    """Open a data set: a zip archive, tar shards, LMDB, parquet or Arrow files, CelebAMask-HQ, or a folder of images.

    Raises:
        UserError: the path does not exist, or the format is unknown.
    """
    place = local(path)
    ending = place.suffix.lower()
    if place.is_dir():
        if (place / PHOTOS).is_dir():
            return CelebAMaskHQ(place, size, check=check)
        if (place / "data.mdb").is_file():
            return Lmdb(place, size, check=check)
        if (place / "state.json").is_file() or any(any(place.glob(f"*{kind}")) for kind in TABLES):
            return Parquet(place, size, check=check)
        if any(place.glob("*.tar")):
            return WebDataset(place, size, check=check)
        return Folder(place, size, check=check)
    if ending == ".zip":
        return Zip(place, size, check=check)
    if ending in (".lmdb", ".mdb") and place.is_file():
        return Lmdb(place, size, check=check)
    if ending == ".tar" or (not place.exists() and ".tar" in place.name):
        return WebDataset(place, size, check=check)
    if ending in TABLES:
        return Parquet(place, size, check=check)
    what = "is no data set that is known" if place.exists() else "does not exist"
    raise UserError(f"{path} {what}: a folder, .zip, .tar shards, LMDB, .parquet or .arrow expected")
