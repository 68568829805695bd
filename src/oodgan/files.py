"""Files and folders that are whole or not there, and what tells them apart.

They are written under a temporary name and renamed when complete, so that a half-written one is never read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from oodgan.errors import UserError
from oodgan.ranks import rank

MANIFEST = "manifest.json"
"""The file that says what an artifact's folder holds (`oodgan.tracking.artifacts`)."""


@contextlib.contextmanager
def writing(folder: str | Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends well, and is removed when it does not.

    Of several processes only the first one's stays.

    Raises:
        UserError: `folder` exists with something in it and `replace` is false, or the disk refuses.
    """
    folder = Path(folder).absolute()
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; choose another folder, or ask to replace it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield temporary
        if rank() == 0:
            _usual_modes(temporary)
            _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _usual_modes(folder: Path) -> None:
    """Modes as the umask wants them: temporary folders and safetensors' files are their owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (p for p in (folder, *folder.rglob("*")) if not p.is_symlink()):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _swap(temporary: Path, folder: Path) -> None:
    """Put `temporary` at `folder`; what was there is gone only after the new one is in place."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    old = temporary.with_suffix(".old")
    os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def digest(source: str | Path) -> str:
    """sha256 of a file; of an artifact, that of its manifest; of another folder, that of its names, sizes and times.

    Raises:
        UserError: there is nothing at `source`.
    """
    path = Path(source)
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(path)
    if not path.is_dir():
        raise UserError(f"no such file or folder: {source}")
    listing = hashlib.sha256()
    for item in sorted(p for p in path.rglob("*") if p.is_file()):
        stat = item.stat()
        listing.update(f"{item.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return listing.hexdigest()


def _sha(path: Path) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()
