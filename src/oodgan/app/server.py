"""The server of the page: a private folder whose files are deleted after a while, and no outgoing connections."""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_ADDRESSED = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0}
"""Audit events, with the index of the address in their arguments."""


class Scratch:
    """A private folder for uploads, views and downloads.

    Files in it are deleted when they are older than `keep` seconds, and the folder at the end. While it is open, gradio
    and `tempfile` use it too, so that all data of visitors are in it.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self._over = threading.Event()

    def __enter__(self) -> Path:
        self.folder = Path(tempfile.mkdtemp(prefix="oodgan-serve-"))
        self._before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = str(self.folder)
        self._sweeper = threading.Thread(target=self._watch, daemon=True)
        self._sweeper.start()
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._sweeper.join()
        environ, tempfile.tempdir = self._before
        if environ is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = environ
        shutil.rmtree(self.folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self._over.wait(min(60.0, self.keep / 2)):
            self.sweep()

    def sweep(self) -> None:
        """Delete the files that were written longer than `keep` seconds ago, and the folders left empty."""
        oldest = time.time() - self.keep
        for path in sorted(self.folder.rglob("*"), reverse=True):  # contents of a folder before the folder
            try:
                if path.lstat().st_mtime < oldest:
                    path.rmdir() if path.is_dir() else path.unlink()
            except OSError:
                continue  # being written, moved, or not empty: try again next time


class BoundedBodies:
    """ASGI middleware that answers 413 to a request with a body above `limit` bytes, and reads no more of it."""

    def __init__(self, app: Any, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limit:
            await send({"type": "http.response.start", "status": 413, "headers": []})
            return await send({"type": "http.response.body", "body": b"too large"})
        read = 0

        async def bounded() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            return message if read <= self.limit else {"type": "http.disconnect"}

        await self.app(scope, bounded, send)


def stay_local(*allowed: str) -> None:
    """Block, in this process and permanently, all connections and name look-ups that leave this machine.

    `allowed` are further addresses, such as the one that is listened on.
    """

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _ADDRESSED:
            address = arguments[_ADDRESSED[event]]
            host = address[0] if isinstance(address, tuple) else address if event == "socket.getaddrinfo" else None
            if not is_local(host) and host not in allowed:
                raise PermissionError(f"oodgan serve must not open connections to other servers: {host} refused")

    sys.addaudithook(refuse)
    # The server requests its own page when it starts, which must not go through a proxy.
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy"), "127.0.0.1", "localhost", *allowed]))


def is_local(host: Any) -> bool:
    """Whether an address means this machine: no name at all, `localhost`, a loopback or the unspecified address.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("example.com"), is_local("192.168.0.7")
    (True, True, False, False)
    """
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if not isinstance(name, str) or name in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def free_port(host: str) -> int:
    """Return a port of `host` that no process listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
