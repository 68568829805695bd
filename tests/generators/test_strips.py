from itertools import pairwise

import pytest
import torch
from torch import nn

from oodgan.generators import strips
from oodgan.generators.stylegan2 import tiny


@torch.no_grad()
@pytest.mark.parametrize("rows", [4, 8, 12, 28, 32])
def test_computing_in_strips_gives_the_same_result(rows, monkeypatch):
    torch.manual_seed(0)
    up = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.PixelShuffle(2))
    last = nn.Sequential(nn.Conv2d(5, 6, 3, padding=1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(6, 3, 3, padding=1))
    x, finer, seen = torch.randn(2, 5, 32, 16), torch.randn(2, 3, 64, 32), []

    def run(cut):
        seen.append(cut(x).shape[2])
        return last(torch.cat([up(cut(x)), cut(finer)], 1))

    expected = run(strips.whole)
    monkeypatch.setattr(strips, "PIXELS", rows * 16)
    torch.testing.assert_close(strips.in_strips(run, x), expected, rtol=1e-5, atol=1e-6)
    assert len(set(seen[1:])) == 1, "all strips have the same height"
    assert len(seen) - 1 == -(-32 // rows)
    with torch.enable_grad():
        strips.in_strips(run, x)
    assert seen[-1] == 32, "not in strips when gradients are needed"


@torch.no_grad()
@pytest.mark.parametrize("noise", ["const", "none", "random"])
def test_a_generator_makes_the_same_image_in_strips(noise, monkeypatch):
    generator = tiny(seed=3, resolution=64)
    codes = torch.randn(2, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    images = []
    for pixels in (strips.PIXELS, 4 * 32):
        monkeypatch.setattr(strips, "PIXELS", pixels)
        torch.manual_seed(0)
        images.append(generator.synthesis(codes, noise))
    torch.testing.assert_close(images[1], images[0], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_level_computes_the_next_of_the_levels():
    generator = tiny(seed=3)
    codes = torch.randn(2, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    result = list(generator.levels(codes))
    assert [size for size, _ in result] == [4, 8, 16, 32]
    for (_, x), (_, finer) in pairwise(result):
        torch.testing.assert_close(generator.level(x, codes), finer)


@torch.no_grad()
def test_returning_freed_memory_works_with_and_without_malloc_trim(monkeypatch):
    strips.give_back()
    monkeypatch.setattr(strips, "_malloc_trim", lambda: None)
    strips.give_back()
