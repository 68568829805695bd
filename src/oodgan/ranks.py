"""Ranks started by torchrun or SLURM's srun, and the channel by which the first rank calls the others.

Such a launcher starts the whole command once per rank. Only the first rank runs the stage; the others wait for steps
that it distributes (`oodgan.training.spread`), take part in them, and write nothing.

Variables such as RANK are often left over from something else (a notebook's pod, salloc, a batch script without srun).
They are used only if all variables of one launcher are set and consistent.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from oodgan import _imports
from oodgan.errors import UserError

SPREAD = "OODGAN_SPREAD"
"""Set by `oodgan.training.spread` in the processes that it starts."""

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES")  # a step is what srun starts
_STRAYS = (*_TORCH, "GROUP_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK")
_CHUNK = 4 << 20  # the store accepts values up to 8 MiB
_channel: Channel | None = None


@dataclass(frozen=True)
class World:
    """The processes started by one launcher (`torchrun`, `srun` or our own `spread`), and the rank of this one."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int


def world() -> World | None:
    """Return the world from the launcher's variables, or None if they are incomplete or inconsistent."""
    if SPREAD in os.environ:
        return _world("spread", _numbers(_TORCH))
    if "TORCHELASTIC_RUN_ID" in os.environ and "MASTER_ADDR" in os.environ:
        return _world("torchrun", _numbers(_TORCH))
    if "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" in os.environ and (numbers := _numbers(_SLURM)):
        number, size, local, nodes = numbers
        if size > 1 and nodes > 0 and size % nodes:
            raise UserError(f"srun started {size} tasks on {nodes} nodes: the same number on each is needed")
        return _world("srun", [number, size, local, size // max(nodes, 1)])
    return None


def _numbers(names: Sequence[str]) -> list[int] | None:
    values = [os.environ.get(name, "") for name in names]
    return [int(value) for value in values] if all(value.isdigit() for value in values) else None


def _world(launcher: str, numbers: list[int] | None) -> World | None:
    if numbers is None:
        return None
    number, size, local, local_size = numbers
    agree = number < size and local < local_size and local_size > 0 and size % local_size == 0
    alone = launcher == "srun" and size == 1  # an ordinary process, which may start others on this machine
    return World(launcher, number, size, local, local_size) if agree and not alone else None


def launched() -> bool:
    """Return whether the ranks were started by torchrun, srun or `spread`."""
    return world() is not None


def rank() -> int:
    """Return the rank of this process; 0 if there is only one."""
    here = world()
    return here.rank if here else 0


def placed() -> dict[str, int]:
    """Return `devices` and `num_nodes` of torchrun or srun; empty without them."""
    here = world()
    if here is None or here.launcher == "spread":
        return {}
    return {"devices": here.local_size, "num_nodes": here.size // here.local_size}


def environments() -> list[Any]:
    """Return Lightning's environment plugin, given explicitly so that Lightning does not read the variables itself."""
    from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from oodgan.slurm import environment

    made: dict[str, Callable[[], Any]] = {"torchrun": TorchElasticEnvironment, "srun": environment}
    here = world()
    return [made.get(here.launcher if here else "", LightningEnvironment)()]


def drop_strays() -> None:
    """Remove leftover variables of launchers from the environment if no launcher started this process.

    Lightning, torch and wandb each read some of them, and would wait for ranks that do not exist.
    """
    if world() is not None:
        return
    leftover = {name: os.environ.pop(name) for name in _STRAYS if name in os.environ}
    tasks = os.environ.get("SLURM_NTASKS", "")
    if tasks.isdigit() and int(tasks) > 1 and "SLURM_STEP_ID" not in os.environ:
        _note(f"SLURM gave this job {tasks} tasks, but srun did not start this command: it runs as one process. "
              "To use them all: srun oodgan ...")  # fmt: skip
    elif leftover.get("WORLD_SIZE", "1") not in ("0", "1") or leftover.get("RANK", "0") != "0":
        named = ", ".join(f"{name}={value}" for name, value in leftover.items())
        _note(f"{named} are left in the environment, but neither torchrun nor srun started this command: it runs as "
              "one process. To join several: torchrun ... -m oodgan ...")  # fmt: skip


@functools.cache  # once, although each job of a command checks its environment
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


@contextlib.contextmanager
def joined() -> Iterator[Callable[[], int] | None]:
    """Connect the ranks of a launcher while the block runs.

    Yields None in the first rank (or the only process), else `follow`, a function that takes part in the steps of the
    first rank and returns the exit code.

    Raises:
        UserError: the ranks cannot connect to each other.
    """
    global _channel
    drop_strays()
    here = world()
    if here is None or here.launcher == "spread" or here.size < 2 or _channel is not None:
        yield None
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # avoids IPv6 warnings and tracebacks of ending ranks
    _channel = Channel(here.size)
    try:
        yield _channel.follow if rank() else None
        if not rank():
            _channel.end()
    finally:
        _channel = None


def channel() -> Channel | None:
    """Return the open channel of the first rank, by which it calls the others; None if there is none."""
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
            raise UserError(f"rank {rank()} cannot connect to rank 0 at {host}:{port}: {error}") from error
        self.store = dist.PrefixStore(f"oodgan/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        if hosted:
            self._serve(host)

    def _serve(self, host: str) -> None:
        """Create a separate store for the process group, set in the variables that torch reads.

        torchrun's store survives a restart, with the addresses of dead ranks, to which restarted ranks would try to
        connect.
        """
        from torch.distributed import TCPStore

        if rank() == 0:
            self.server = TCPStore(host, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
            self.store.set("port", str(self.server.port))
        os.environ["MASTER_PORT"] = self.store.get("port").decode()
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function(*args)` in all ranks; returns the result of this one."""
        self._forget()
        self._send((function, args))
        return function(*args)

    def end(self) -> None:
        """Let the other ranks end, and wait until they confirm."""
        self._send(None)
        patience = time.monotonic() + 30
        while self.store.add("ended", 0) < self.size - 1 and time.monotonic() < patience:
            time.sleep(0.05)

    def follow(self) -> int:
        """Run the calls of the first rank until it ends; returns the exit code."""
        while True:
            try:
                with _imports.uncollected():  # what the first call needs
                    call = self._receive()
            except RuntimeError:  # the first rank is gone and has reported why
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
        # By polling, a rank can be interrupted and notices when the store is gone.
        while not self.store.check([f"{self.number}"]):
            time.sleep(0.1)
        count = int(self.store.get(f"{self.number}"))
        data = b"".join(self.store.get(f"{self.number}/{i}") for i in range(count))
        self.number += 1
        return pickle.loads(data)

    def _forget(self) -> None:
        """Delete the last call, which all ranks have completed."""
        if self.number:
            for i in range(int(self.store.get(f"{self.number - 1}"))):
                self.store.delete_key(f"{self.number - 1}/{i}")


def _address() -> tuple[str, int]:
    (launcher,) = environments()
    return launcher.main_address, launcher.main_port
