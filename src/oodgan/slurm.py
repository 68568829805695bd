"""What SLURM's own commands know and do: addresses of nodes, the state of this job, putting it back into the queue."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from typing import Any


def environment() -> Any:
    """Lightning's plugin for the tasks of an srun step.

    Lightning counts the job's tasks, and refuses jobs that did not say `--ntasks-per-node`; the step's are counted
    here (`oodgan.ranks.world`). Nor does it requeue: our checkpoints and `requeue` do that.
    """
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    class Step(SLURMEnvironment):
        @property
        def main_port(self) -> int:
            # Neighbouring jobs may share a machine, and each takes two ports (`oodgan.ranks.Channel`).
            number = int(os.environ["SLURM_JOB_ID"]) + 101 * int(os.environ["SLURM_STEP_ID"])
            return int(os.environ.setdefault("MASTER_PORT", str(12000 + 2 * (number % 10000))))

        @property
        def main_address(self) -> str:
            os.environ.setdefault("MASTER_ADDR", node_address(first_node(os.environ["SLURM_STEP_NODELIST"])))
            return os.environ["MASTER_ADDR"]

        def world_size(self) -> int:
            return int(os.environ["SLURM_STEP_NUM_TASKS"])

        def validate_settings(self, num_devices: int, num_nodes: int) -> None:
            """`oodgan.ranks.placed` took both from the step."""

        @staticmethod
        def _validate_srun_variables() -> None:
            """The step's variables are complete, or `oodgan.ranks.world` did not believe them."""

    return Step(auto_requeue=False)


def first_node(nodes: str) -> str:
    """The first of a list of nodes as SLURM writes it.

    >>> first_node("n[1-2]"), first_node("gpu[007,9-12]x,login"), first_node("a,b")
    ('n1', 'gpu007x', 'a')
    """
    return re.sub(r"\[(.*?)[,-].*?\]|\[(.*?)\]", lambda match: match[1] or match[2], nodes).split(",")[0]


def node_address(name: str) -> str:
    """A node's name where it can be looked up, else the address that SLURM itself reaches it by."""
    try:
        socket.getaddrinfo(name, None)
        return name
    except OSError:
        return _shown("node", name).get("NodeAddr", name)


def requeue() -> bool:
    """Put this job back into the queue, where it may go there and nobody cancelled it; returns whether it was done.

    A job that is over reads COMPLETING, whatever ended it; only its time limit is a reason to go on.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return False
    shown = _shown("job", job)
    may = shown.get("Requeue") == "1" and shown.get("BatchFlag") == "1"
    if not may or (shown.get("JobState") != "RUNNING" and shown.get("Reason") != "TimeLimit"):
        return False
    return _scontrol("requeue", job) is not None


def _shown(kind: str, name: str) -> dict[str, str]:
    """What `scontrol show` says of a node or job; nothing where it does not answer."""
    return dict(re.findall(r"(\S+?)=(\S*)", _scontrol("show", kind, name, "--oneliner") or ""))


def _scontrol(*words: str) -> str | None:
    try:
        return subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
