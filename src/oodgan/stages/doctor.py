"""Show versions, devices, weights and free disk, and list problems

    oodgan doctor

Paste the output into a bug report. The exit code is 1 when a required package is missing or weights are damaged.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from oodgan.command.version import version_line

READS = ()
OPTIONAL = ("gradio", "openvino", "onnx", "optuna", "tensorboard")
LEAST_FREE = 3e9  # bytes that the demo needs: weights, their archives, samples


def run(cfg: DictConfig) -> dict[str, Any]:
    """Print the report. Returns the list of problems and the exit code."""
    problems: list[str] = []
    for title, lines in (
        ("versions", _versions(problems)),
        ("devices", _devices()),
        ("weights", _weights(problems)),
        ("disk", _disk(problems)),
    ):
        print(f"{title}\n" + "".join(f"  {line}\n" for line in lines))
    print("\n".join(f"problem: {problem}" for problem in problems) or "no problems")
    return {"exit_code": int(bool(problems)), "problems": problems}


def _versions(problems: list[str]) -> list[str]:
    from oodgan.launch import config_folder

    lines = [
        version_line(),
        f"python {sys.executable}",
        f"configs {config_folder()}",
    ]
    for name in _needed():
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} missing")
            problems.append(f"{name} is not installed; run: pip install {name}")
    for name in OPTIONAL:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} not installed (optional)")
    return lines


def _needed() -> list[str]:
    """The packages that this one requires, without extras."""
    try:
        wanted = metadata.requires("oodgan") or []
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return ["torch", "pytorch-lightning", "hydra-core"]
    names = (re.match(r"[\w.-]+", line) for line in wanted if "extra ==" not in line)
    return [name.group() for name in names if name]


def _devices() -> list[str]:
    import torch

    lines = [f"cpu: {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads, {_memory()}"]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        lines.append(f"cuda:{index}: {card.name}, {card.total_memory / 2**30:.0f} GiB (say trainer=gpu)")
    if torch.backends.mps.is_available():
        lines.append("mps: Apple GPU (say accelerator=mps)")
    return lines if len(lines) > 1 else [*lines, "no GPU that torch can use; everything runs on the CPU"]


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on Windows
        return "memory unknown"
    return f"{total / 2**30:.1f} GiB memory"


def _weights(problems: list[str]) -> list[str]:
    from oodgan.weights.fetch import cache_folder, verify
    from oodgan.weights.registry import REGISTRY, SHIPPED

    lines = [f"cache {cache_folder()}"]
    for name in REGISTRY:
        state = verify(name)
        lines.append(f"{name}: {'not fetched yet' if state == 'absent' else state}")
        if state.startswith("damaged"):
            problems.append(f"weights {name} are {state}; run: oodgan weights fetch {name}")
    lines += [f"{path.stem}: shipped" for path in sorted(SHIPPED.glob("*.safetensors"))]
    return lines


def _disk(problems: list[str]) -> list[str]:
    from oodgan.weights.fetch import cache_folder

    lines = []
    for what, folder in (("here", Path.cwd()), ("cache", cache_folder())):
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free
        lines.append(f"{what}: {free / 1e9:.1f} GB free at {folder}")
        if free < LEAST_FREE:
            problems.append(f"only {free / 1e9:.1f} GB free at {folder}; the demo needs {LEAST_FREE / 1e9:.0f} GB")
    return lines
