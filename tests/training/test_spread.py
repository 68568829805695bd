"""The end of processes that one function was spread over."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from oodgan.training.spread import _ended


def test_a_process_that_hangs_at_its_end_is_killed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with caplog.at_level(logging.WARNING, "oodgan"):
        assert _ended(child, patience=0.5) == 0
    assert child.poll() is not None and str(child.pid) in caplog.text


def test_the_exit_code_of_one_that_failed_is_kept() -> None:
    assert _ended(subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])) == 3
