"""Child processes of the tests end by Ctrl-C even in the background (`make test &`), where it is ignored."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def ctrl_c_is_ignored() -> object:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_processes_that_the_tests_start(
    ctrl_c_is_ignored: object, start: Callable[..., subprocess.Popen[str]]
) -> None:
    waiting = "import time\nprint('ready', flush=True)\ntime.sleep(3600)"
    process = start([sys.executable, "-c", waiting], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == -signal.SIGINT


def test_processes_started_by_a_test_end_when_pytest_is_killed(tmp_path: Path) -> None:
    """A killed pytest leaves no server running."""
    tests = tmp_path / "test_it.py"
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    tests.write_text(
        "import sys, time\nfrom pathlib import Path\n"
        "def test_it(start):\n"
        "    process = start([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"    Path({str(tmp_path / 'pid')!r}).write_text(str(process.pid))\n"
        "    time.sleep(3600)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tests)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: run.poll() is not None or ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()))
        assert run.poll() is None, "pytest ended before its test started"
    finally:
        run.kill()
        run.wait()
    child = Path("/proc") / (tmp_path / "pid").read_text()
    wait_for(lambda: not child.exists())


def wait_for(what: Callable[[], object], seconds: float = 600) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.1)
