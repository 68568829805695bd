"""One function in several processes of this machine, each a rank of one process group.

Lightning's own launcher starts the command again for each rank, and so the whole stage. Here only the function runs
again, with pickled arguments, so that a pipeline, a sweep's job or a notebook can spread one of its steps.
Under torchrun or SLURM, which start the processes themselves, the waiting ones run it too (`oodgan.ranks`).
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oodgan import _imports
from oodgan.errors import UserError
from oodgan.ranks import SPREAD, channel, launched, rank


def spread(processes: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call `function(*args)` here as rank 0 and in `processes - 1` child processes; return the result of rank 0.

    Under torchrun or srun, the existing ranks are used instead and `processes` is ignored. Without one no process group
    is left
    behind: another call, of another number of processes, would go on in it and be no part of its own.

    Raises:
        UserError: a child ended with an error (its message is on stderr), or does not end.
    """
    others = channel()
    if others is not None:
        return others.call(function, *args)
    if launched():
        return function(*args)
    _leave_group()
    if processes <= 1:
        before = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
        try:
            return function(*args)
        finally:
            _leave_group()
            for name, value in before.items():  # Lightning sets them; commands started later would inherit the port
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "NODE_RANK": "0",
        SPREAD: "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        payload = Path(folder) / "call.pickle"
        payload.write_bytes(pickle.dumps((function, args), protocol=pickle.HIGHEST_PROTOCOL))
        command = [sys.executable, "-m", "oodgan.training.spread", str(payload)]
        # The children must be able to import the classes of the arguments.
        shared = {**os.environ, **group, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        children = [
            subprocess.Popen(command, env={**shared, "LOCAL_RANK": str(number), "RANK": str(number)})
            for number in range(1, processes)
        ]
        os.environ.update(group, LOCAL_RANK="0", RANK="0")
        watch = _Watch(children)
        try:
            watch.start()
            result = function(*args)
            watch.finish()
            return result
        finally:
            watch.kill()
            _leave_group()
            for name in (*group, "LOCAL_RANK", "RANK"):
                os.environ.pop(name, None)


class _Watch(threading.Thread):
    """Ends this process if it waits in a collective call after a child has died."""

    def __init__(self, children: list[subprocess.Popen[bytes]]) -> None:
        super().__init__(daemon=True)
        self.children = children
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(1.0):
            if any(child.poll() for child in self.children):
                # gloo mostly reports the lost peer by itself; nccl would wait for ever.
                if not self.over.wait(15.0):
                    print("error: a process of this run failed; its message is above", file=sys.stderr, flush=True)
                    self.kill()
                    os._exit(2)
                return

    def finish(self) -> None:
        self.over.set()
        codes = [_ended(child) for child in self.children]
        if any(codes):
            raise UserError(f"a process of this run failed (exit codes {codes}); its message is above")

    def kill(self) -> None:
        self.over.set()
        for child in self.children:
            if child.poll() is None:
                child.kill()
                child.wait()


def _ended(child: subprocess.Popen[bytes], patience: float = 120) -> int:
    """The exit code of a process whose work ends with this one's.

    Raises:
        UserError: it does not end within `patience` seconds, so it did not take part in what this process did.
    """
    try:
        return child.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"process {child.pid} of this run did not end within {patience:g} s of the first one and was killed; "
            "the result may be that of one process only"
        ) from None


def _leave_group() -> None:
    """A process group whose other ranks have ended would hang or fail whatever synchronises next in this process."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _main() -> None:
    import oodgan  # noqa: F401  (prepares torchvision before Lightning is imported)

    with _imports.uncollected():
        function, args = pickle.loads(Path(sys.argv[1]).read_bytes())
    try:
        function(*args)
    except UserError as error:
        print(f"error (rank {rank()}): {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    _main()
