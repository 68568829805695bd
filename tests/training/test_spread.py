"""Running one function in several processes, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from oodgan.errors import UserError
from oodgan.training.spread import _ended, spread


def test_a_process_that_outlives_the_first_one_is_an_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with pytest.raises(UserError, match=rf"process {child.pid} of this run did not end within 0.5 s"):
            _ended(child, patience=0.5)
    finally:
        child.kill()
        child.wait()


def test_the_exit_code_of_a_failed_process_is_returned() -> None:
    assert _ended(subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])) == 3


def ranks() -> int:
    """Returns the number of processes in the group that this call joins."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=int(os.environ.get("RANK", 0)), world_size=int(os.environ["WORLD_SIZE"]))
    total = torch.ones(())
    dist.all_reduce(total)
    return int(total)


def test_each_call_creates_and_closes_its_own_process_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import test_spread

    def join_one() -> bool:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # as Lightning does
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/{os.urandom(4).hex()}", rank=0, world_size=1)
        return dist.is_initialized()

    monkeypatch.setenv("MASTER_ADDR", "host")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert spread(1, join_one) and not dist.is_initialized()
    assert os.environ["MASTER_ADDR"] == "host" and "MASTER_PORT" not in os.environ
    join_one()  # a group that other code left open
    assert spread(2, test_spread.ranks) == 2 and not dist.is_initialized()
