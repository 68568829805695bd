"""Files of other machines (`s3://`, `gs://`, `hf://`, `memory://`, ...): copied by fsspec into the cache folder once.

What reads them afterwards reads plain files, so order, resume and several processes are those of a folder. A copy
is brought up to date by sizes and tags once a process: new and changed files are copied again, and those that are gone
are deleted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from oodgan.errors import UserError
from oodgan.files import locked, write_json
from oodgan.paths import cache_folder

log = logging.getLogger("oodgan")

LARGE = (".ckpt", ".safetensors", ".npz", ".zip", ".tar")
"""What a comparison of runs does not need."""

_TAGS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "created", "blob_id", "xet_hash")
_MAGIC = "*?["
_S3 = "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (FSSPEC_S3_ANON=true for a public bucket)"
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login"
_ACCOUNTS = {"s3": _S3, "s3a": _S3, "gs": _GOOGLE, "gcs": _GOOGLE, "hf": "HF_TOKEN, or hf auth login"}
_BATCH = 64


def local(place: str | Path, leave: tuple[str, ...] = ()) -> Path:
    """The path on this machine of a file, folder or glob: that of a URL's copy, else the path itself, `~` resolved.

    Args:
        leave: endings of files that are not copied.

    Raises:
        UserError: a URL that leads nowhere, that refuses access, or whose library is not installed.
    """
    return _copy(str(place), leave) if "://" in str(place) else Path(place).expanduser()


@lru_cache(maxsize=256)
def _copy(url: str, leave: tuple[str, ...]) -> Path:
    base, pattern = _split(url)
    target = _folder(f"{url} {leave}" if leave else url).joinpath(*PurePosixPath(base.partition("://")[2]).parts[-2:])
    with _reaching(url):
        files = {name: info for name, info in _listing(base, pattern).items() if not name.endswith(leave or "\0")}
        if not files:
            raise UserError(f"{url}: there is no such file or folder, or it is empty")
        with locked(target, patience=-1):
            _update(url, files, target)
    return target / pattern if pattern else target


def _split(url: str) -> tuple[str, str]:
    """A URL's part before the first folder or file with a wildcard, and the rest."""
    protocol, _, path = url.partition("://")
    parts = path.rstrip("/").split("/")
    plain = next((i for i, part in enumerate(parts) if any(c in part for c in _MAGIC)), len(parts))
    return f"{protocol}://{'/'.join(parts[:plain])}", "/".join(parts[plain:])


def _folder(key: str) -> Path:
    return cache_folder() / "remote" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _listing(base: str, pattern: str) -> dict[str, dict[str, Any]]:
    """Relative path -> what the file system says of the file; the path is empty where `base` is a file itself."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(base)
    if pattern:
        entries = system.glob(f"{root}/{pattern}", detail=True)
    elif system.isdir(root):
        entries = system.find(root, detail=True)
    else:
        entries = {root: system.info(root)}
    files: dict[str, dict[str, Any]] = {}
    for path, info in entries.items():
        if info.get("type") != "file" or path.endswith("/"):
            continue
        name = path[len(root) :].lstrip("/")
        if name and any(part in ("", ".", "..") or "\\" in part for part in name.split("/")):
            raise UserError(f"{base} holds {name!r}, whose name cannot be a file's here")
        files[name] = {**info, "system": system}
    return files


def _update(url: str, files: Mapping[str, dict[str, Any]], target: Path) -> None:
    """Bring the copy up to date. An interrupted one goes on where it stopped."""
    record = target.with_name(f".{target.name}.json")
    known = _read(record)
    stamps = {name: " ".join(str(info.get(tag, "")) for tag in _TAGS) for name, info in files.items()}
    for name in known.keys() - files.keys():
        (target / name).unlink(missing_ok=True)
    held = {name: stamp for name, stamp in known.items() if name in files}
    missing = [name for name in files if held.get(name) != stamps[name] or not (target / name).is_file()]
    if missing:
        size = sum(files[name].get("size") or 0 for name in missing) / 2**20
        log.warning("copying %d file(s), %.1f MB, from %s to %s", len(missing), size, url, target)
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        paths = [target / name if name else target for name in batch]
        partial = [path.with_name(f".{path.name}.partial") for path in paths]
        for path in partial:
            path.parent.mkdir(parents=True, exist_ok=True)
        system = files[batch[0]]["system"]
        try:
            system.get([files[name]["name"] for name in batch], [str(path) for path in partial])
            for path, done in zip(partial, paths, strict=True):
                path.replace(done)
        finally:
            for path in partial:
                path.unlink(missing_ok=True)
        held |= {name: stamps[name] for name in batch}
        write_json(record, held)
    if known != held:
        write_json(record, held)


def _read(record: Path) -> dict[str, str]:
    try:
        stamps = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Turn what file systems of all kinds raise into one line that names the URL and what to do."""
    protocol = url.partition("://")[0]
    account = _ACCOUNTS.get(protocol, "the credentials")
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        how = ": pip install 'oodgan[remote]'" if protocol in _ACCOUNTS else f" ({error})"
        raise UserError(f"{url} needs a library that is not installed{how}") from error
    except Exception as error:
        brief = " ".join(str(error).split())[:160] or type(error).__name__
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{url} cannot be copied to {cache_folder()} ({error.strerror}); set OODGAN_CACHE"
            ) from error
        if _refused(error):
            raise UserError(f"{url} refuses access ({brief}); check {account}") from error
        if _named(error, "Credential", "Profile", "Token", "RefreshError"):
            raise UserError(f"{url} needs credentials ({brief}); check {account}") from error
        if _named(error, "Connect", "Timeout", "gaierror", "SSL", "Offline"):
            server = " and FSSPEC_S3_ENDPOINT_URL" if protocol in ("s3", "s3a") else ""
            raise UserError(f"{url} cannot be reached ({brief}); check the network{server}") from error
        if isinstance(error, FileNotFoundError):
            raise UserError(f"{url}: there is no such file or folder") from error
        raise UserError(f"{url} cannot be read: {brief}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refused(error: BaseException) -> bool:
    """Whether a server answered 401 or 403, which some file systems report as a missing file."""
    status = [getattr(each, "status", None) or getattr(getattr(each, "response", None), "status_code", None)
              for each in _causes(error)]  # fmt: skip
    return isinstance(error, PermissionError) or bool({401, 403} & set(status))


def _named(error: BaseException, *words: str) -> bool:
    """Whether the class of the error or of one of its causes is named so: each library has classes of its own."""
    names = [cls.__name__ for each in _causes(error) for cls in type(each).__mro__]
    return any(word in name for word in words for name in names)
