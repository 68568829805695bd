"""Weights out of a training's checkpoint (`best.ckpt`, `last.ckpt`), as its artifact would hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from oodgan.errors import UserError
from oodgan.weights import checkpoint

_OWNERS = ("ema.module.", "network.")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The averaged weights (the trained ones where none are averaged) and what the artifact would say of them.

    Returns None for a file that is no checkpoint of a training here.

    Raises:
        UserError: one of a training that exports nothing.
    """
    saved = checkpoint.read(path)
    if not isinstance(saved, dict) or not {"state_dict", "exports"} <= set(saved):
        return None
    metadata = dict(saved["exports"])
    if not metadata:
        raise UserError(f"{path} does not say what part its weights are of: no stage of oodgan wrote it")
    state: dict[str, Tensor] = saved["state_dict"]
    owner = next(prefix for prefix in _OWNERS if any(name.startswith(prefix) for name in state))
    tensors = {name.removeprefix(owner): value for name, value in state.items() if name.startswith(owner)}
    return {**tensors, **metadata.pop("tensors", {})}, metadata
