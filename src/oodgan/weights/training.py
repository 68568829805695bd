"""Reads weights from a training's checkpoint (`best.ckpt`, `last.ckpt`) as from its artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from oodgan.errors import UserError
from oodgan.weights import checkpoint

_OWNERS = ("ema.module.", "network.")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the averaged weights (or the trained ones if there are none) and the metadata of the artifact.

    Returns None if the file is not a checkpoint of this package.

    Raises:
        UserError: a checkpoint of a training that exports nothing.
    """
    saved = checkpoint.read(path)
    if not isinstance(saved, dict) or not {"state_dict", "exports"} <= set(saved):
        return None
    metadata = dict(saved["exports"])
    if not metadata:
        raise UserError(f"{path} does not name the part of its weights: it was not written by a stage of oodgan")
    state: dict[str, Tensor] = saved["state_dict"]
    owner = next(prefix for prefix in _OWNERS if any(name.startswith(prefix) for name in state))
    tensors = {name.removeprefix(owner): value for name, value in state.items() if name.startswith(owner)}
    return {**tensors, **metadata.pop("tensors", {})}, metadata
