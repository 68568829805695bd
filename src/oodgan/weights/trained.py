"""Weights that this project trained: safetensors files that say which generator and directions they were made for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from oodgan.errors import UserError, nearest
from oodgan.weights.registry import SHIPPED

FILE = "weights.safetensors"


def save(path: Path, tensors: Mapping[str, Tensor], half: bool = False, **metadata: Any) -> None:
    """Write tensors (as fp16 when `half`) with JSON metadata, by a temporary name."""
    kept = {
        name: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(kept, temporary, {key: json.dumps(value) for key, value in metadata.items()})
    temporary.replace(path)


def locate(source: str | Path) -> Path:
    """A shipped name, a run folder with `weights.safetensors`, or a file -> the file."""
    path = Path(source)
    for found in (SHIPPED / f"{source}.safetensors", path / FILE, path):
        if found.is_file():
            return found
    names = [p.stem for p in SHIPPED.glob("*.safetensors")]
    raise UserError(
        f"no weights {str(source)!r}{nearest(str(source), names)}: neither shipped ({', '.join(sorted(names))}), "
        f"nor a folder with {FILE}, nor a file"
    )


def load(
    source: str | Path, part: str, generator: str | None = None, directions: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights as float32 with their metadata.

    Raises UserError when they are unreadable, of another part, or made for another generator or other directions.
    """
    path = locate(source)
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{path} is not a weights file of this project: {error}") from error
    if metadata.get("part") != part:
        raise UserError(f"{path} holds {metadata.get('part', 'unnamed')} weights, {part} weights are needed")
    _same(path, "generator", metadata.get("generator"), generator)
    _same(path, "directions", metadata.get("directions"), list(directions) if directions is not None else None)
    floats = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    return floats, metadata


def _same(path: Path, what: str, saved: Any, wanted: Any) -> None:
    if wanted is not None and saved is not None and saved != wanted:
        raise UserError(f"{path} was made for {what} {_short(saved)}, but {_short(wanted)} is configured")


def _short(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
