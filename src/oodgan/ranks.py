"""The processes that torchrun or SLURM's srun started: who they are, and how the first tells the others what to run.

Such a launcher starts the whole command once for each rank. Only the first runs the stage; the others wait for the
steps that it spreads (`oodgan.training.spread`), take part in them, and write nothing.

Variables such as RANK are often left behind by whatever ran before (a notebook's pod, salloc, a batch script without
srun). They are believed only where all variables of one launcher are there and agree.
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

from oodgan.errors import UserError

SPREAD = "OODGAN_SPREAD"
"""Set by `oodgan.training.spread` in the processes that it starts."""

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES")  # a step is what srun starts
_STRAYS = (*_TORCH, "GROUP_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_LOCALID", "JSM_NAMESPACE_RANK")
_CHUNK = 4 << 20  # the store takes no value above 8 MiB
_channel: Channel | None = None


@dataclass(frozen=True)
class World:
    """The processes that one launcher (`torchrun`, `srun` or our own `spread`) started, and this one's place there."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int


def world() -> World | None:
    """What the launcher's variables say, or None where no launcher's are complete and agree."""
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
    alone = launcher == "srun" and size == 1  # an ordinary process, which may spread over this machine by itself
    return World(launcher, number, size, local, local_size) if agree and not alone else None


def launched() -> bool:
    """Whether something else (torchrun, srun, `spread`) has started the ranks already."""
    return world() is not None


def rank() -> int:
    """This process's number among all, 0 where there is one."""
    here = world()
    return here.rank if here else 0


def placed() -> dict[str, int]:
    """`devices` and `num_nodes` as torchrun or srun started them; nothing without them."""
    here = world()
    if here is None or here.launcher == "spread":
        return {}
    return {"devices": here.local_size, "num_nodes": here.size // here.local_size}


def environments() -> list[Any]:
    """Lightning's plugin for the launcher; it is named always, so that Lightning believes no variables by itself."""
    from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from oodgan.slurm import environment

    made: dict[str, Callable[[], Any]] = {"torchrun": TorchElasticEnvironment, "srun": environment}
    here = world()
    return [made.get(here.launcher if here else "", LightningEnvironment)()]


def drop_strays() -> None:
    """Take out of the environment what says that this process is one of several while no launcher started it so.

    Lightning, torch and wandb each read some of these variables, and would wait for ranks that do not exist.
    """
    if world() is not None:
        return
    told = {name: os.environ.pop(name) for name in _STRAYS if name in os.environ}
    tasks = os.environ.get("SLURM_NTASKS", "")
    if tasks.isdigit() and int(tasks) > 1 and "SLURM_STEP_ID" not in os.environ:
        _note(f"SLURM gave this job {tasks} tasks, but srun did not start this command: it runs as one process. "
              "To use them all: srun oodgan ...")  # fmt: skip
    elif told.get("WORLD_SIZE", "1") not in ("0", "1") or told.get("RANK", "0") != "0":
        named = ", ".join(f"{name}={value}" for name, value in told.items())
        _note(f"{named} are left in the environment, but neither torchrun nor srun started this command: it runs as "
              "one process. To join several: torchrun ... -m oodgan ...")  # fmt: skip


@functools.cache  # once, though each job of a command looks at its environment
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


@contextlib.contextmanager
def joined() -> Iterator[Callable[[], int] | None]:
    """Connect the ranks of a launcher while the block runs.

    Yields None to who runs the command (also when there is one process only), else `follow`, which takes part in what
    the first rank spreads and returns the exit code.

    Raises:
        UserError: the ranks do not find each other.
    """
    global _channel
    drop_strays()
    here = world()
    if here is None or here.launcher == "spread" or here.size < 2 or _channel is not None:
        yield None
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else warnings of IPv6, and a trace for each rank that ends
    _channel = Channel(here.size)
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
        if hosted:
            self._serve(host)

    def _serve(self, host: str) -> None:
        """Give the process group a store of its own, by the variables from which torch makes it.

        torchrun's store outlives a restart, and with it the addresses of ranks that have died: those that start again
        would try to connect to them.
        """
        from torch.distributed import TCPStore

        if rank() == 0:
            self.server = TCPStore(host, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
            self.store.set("port", str(self.server.port))
        os.environ["MASTER_PORT"] = self.store.get("port").decode()
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"

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
    (launcher,) = environments()
    return launcher.main_address, launcher.main_port
