"""The server of the page: deleted files, refused connections, checked keys."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from oodgan.app.server import BoundedBodies, Scratch
from oodgan.errors import UserError
from oodgan.launch import compose
from oodgan.stages.serve import check


def test_the_scratch_folder_is_private_and_deleted_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    before = tempfile.gettempdir()
    with Scratch(keep=60) as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert os.environ["GRADIO_TEMP_DIR"] == tempfile.gettempdir() == str(folder)
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "photo.jpg").write_bytes(b"x")
    assert not folder.exists()
    assert tempfile.gettempdir() == before and "GRADIO_TEMP_DIR" not in os.environ


def test_old_files_and_empty_folders_are_deleted_automatically() -> None:
    with Scratch(keep=0.4) as folder:
        old, new = folder / "a" / "old.jpg", folder / "b" / "new.jpg"
        for path in (old, new):
            path.parent.mkdir()
            path.write_bytes(b"x")
        os.utime(new, (time.time() + 60,) * 2)
        limit = time.monotonic() + 10
        while old.parent.exists() and time.monotonic() < limit:
            time.sleep(0.05)
        assert not old.parent.exists() and new.exists()


def test_connections_to_other_machines_are_refused() -> None:
    # In a subprocess: stay_local cannot be undone.
    code = """
import asyncio, socket
from oodgan.app.server import stay_local
stay_local("192.0.2.1")
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
for reach in (
    lambda: socket.create_connection(("93.184.216.34", 80), timeout=1),
    lambda: socket.getaddrinfo("example.com", 443),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("8.8.8.8", 53)),
    lambda: asyncio.run(asyncio.open_connection("93.184.216.34", 80)),
):
    try:
        reach()
    except PermissionError as error:
        assert "connections to other servers" in str(error)
    else:
        raise SystemExit("reached")
print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize(
    "word", ["port=70000", "port=web", "max_upload=0", "keep=true", "queue=0", "format=gif", "quality=101"]
)
def test_the_error_for_an_invalid_value_names_the_key(word: str) -> None:
    with pytest.raises(UserError, match=word.partition("=")[0]):
        check(compose("serve", [word]))


def test_the_server_does_not_cache_latent_codes() -> None:
    assert not compose("serve").get("code_cache")


def test_a_missing_gradio_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from oodgan.stages import serve

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"oodgan\[app\]"):
        serve.run(compose("serve"))


def test_an_unknown_backend_is_reported() -> None:
    from oodgan.stages import serve

    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'oodgan[app]'")
    with pytest.raises(UserError, match="did you mean 'openvino'"):
        serve.run(compose("serve", ["backend=openvin"]))


@pytest.mark.parametrize(("length", "chunks", "status"), [(b"8", 1, 200), (b"9", 1, 413), (b"x", 1, 413), (None, 2, 0)])
def test_long_requests_are_refused(length: bytes | None, chunks: int, status: int) -> None:
    """`chunks` of 8 bytes are sent; without a content length, reading ends at the limit with a disconnect."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies = [await receive() for _ in range(chunks)]
        if all(body["type"] == "http.request" for body in bodies):
            await send({"type": "http.response.start", "status": 200})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"12345678"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", length)]
    bounded = BoundedBodies(app, limit=8)
    with ThreadPoolExecutor() as pool:  # a browser's driver may run an event loop in this thread
        pool.submit(lambda: asyncio.run(bounded({"type": "http", "headers": headers}, receive, send))).result()
    assert [message["status"] for message in sent if "status" in message] == ([status] if status else [])
