"""Shards: rendered once, continued after an interruption, read back as one set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from oodgan.training.shards import read_shards, render_shards


class Renderer:
    """Random codes for a seed; the call after `last` calls raises KeyboardInterrupt."""

    def __init__(self, last: int | None = None) -> None:
        self.seeds: list[int] = []
        self.last = last

    def __call__(self, seed: int) -> dict[str, Tensor]:
        if len(self.seeds) == self.last:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        return {"code": torch.rand(4, 2, generator=torch.Generator().manual_seed(seed)).T}  # not contiguous


def test_an_interrupted_rendering_continues_with_the_same_result(tmp_path: Path) -> None:
    whole = render_shards(tmp_path / "whole", "codes", 5, 3, Renderer(), "render")
    with pytest.raises(KeyboardInterrupt):
        render_shards(tmp_path / "parts", "codes", 5, 3, Renderer(last=2), "render")
    rest = Renderer()
    parts = render_shards(tmp_path / "parts", "codes", 5, 3, rest, "render")
    assert len(rest.seeds) == 3 and [path.name for path in parts] == [path.name for path in whole]
    assert torch.equal(read_shards(parts)["code"], read_shards(whole)["code"])
    assert sorted(tmp_path.glob("parts/*")) == parts  # no partial file is left


def test_shards_and_seeds_draw_different_samples(tmp_path: Path) -> None:
    renderer = Renderer()
    shards = [path for seed in (0, 1) for path in render_shards(tmp_path, "codes", 3, seed, renderer, "render")]
    assert len(set(renderer.seeds)) == len(set(shards)) == 6
    assert read_shards(shards)["code"].unique(dim=0).shape == (12, 4)
