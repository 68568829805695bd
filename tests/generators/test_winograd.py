import pytest
import torch
from torch.nn import functional as F

from oodgan.generators import winograd
from oodgan.generators.stylegan2 import StyleGAN2


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


# Heights of one strip of tiles, of several strips, and of a number of tiles that the strip height does not divide.
@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 64), (2, 96, 96), (1, 44, 256), (1, 4, 1024)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_winograd_convolution_equals_torch(count, height, width, memory):
    x = random(count, 128, height, width).contiguous(memory_format=memory)
    weight, bias = random(130, 128, 3, 3) / 34, random(130)
    expected = F.conv2d(x, weight, bias, padding=1)
    with torch.no_grad():
        result = winograd.conv3x3(x, weight, bias)
        assert not torch.equal(result, expected)  # really computed by the other algorithm
        torch.testing.assert_close(result, expected, rtol=0, atol=3e-5 * float(expected.abs().max()))
        without = winograd.conv3x3(x, weight)
    torch.testing.assert_close(without, F.conv2d(x, weight, padding=1), rtol=0, atol=3e-5 * float(expected.abs().max()))


def test_small_odd_and_differentiated_convolutions_use_torch():
    weight = random(128, 128, 3, 3).requires_grad_()
    x = random(1, 128, 64, 64)
    assert winograd.conv3x3(x, weight).requires_grad
    with torch.no_grad():
        for other in (x[:, :, :, :62], x[:, :, :32, :32]):
            assert torch.equal(winograd.conv3x3(other, weight), F.conv2d(other, weight, padding=1))
        narrow = weight[:64]
        assert torch.equal(winograd.conv3x3(x, narrow), F.conv2d(x, narrow, padding=1))


def test_tiles_are_converted_back_to_the_same_image():
    image = random(3, 8, 12)
    tiles = winograd.to_tiles(image)
    assert tiles.shape == (4, 4, 3, 2, 3)
    assert torch.equal(tiles[1, 2, :, 1, 2], image[:, 5, 10])
    assert torch.equal(winograd.from_tiles(tiles), image)


def test_dense_tiles_convolve_the_appended_channels():
    first, more = random(6, 16, 24), random(4, 16, 24)
    work = winograd.DenseTiles(6, 4, 1, 4, 6)
    for again in (1.0, -2.0):  # buffers are reused for the next block
        work.append(winograd.to_tiles(first * again), 0)
        work.append(winograd.to_tiles(more), 6)
        for channels, seen in ((6, first * again), (10, torch.cat([first * again, more]))):
            weight, bias = random(5, channels, 3, 3), random(5)
            result = winograd.from_tiles(work.convolve(weight, bias))
            expected = F.conv2d(seen[None], weight, bias, padding=1)[0]
            torch.testing.assert_close(result, expected, rtol=0, atol=3e-5 * float(expected.abs().max()))


def test_synthesis_by_tiles_equals_synthesis_with_gradients():
    generator = StyleGAN2(64, channel_multiplier=1, max_channels=128, n_mlp=1)
    codes = random(1, generator.num_ws, 512)
    expected = generator.synthesis(codes).detach()  # with gradients: ordinary convolutions, modulated activations
    with torch.no_grad():
        result = generator.synthesis(codes)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
