"""The processes that torchrun or SLURM's srun started: who they are, and how the first tells the others what to run.

Such a launcher starts the whole command once for each rank. Only the first runs the stage; the others wait for the
steps that it spreads (`oodgan.training.spread`), take part in them, and write nothing.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from oodgan.errors import UserError

_CHUNK = 4 << 20  # the store takes no value above 8 MiB
_channel: Channel | None = None


def launched() -> bool:
    """Whether something else (torchrun, srun, `spread`) has started the ranks already."""
    return "LOCAL_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ or _srun()


def rank() -> int:
    """This process's number among all, 0 where there is one."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def placed() -> dict[str, int]:
    """`devices` and `num_nodes` as torchrun or srun started them; nothing without them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif _srun():
        world = int(os.environ["SLURM_NTASKS"])
        local = int(os.environ.get("SLURM_NTASKS_PER_NODE") or world // int(os.environ.get("SLURM_NNODES") or 1))
    else:
        return {}
    return {"devices": local, "num_nodes": world // local}


def environments() -> list[Any]:
    """Lightning's plugin for the launcher, where it would not find the right one by itself."""
    from pytorch_lightning.plugins.environments import LightningEnvironment

    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_NTASKS" not in os.environ:
        return []
    # Where there is one task, the processes of `spread` have other numbers than SLURM's.
    return [_slurm() if _srun() else LightningEnvironment()]


def _slurm() -> Any:
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    try:
        # Our own checkpoints let a requeued job go on; Lightning's would be written besides.
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:  # numbers of tasks that it cannot tell apart
        raise UserError(str(error)) from error


def _srun() -> bool:
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS") or 1) > 1 and not interactive


@contextlib.contextmanager
def joined() -> Iterator[Callable[[], int] | None]:
    """Connect the ranks of a launcher while the block runs.

    Yields None to who runs the command (also when there is one process only), else `follow`, which takes part in what
    the first rank spreads and returns the exit code.

    Raises:
        UserError: the ranks do not find each other.
    """
    global _channel
    place = placed()
    size = place["devices"] * place["num_nodes"] if place else 1
    if size < 2 or _channel is not None:
        yield None
        return
    _channel = Channel(size)
    try:
        yield _channel.follow if rank() else None
        if not rank():
            _channel.end()
    finally:
        _channel = None


def channel() -> Channel | None:
    """The open channel of the first rank, by which it calls the others; None where there is none."""
    return None if rank() else _channel


class Channel:
    """Calls from the first rank to all others, through a key-value store that torchrun or the first rank hosts."""

    def __init__(self, size: int, patience: timedelta = timedelta(minutes=10)) -> None:
        import torch.distributed as dist

        self.size, self.number = size, 0
        host, port = _address()
        hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        try:
            store = dist.TCPStore(
                host,
                port if hosted else port + 1,  # Lightning's own group takes the port itself
                is_master=not hosted and rank() == 0,
                timeout=patience,
                wait_for_workers=False,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"rank {rank()} does not reach the first one at {host}:{port}: {error}") from error
        self.store = dist.PrefixStore(f"oodgan/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function(*args)` in all ranks; returns what it returns here."""
        self._forget()
        self._send((function, args))
        return function(*args)

    def end(self) -> None:
        """Let the others end, and wait until they know."""
        self._send(None)
        patience = time.monotonic() + 30
        while self.store.add("ended", 0) < self.size - 1 and time.monotonic() < patience:
            time.sleep(0.05)

    def follow(self) -> int:
        """Run what the first rank calls, until it ends; returns the exit code."""
        while True:
            try:
                call = self._receive()
            except RuntimeError:  # the first rank is gone; it has said why
                return 2
            if call is None:
                self.store.add("ended", 1)
                return 0
            function, args = call
            try:
                function(*args)
            except UserError as error:
                # What ends the step in all ranks (a signal, a pruned trial) leaves the decision to the first one.
                if not getattr(error, "in_all_ranks", False):
                    print(f"error (rank {rank()}): {error}", file=sys.stderr)
                    return 2

    def _send(self, message: Any) -> None:
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        parts = range(0, len(data), _CHUNK)
        for i, start in enumerate(parts):
            self.store.set(f"{self.number}/{i}", data[start : start + _CHUNK])  # type: ignore[arg-type]
        self.store.set(f"{self.number}", str(len(parts)))
        self.number += 1

    def _receive(self) -> Any:
        # Asking again and again, a rank can be interrupted, and sees that the store is gone.
        while not self.store.check([f"{self.number}"]):
            time.sleep(0.1)
        count = int(self.store.get(f"{self.number}"))
        data = b"".join(self.store.get(f"{self.number}/{i}") for i in range(count))
        self.number += 1
        return pickle.loads(data)

    def _forget(self) -> None:
        """Free the last call, which all ranks have taken part in."""
        if self.number:
            for i in range(int(self.store.get(f"{self.number - 1}"))):
                self.store.delete_key(f"{self.number - 1}/{i}")


def _address() -> tuple[str, int]:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    slurm = _slurm()
    return slurm.main_address, slurm.main_port
