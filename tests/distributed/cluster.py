"""A real SLURM of two nodes on this machine's loopback, which runs during a test session."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# SLURM lets a requeued job wait two minutes, and gives it the same time limit again.
_START_REQUEUED = """
while sleep 1; do
    for job in $(squeue -h -t PENDING -o '%A %r' | sed -n 's/ BeginTime//p'); do
        scontrol update JobId=$job StartTime=now TimeLimit=30
    done
done
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")
_CONF = """\
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/s
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/run/ctld.pid
SlurmctldLogFile={folder}/log/ctld.log
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/run/%n.pid
SlurmdLogFile={folder}/log/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=30
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def missing_programs() -> list[str]:
    """Returns the programs of SLURM and munge that are not installed here."""
    return [name for name in PROGRAMS if not shutil.which(name)]


class Cluster:
    """Two nodes `n1` and `n2`. No host table lists their names: only SLURM knows the addresses.

    They have more CPUs than this machine may have, since some of the tests' jobs only wait. Requeued jobs start at
    once and may run for 30 minutes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starter: subprocess.Popen[bytes] | None = None
        for name in ("state", "log", "run", "munge", "spool/n1", "spool/n2"):
            (folder / name).mkdir(parents=True)
        (folder / "munge").chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        conf = _CONF.format(host=host, user=getpass.getuser(), folder=folder, ports=_free_ports(3))
        (folder / "slurm.conf").write_text(conf)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OODGAN_SPREAD", "MASTER_"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }

    def start(self) -> None:
        """Start the daemons; RuntimeError with their logs' last lines when the nodes do not come up."""
        munge = [f"--{name}={self.folder}/{path}" for name, path in _MUNGE.items()]
        self.run("munged", "--force", *munge)
        self.run("slurmctld", "-c")
        for node in ("n1", "n2"):
            self.run("slurmd", "-N", node)
        patience = time.monotonic() + 60
        while time.monotonic() < patience:
            if self.run("sinfo", "-h", "-o", "%t %D", check=False).split() == ["idle", "2"]:
                command, nothing = ["bash", "-c", _START_REQUEUED], subprocess.DEVNULL
                self.starter = subprocess.Popen(command, env=self.environment, stdout=nothing, stderr=nothing)
                return
            time.sleep(0.5)
        logs = [path.read_text(errors="replace")[-600:] for path in sorted((self.folder / "log").glob("*.log"))]
        raise RuntimeError("SLURM did not come up: " + "\n".join(logs))

    def stop(self) -> None:
        """End the jobs and the daemons that this object started."""
        if self.starter:
            self.starter.kill()
            self.starter.wait()
        self.run("scancel", "--full", "--user", getpass.getuser(), check=False)
        for path in sorted((self.folder / "run").glob("*.pid")):
            self.run("kill", path.read_text().strip(), check=False)

    def srun(self, *words: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
        """Run `srun words`, with stdout and stderr in one text."""
        return subprocess.run(
            ["srun", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a script; returns the job's number."""
        path = self.folder / f"job-{secrets.token_hex(4)}.sh"
        path.write_text(script)
        return self.run("sbatch", "--parsable", *options, str(path)).strip()

    def job(self, number: str) -> dict[str, str]:
        """Returns the fields that `scontrol show job` prints."""
        shown = self.run("scontrol", "show", "job", number, "--oneliner")
        return dict(word.partition("=")[::2] for word in shown.split() if "=" in word)

    def wait(self, number: str, states: tuple[str, ...], timeout: int = 600) -> dict[str, str]:
        """Wait until a job is in one of these states; TimeoutError when it takes too long."""
        patience = time.monotonic() + timeout
        while time.monotonic() < patience:
            if (shown := self.job(number)).get("JobState") in states:
                return shown
            time.sleep(0.5)
        raise TimeoutError(f"job {number} is {shown.get('JobState')}, not {' or '.join(states)}")

    def wait_until(self, condition: Callable[[], bool], timeout: int = 600) -> None:
        """Wait until the condition holds; TimeoutError when it takes too long."""
        patience = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > patience:
                raise TimeoutError(f"the condition did not hold within {timeout} s")
            time.sleep(0.5)

    def run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=90)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout


_MUNGE = {
    "key-file": "munge.key",
    "socket": "munge/s",
    "pid-file": "run/munge.pid",
    "log-file": "log/munged.log",
    "seed-file": "munge/seed",
}


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
