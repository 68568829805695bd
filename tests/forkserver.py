"""Starts `python -m oodgan ...` by forking a process that has imported torch and Lightning already.

Importing them takes a command over three seconds of CPU, and the tests start a hundred commands. A forked command is a
process like any other: it has its own arguments, environment, folder, standard files and exit code, and its parent is
the process that started it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

MODULES = ("oodgan", "oodgan.training.spread", "ipykernel_launcher")
FORKED = [sys.executable, "-X", "forked"]  # followed by -c and code, which are forked too; Python ignores the option
# Variables that are read while Python starts or while a library is imported.
READ_EARLY = ("HOME", "KMP", "LANG", "LC_", "MALLOC", "MKL", "MPL", "OMP", "OPENBLAS", "PYTHON", "THP", "XDG")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(READ_EARLY) and k != "PYTHONPATH"}


class Server:
    """A process that forks commands, until it is closed or this process ends."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.early, self.owner = _early(environment), os.getpid()
        self.lock, self.libc = threading.Lock(), ctypes.CDLL(None)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            options = {"pass_fds": [theirs.fileno()], "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
            self.process = subprocess.Popen(command, env=environment, **options)
        self.ready = self.socket.recv(16) == b"ready"

    def close(self) -> None:
        self.socket.close()
        self.process.wait()

    def start(self, words: list[str], cwd: Any, env: Mapping[str, str], session: bool, files: list[int]) -> int:
        """Returns the process id of `python *words` with these files as standard input, output and error."""
        message = pickle.dumps((words, os.path.abspath(cwd or os.curdir), dict(env), session))
        with self.lock:
            # The command's parent ends at once; the command becomes a child of this process.
            self.libc.prctl(_SUBREAPER, 1)
            socket.send_fds(self.socket, [message], files)
            answer = self.socket.recv(16)
            self.libc.prctl(_SUBREAPER, 0)
        if not answer:
            raise RuntimeError("the process that forks commands has ended")
        return int(answer)


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """`subprocess.Popen` that forks commands of `MODULES`, and starts everything else from nothing."""

    server: Server | None = None
    environment: Mapping[str, str] = MappingProxyType(dict(os.environ))

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _, pass_fds, cwd, env, _, _, shell, *pipes = rest[:13]
        env = os.environ if env is None else env
        words = [] if isinstance(args, str | bytes) else [os.fspath(word) for word in args]
        *user, session = rest[14:19]
        unusual = executable or preexec_fn or pass_fds or shell or any(o not in (None, -1) for o in (*user, *rest[19:]))
        ours = words[:2] == [sys.executable, "-m"] and words[2] in MODULES
        code = words[:3] == FORKED and words[3] == "-c"
        if unusual or not (ours or code) or not self._may_fork(env):
            super()._execute_child(args, executable, preexec_fn, *rest)
            return
        stdin, _, _, stdout, _, stderr = pipes
        files = [own if own != -1 else number for number, own in enumerate((stdin, stdout, stderr))]
        self.pid = self.server.start(words[3 if code else 1 :], cwd, env, session, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)

    @classmethod
    def _may_fork(cls, env: Mapping[str, str]) -> bool:
        if sys.platform != "linux" or any(name.startswith("COVERAGE") for name in env):
            return False
        cls.server = cls.server or Server(cls.environment)
        return cls.server.ready and os.getpid() == cls.server.owner and _early(env) == cls.server.early


def _import() -> bool:
    """Import what commands import; returns whether this process may be forked afterwards."""
    gc.disable()
    import torch

    from oodgan.cli import stage_names

    for name in ("pytorch_lightning", "oodgan.launch", *(f"oodgan.stages.{stage}" for stage in stage_names())):
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    alone = len(os.listdir("/proc/self/task")) == 1
    return alone and not torch.version.cuda and not torch.version.hip  # a driver does not survive a fork


def _serve(channel: socket.socket) -> tuple[list[str], str, dict[str, str], bool]:
    """Fork a process per request; returns the request in the forked process."""
    while True:
        message, files, *_ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            os._exit(0)
        reading, writing = os.pipe()
        if (between := os.fork()) == 0:
            if pid := os.fork():
                os.write(writing, str(pid).encode())
                os._exit(0)
            for number, file in enumerate(files):
                os.dup2(file, number)
            for file in (*files, reading, writing):
                os.close(file)
            channel.close()
            return pickle.loads(message)
        os.waitpid(between, 0)
        channel.send(os.read(reading, 16))
        for file in (*files, reading, writing):
            os.close(file)


def _python_path(environment: Mapping[str, str]) -> list[str]:
    given = environment.get("PYTHONPATH", "")
    return [path or os.getcwd() for path in given.split(os.pathsep)] if given else []


def _main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    if (interrupt := signal.getsignal(signal.SIGINT)) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a traceback
    own = [*_python_path(os.environ), os.path.dirname(__file__)]
    installed = [path for path in sys.path if path not in own]
    channel.send(b"ready" if _import() else b"no")
    (option, what, *words), cwd, environment, session = _serve(channel)
    signal.signal(signal.SIGINT, interrupt)
    if session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [cwd, *_python_path(environment), *installed]
    tempfile.tempdir = None
    if option == "-m":
        sys.argv[:] = [what, *words]
        runpy._run_module_as_main(what)
    else:
        sys.argv[:] = ["-c", *words]
        main = vars(sys.modules["__main__"])
        for name in [name for name in main if not name.startswith("__")]:
            del main[name]
        exec(compile(what, "<string>", "exec"), main)


if __name__ == "__main__":
    _main()
