"""Atomic writing of files and folders, and their hashes.

Files and folders are written under a temporary name and renamed when complete, so that incomplete ones are never read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodgan.errors import UserError
from oodgan.ranks import rank

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
"""The file that says what an artifact's folder holds (`oodgan.tracking.artifacts`)."""

LONGEST = 255
"""Bytes that file systems allow a file's name."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_TEMPORARY = re.compile(r"\.oodgan-([0-9a-f]{6})-(\d+)-\d+\.partial")
_counter = itertools.count()


@contextlib.contextmanager
def writing(folder: str | Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` if the block succeeds, and removed otherwise.

    With several processes, only the folder of the first is kept.

    Raises:
        UserError: `folder` is not empty and `replace` is false, or it cannot be written.
    """
    folder = Path(folder).absolute()
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already; choose another folder, or ask to replace it")
    with refusing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:60]}.", suffix=".partial", dir=folder.parent))
    try:
        with refusing(folder):
            yield temporary
            if rank() == 0:
                _usual_modes(temporary)
                _swap(temporary, folder)
    except UserError as error:  # of one of the files in it
        if str(temporary) not in str(error):
            raise
        raise UserError(str(error).replace(str(temporary), str(folder))) from error.__cause__
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _usual_modes(folder: Path) -> None:
    """Set modes by the umask: temporary folders and safetensors files are readable by their owner only."""
    for path in (p for p in (folder, *folder.rglob("*")) if not p.is_symlink()):
        _usual_mode(path)


def _usual_mode(path: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _swap(temporary: Path, folder: Path) -> None:
    """Replace `folder` by `temporary`; the old folder is deleted after the new one is in place."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    old = temporary.with_suffix(".old")
    os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` if the block succeeds, and removed otherwise.

    Parent folders are created. Raises `UserError` if the file cannot be written; an existing `path` is kept then.
    """
    path = Path(path)
    temporary = path.with_name(f".oodgan-{_machine()}-{os.getpid()}-{next(_counter)}.partial")
    try:
        with refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def refusing(path: str | Path) -> Iterator[None]:
    """Turn errors of writing to `path` into a `UserError`."""
    try:
        yield
    except Exception as error:
        if (reason := _refusal(error)) is None:
            raise
        raise UserError(f"cannot write {path}: {reason}") from error


def _refusal(error: BaseException) -> str | None:
    """Return why writing failed (disk full, file too large, not permitted ...), or None for other errors."""
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # closed by the reader of the output
        return error.strerror or str(error)
    if type(error).__name__ == "SafetensorError" and "I/O error" in str(error):
        return str(error).rpartition("I/O error: ")[2]
    return None


def full(error: BaseException) -> bool:
    """Return whether a `UserError` of `replacing` is about the whole disk: full, quota, read-only."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _FULL


@cache
def _machine() -> str:
    """Return an id that separates temporary files of this machine from those of others on a shared disk."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def sweep(folder: Path, deep: bool = True) -> None:
    """Delete temporary files that killed processes of this machine left in a folder (`replacing`), and below it."""
    pattern = ".oodgan-*.partial"
    for path in (folder.rglob if deep else folder.glob)(pattern) if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match and match[1] == _machine() and not _alive(int(match[2])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


@contextlib.contextmanager
def locked(path: str | Path, patience: float = 60.0) -> Iterator[None]:
    """Hold the lock of a file that several processes change, a hidden `.NAME.lock` beside it.

    Raises `UserError` when another process has locked it for more than `patience` seconds (-1: wait without
    limit), or the file cannot be written.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=patience)
    try:
        with refusing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except UserError as error:
        if isinstance(error.__cause__, Timeout):
            raise UserError(
                f"another process has locked {path} for over {patience:g} seconds: is it suspended?"
            ) from error
        raise
    try:
        yield
    finally:
        lock.release()


def fitting(stem: str, ending: str) -> str:
    """Return `stem` + `ending` as a file name; a stem that is too long is shortened, with a hash of all of it.

    >>> fitting("photo", ".png")
    'photo.png'
    >>> name = fitting("n" * 300, "_face0.png")
    >>> len(name), name.endswith("_face0.png"), name == fitting("n" * 301, "_face0.png")
    (255, True, False)
    """
    room = LONGEST - len(os.fsencode(ending))
    raw = os.fsencode(stem)
    if len(raw) <= room:
        return stem + ending
    cut = os.fsdecode(raw[: room - 9])
    # Do not cut a multi-byte character.
    whole = cut if stem.startswith(cut) else raw[: room - 9].decode("utf-8", "ignore")
    return f"{whole}~{hashlib.sha256(raw).hexdigest()[:8]}{ending}"


def below(folder: Path, name: str, ending: str) -> Path:
    """Return the path of a name with folders (`anna/0`) below a folder; its last part is made `fitting`.

    >>> below(Path("made"), "anna/0", ".png").as_posix()
    'made/anna/0.png'
    """
    *folders, last = name.split("/")
    return folder.joinpath(*folders, fitting(last, ending))


def write_text(path: str | Path, text: str) -> None:
    """Write a small file atomically: a reader sees the old or the new text.

    A file name that is not UTF-8 stands in it with its odd bytes as `\\udcXX`. Raises `UserError` as `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def to_json(value: Any, indent: int | None = 1) -> str:
    """Return strict JSON: NaN and infinities become null.

    >>> to_json({"fid": float("nan"), "count": 1}, indent=None)
    '{"fid": null, "count": 1}\\n'
    """
    return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write `to_json` of a value as `write_text` does."""
    write_text(path, to_json(value))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "item") and not getattr(value, "shape", None):  # numbers of numpy and torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with modes by the umask; equal content gives equal bytes.

    Raises `UserError` as `replacing`.
    """
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, dict(metadata) if metadata else None)
        _sort_metadata(temporary)
        _usual_mode(temporary)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in the header, whose order differs between calls of safetensors; its length stays the same."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(data) <= length:
                file.seek(8)
                file.write(data.ljust(length))


def hash_of(source: str | Path) -> str:
    """Return the sha256 of a file; for an artifact, of its manifest; for other folders, of names, sizes and times.

    Raises:
        UserError: `source` does not exist.
    """
    path = Path(source)
    if (path / MANIFEST).is_file():
        path = path / MANIFEST
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(path)
    if not path.is_dir():
        raise UserError(f"no such file or folder: {source}")
    listing = hashlib.sha256()
    for item in sorted(p for p in path.rglob("*") if p.is_file()):
        stat = item.stat()
        listing.update(os.fsencode(f"{item.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return listing.hexdigest()


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            hasher.update(block)
    return hasher.hexdigest()
