"""What a bug report needs to name: versions of this package, of Python, of torch, and of the system."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from oodgan import __version__


@lru_cache(maxsize=1)
def revision() -> str:
    """Return the git commit that the package runs from, with `-dirty` when files differ; "" outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        return _git(here, "rev-parse", "HEAD") + ("-dirty" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def version_line() -> str:
    """Return one line such as `oodgan 0.1.0 (commit 1a2b3c4d5e6f-dirty, Python 3.11.2, torch 2.13.0, Linux x86_64)`.

    Imports nothing heavy: torch's version is read from its metadata.
    """
    commit, _, dirty = revision().partition("-")
    parts = [f"commit {commit[:12]}{'-' * bool(dirty)}{dirty}"] if commit else []
    parts += [f"Python {platform.python_version()}", f"torch {_installed('torch')}"]
    parts += [f"{platform.system()} {platform.release()} {platform.machine()}"]
    return f"oodgan {__version__} ({', '.join(parts)})"


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
