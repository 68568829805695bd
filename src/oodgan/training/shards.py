"""Rendered training data in files of many samples each, so that interrupted rendering can continue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from oodgan.files import save_tensors
from oodgan.training.progress import track


def render_shards(
    folder: Path, name: str, count: int, seed: int, render: Callable[[int], Mapping[str, Tensor]], what: str
) -> list[Path]:
    """Write `count` shards `<name>_<seed>_<number>.safetensors` into a folder, each by `render(its own seed)`.

    Existing shards are kept, so a folder must only be used with the same rendering settings. `what` is the label of the
    progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}_{seed}_{i:04d}.safetensors" for i in range(count)]
    for i, path in enumerate(track(paths, what, unit="shards")):
        if not path.exists():
            tensors = render(seed * 1_000_003 + i)
            save_tensors(path, {key: value.cpu().contiguous() for key, value in tensors.items()})
    return paths


def read_shards(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The samples of all shards, (N, ...) by name, in memory."""
    shards = [load_file(path) for path in paths]
    return {key: torch.cat([shard[key] for shard in shards]) for key in shards[0]}
