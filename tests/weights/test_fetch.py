"""Downloads from a local package index: resumed, verified, atomic, with a one-line error for each failure."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodgan.errors import UserError
from oodgan.weights.registry import REGISTRY, Entry, entry

fetching = importlib.import_module("oodgan.weights.fetch")  # the package's attribute `fetch` is the function

PAYLOAD = np.random.default_rng(0).bytes(40_000)


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pkg/data/net.bin", PAYLOAD)
        archive.writestr("pkg/setup.py", "raise SystemExit('never run')")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("pkg/data/net.bin")
        info.size = len(PAYLOAD)
        archive.addfile(info, io.BytesIO(PAYLOAD))
    return buffer.getvalue()


class Index(ThreadingHTTPServer):
    """A PEP 691 index with one package; `cut` ends the next download after that many bytes."""

    def __init__(self, filename: str, archive: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.filename, self.archive = filename, archive
        self.cut: int | None = None
        self.status: int | None = None
        self.ranges = True
        self.refuses_ranges = False
        self.files: list[dict[str, Any]] = [{"filename": filename, "url": f"../../files/{filename}"}]
        self.page: bytes | None = None
        self.seen: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"


class _Handler(BaseHTTPRequestHandler):
    server: Index
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        index = self.server
        index.seen.append((self.path, self.headers.get("Range")))
        if self.path == "/simple/some-package/":
            self._answer(200, index.page or json.dumps({"files": index.files}).encode())
        elif index.status is not None:
            self._answer(index.status, b"no")
        elif self.path == f"/files/{index.filename}":
            requested = self.headers.get("Range")
            if requested and index.refuses_ranges:
                self._answer(416, b"range not satisfiable")
                return
            start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and index.ranges else 0
            self._answer(206 if start else 200, index.archive[start:])
        else:
            self._answer(404, b"no such page")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        download = self.path.startswith("/files/")
        cut, self.server.cut = (self.server.cut, None) if download else (None, self.server.cut)
        self.wfile.write(body[:cut])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OODGAN_ARCHIVES", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetching, "_CHUNK", 1000)
    return tmp_path / "cache"


def register(monkeypatch: pytest.MonkeyPatch, archive: bytes, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "source": "package",
        "location": "some-package",
        "filename": "some_package-1.0-py3-none-any.whl",
        "version": "1.0",
        "sha256": hashlib.sha256(archive).hexdigest(),
        "size": len(archive),
        "licence": "MIT",
        "use": "tests",
        "members": {"net.bin": "pkg/data/net.bin"},
    }
    item = Entry("small", **{**fields, **changes})
    monkeypatch.setitem(REGISTRY, "small", item)
    return item


@pytest.fixture
def index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    archive = _zip()
    item = register(monkeypatch, archive)
    server = Index(item.filename, archive)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_an_archive_is_fetched_once_and_only_its_members_are_kept(index: Index, cache: Path) -> None:
    folder = fetching.fetch("small", progress=False)
    assert (folder / "net.bin").read_bytes() == PAYLOAD
    assert files(cache) == [f"{folder.name}/files.json", f"{folder.name}/net.bin"]
    requested = len(index.seen)
    assert fetching.fetch("small") == folder and len(index.seen) == requested == 2


def test_processes_that_fetch_at_the_same_time_download_once(index: Index, cache: Path) -> None:
    """Without a lock two would write into the same partial file."""
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: fetching.fetch("small", progress=False), range(4)))
    assert len(folders) == 1 and (folders.pop() / "net.bin").read_bytes() == PAYLOAD
    assert [path for path, _ in index.seen].count(f"/files/{index.filename}") == 1


def test_a_tar_at_an_absolute_url_is_fetched(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.archive = _tar()
    register(monkeypatch, index.archive)
    index.files[0]["url"] = f"{index.url.removesuffix('simple')}files/{index.filename}"
    assert (fetching.fetch("small", progress=True) / "net.bin").read_bytes() == PAYLOAD


def test_a_plain_url_needs_no_index(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{index.url.removesuffix('simple')}files/{index.filename}"
    register(monkeypatch, index.archive, source="url", location=url)
    fetching.fetch("small", progress=False)
    assert [path for path, _ in index.seen] == [f"/files/{index.filename}"]


def test_an_interrupted_download_continues(index: Index, cache: Path) -> None:
    index.cut = 25_000
    with pytest.raises(UserError, match="run the command again to go on"):
        fetching.fetch("small", progress=False)
    (part,) = (cache / "downloads").glob("[!.]*")
    done = part.stat().st_size
    assert part.suffix == ".part" and 20_000 < done <= 25_000
    assert fetching.verify("small") == "absent"
    assert (fetching.fetch("small", progress=False) / "net.bin").read_bytes() == PAYLOAD
    assert index.seen[-1] == (f"/files/{index.filename}", f"bytes={done}-")


def test_a_download_restarts_if_the_server_ignores_ranges(index: Index) -> None:
    index.cut, index.ranges = 25_000, False
    with pytest.raises(UserError):
        fetching.fetch("small", progress=False)
    assert (fetching.fetch("small", progress=False) / "net.bin").read_bytes() == PAYLOAD


def test_a_download_restarts_if_the_server_refuses_the_range(index: Index, cache: Path) -> None:
    part = cache / "downloads" / f"{index.filename}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(index.archive[:100])
    index.refuses_ranges = True
    assert (fetching.fetch("small", progress=False) / "net.bin").read_bytes() == PAYLOAD


def test_a_file_with_a_wrong_hash_is_refused_and_removed(index: Index, cache: Path, monkeypatch) -> None:
    register(monkeypatch, index.archive, sha256="0" * 64)
    with pytest.raises(UserError, match=r"sha256 is .*expected 0000000000000000"):
        fetching.fetch("small", progress=False)
    assert files(cache) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_http_error_names_address_and_status(index: Index, status: int) -> None:
    index.status = status
    with pytest.raises(UserError, match=rf"cannot fetch small: http.*answered {status}"):
        fetching.fetch("small", progress=False)


def test_an_index_without_the_file_or_the_json_format_is_an_error(index: Index) -> None:
    index.files = [{"filename": "some_package-0.9.tar.gz", "url": "x"}]
    with pytest.raises(UserError, match=rf"has no file {index.filename}; set PIP_INDEX_URL"):
        fetching.fetch("small", progress=False)
    index.page = b"<html>the classic index</html>"
    with pytest.raises(UserError, match="PEP 691"):
        fetching.fetch("small", progress=False)


def test_an_unreachable_server_is_a_one_line_error(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError, match="OODGAN_ARCHIVES"):
        fetching.fetch("small", progress=False)


def test_a_full_disk_is_reported_before_the_download(
    index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="OODGAN_CACHE"):
        fetching.fetch("small", progress=False)
    assert index.seen == [] and files(cache) == []


def test_a_disk_that_fills_up_during_the_download_is_a_one_line_error(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if self.suffix == ".part" and "b" in mode:
            raise OSError(28, "No space left on device")
        return real(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="No space left on device"):
        fetching.fetch("small", progress=False)


def test_a_cache_folder_that_cannot_be_created_is_a_one_line_error(index: Index, cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(UserError, match="set OODGAN_CACHE"):
        fetching.fetch("small", progress=False)


def test_a_failed_extraction_leaves_no_folder(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = register(monkeypatch, index.archive, members={"net.bin": "pkg/data/net.bin", "x": "pkg/data/absent.bin"})
    with pytest.raises(UserError, match=r"has no file pkg/data/absent\.bin"):
        fetching.fetch("small", progress=False)
    assert fetching.verify("small") == "absent"
    assert files(cache) == [f"downloads/{item.filename}"]


def test_archives_from_a_folder_need_no_network(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / index.filename).write_bytes(index.archive)
    monkeypatch.setenv("OODGAN_ARCHIVES", str(tmp_path / "archives"))
    assert (fetching.fetch("small") / "net.bin").read_bytes() == PAYLOAD
    assert index.seen == []
    assert (tmp_path / "archives" / index.filename).exists()


def test_a_damaged_archive_from_a_folder_is_refused(index: Index, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / index.filename).write_bytes(index.archive[:-1])
    monkeypatch.setenv("OODGAN_ARCHIVES", str(tmp_path))
    with pytest.raises(UserError, match="sha256"):
        fetching.fetch("small")
    assert (tmp_path / index.filename).exists(), "the user's own file is kept"


def test_verify_reports_ok_missing_and_damaged_files(index: Index) -> None:
    assert fetching.verify("small") == "absent"
    folder = fetching.fetch("small", progress=False)
    assert fetching.verify("small") == "ok"
    (folder / "net.bin").write_bytes(PAYLOAD[:-1] + b"?")
    assert fetching.verify("small") == "damaged: net.bin"
    (folder / "net.bin").unlink()
    assert fetching.verify("small") == "damaged: net.bin"
    (folder / "files.json").unlink()
    assert fetching.verify("small") == "damaged: files.json"


def test_the_error_for_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'mobile_ffhq'"):
        fetching.fetch("mobil_ffhq")


def test_every_registry_entry_is_complete() -> None:
    for name, item in REGISTRY.items():
        assert entry(name) is item and item.name == name
        assert len(item.sha256) == 64 and int(item.sha256, 16) and item.size > 10_000
        assert item.licence and item.use and item.version and item.members
        assert item.version in item.filename
