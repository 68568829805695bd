"""Hydra sweeps on a Ray cluster.

`hydra-ray-launcher` needs cloudpickle < 3 and therefore cannot be installed together with a current joblib. A job gets
everything it needs (root, sweep, working folder) in its configuration.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from oodgan.errors import UserError
from oodgan.training.plugins import register_plugin


def register() -> None:
    """Make `RayLauncher` known to Hydra.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(f"hydra=ray needs the ray extra: pip install 'oodgan[ray]' ({error})") from error
    register_plugin("oodgan_ray", RayLauncher)


class RayLauncher(Launcher):
    """Runs each job of a sweep as a Ray task.

    Args:
        init: keywords of `ray.init`; `address` names a running cluster.
        remote: keywords of `ray.remote`: the resources of a job (num_cpus, num_gpus, resources).
    """

    def __init__(self, init: Any = None, remote: Any = None) -> None:
        self.init, self.remote = dict(init or {}), dict(remote or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs, as many at a time as fit into the cluster; return their results in order."""
        import ray

        self._connect()
        task = ray.remote(_run).options(max_retries=0, **self.remote)
        assert self.config is not None
        jobs = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = f"ray-{number}", number
            print(f"job {number}: {' '.join(filter_overrides(overrides))}", file=sys.stderr)
            jobs.append(task.remote(config, self.hydra_context, self.task_function, Singleton.get_state()))
        return ray.get(jobs)

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        self._reach()
        python_path = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        known = {"env_vars": {**python_path, **{k: v for k, v in os.environ.items() if k.startswith("OODGAN_")}}}
        chosen = {"runtime_env": known, "include_dashboard": False, "logging_level": "error", **self.init}
        if sys.platform == "linux" and not (self.init.get("address") or os.environ.get("RAY_ADDRESS")):
            # A Ray started for this sweep is reached locally, even if a firewall blocks the machine's own address, by
            # which Ray would replace 127.0.0.1.
            chosen.setdefault("_node_ip_address", "127.0.0.2")
        try:
            ray.init(**chosen)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"no Ray cluster at {self.init.get('address')}: {reason}") from error

    def _reach(self) -> None:
        """Raise UserError if nothing answers at HOST:PORT; Ray itself would retry for minutes."""
        address = str(self.init.get("address"))
        host, _, port = address.rpartition(":")
        if not port.isdigit() or "/" in host:
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"no Ray cluster at {address}: {error.strerror or error}") from error


def _run(config: Any, hydra_context: Any, task_function: Any, singletons: Any) -> JobReturn:
    """One job, in a process of the cluster."""
    setup_globals()
    Singleton.set_state(singletons)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
