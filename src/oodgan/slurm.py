"""Calls of SLURM's commands: addresses of nodes, the state of this job, and requeueing it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from typing import Any


def environment() -> Any:
    """Lightning's plugin for the tasks of an srun step.

    Lightning counts the tasks of the job and rejects jobs without `--ntasks-per-node`; here the tasks of the step are
    counted (`oodgan.ranks.world`). Requeueing is done by our checkpoints and `requeue`, not by this plugin.
    """
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    class Step(SLURMEnvironment):
        @property
        def main_port(self) -> int:
            # Neighbouring jobs may share a machine, and each takes two ports (`oodgan.ranks.Channel`).
            number = int(os.environ["SLURM_JOB_ID"]) + 101 * int(os.environ["SLURM_STEP_ID"])
            return int(_setting("MASTER_PORT", str(12000 + 2 * (number % 10000))))

        @property
        def main_address(self) -> str:
            return _setting("MASTER_ADDR", node_address(first_node(os.environ["SLURM_STEP_NODELIST"])))

        def world_size(self) -> int:
            return int(os.environ["SLURM_STEP_NUM_TASKS"])

        def validate_settings(self, num_devices: int, num_nodes: int) -> None:
            """`oodgan.ranks.placed` took both from the step."""

        @staticmethod
        def _validate_srun_variables() -> None:
            """The step's variables are complete, or `oodgan.ranks.world` did not believe them."""

    return Step(auto_requeue=False)


def _setting(name: str, ours: str) -> str:
    """Return the environment variable, set to `ours` where there is none or where it is not of this job.

    A sweep's jobs inherit the environment of the command that submitted them. Two jobs on one machine with the same
    port would join each other's process groups.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        os.environ[name] = ours
    return os.environ.setdefault(name, ours)


def first_node(nodes: str) -> str:
    """The first of a list of nodes as SLURM writes it.

    >>> first_node("n[1-2]"), first_node("gpu[007,9-12]x,login"), first_node("a,b")
    ('n1', 'gpu007x', 'a')
    """
    return re.sub(r"\[(.*?)[,-].*?\]|\[(.*?)\]", lambda match: match[1] or match[2], nodes).split(",")[0]


def node_address(name: str) -> str:
    """Return a node's name if it can be resolved, else the address that SLURM uses."""
    try:
        socket.getaddrinfo(name, None)
        return name
    except OSError:
        return _shown("node", name).get("NodeAddr", name)


def requeue() -> bool:
    """Requeue this job if this is allowed and it was not cancelled; returns whether it was requeued.

    A finished job has the state COMPLETING, whatever ended it; it is requeued only after its time limit.
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
    """Return the output of `scontrol show` for a node or job; empty if it does not answer."""
    return dict(re.findall(r"(\S+?)=(\S*)", _scontrol("show", kind, name, "--oneliner") or ""))


def _scontrol(*words: str) -> str | None:
    try:
        return subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
