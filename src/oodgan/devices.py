"""The device of computations outside Lightning's Trainer: edits, evaluation, and the rendering of training data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from oodgan.errors import UserError


def device_of(accelerator: str) -> str:
    """Return PyTorch's device for `cpu`, `gpu`, `cuda`, `mps` or `auto`. Raises UserError if there is none."""
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "cuda"
    if accelerator in ("mps", "auto") and torch.backends.mps.is_available():
        return "mps"
    if accelerator in ("gpu", "cuda", "mps"):
        raise UserError(f"accelerator={accelerator}, but this machine has none that torch can use; use accelerator=cpu")
    return "cpu"


@contextmanager
def on_accelerator(cfg: Mapping[str, Any], *parts: Any) -> Iterator[str]:
    """Move those parts that are networks to the configured accelerator, and back to the CPU at the end.

    For training data, which are rendered before Lightning moves the trained module. Yields the device.
    """
    device = device_of(str(cfg.get("accelerator", "cpu")))
    networks = [part for part in parts if isinstance(part, nn.Module)]
    try:
        for network in networks:
            network.to(device)
        yield device
    finally:
        for network in networks:
            network.cpu()
