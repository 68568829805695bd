import math

import pytest
import torch
from torch.nn import functional as F

from oodgan.deghost.discriminator import Discriminator, ResidualDown, batch_deviation
from oodgan.errors import UserError


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_deviation_channel_equals_the_standard_deviation_of_each_group():
    x = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    out = batch_deviation(x, group=4)
    assert torch.equal(out[:, :5], x)
    for first in (0, 1):  # groups are strided: images 0, 2, 4, 6 and 1, 3, 5, 7
        expected = x[first::2].var(0, unbiased=False).add(1e-8).sqrt().mean()
        torch.testing.assert_close(out[first::2, 5], expected.expand(4, 4, 4))
    assert batch_deviation(x[:3])[:, 5].unique().numel() == 1
    assert batch_deviation(x[:1])[0, 5].max() < 1e-3


def test_the_residual_block_equals_blur_followed_by_strided_convolution():
    torch.manual_seed(0)
    block = ResidualDown(6, 10)
    x = torch.randn(2, 6, 16, 16)
    taps = torch.tensor([1.0, 3, 3, 1])
    kernel = (torch.outer(taps, taps) / 64).expand(6, 1, 4, 4)
    h = F.leaky_relu(F.conv2d(x, block.conv1[0].weight / math.sqrt(54), padding=1), 0.2) * math.sqrt(2)
    h = F.conv2d(F.pad(h, (2, 2, 2, 2)), kernel, groups=6)
    h = F.leaky_relu(F.conv2d(h, block.conv2[1].weight / math.sqrt(54), stride=2), 0.2) * math.sqrt(2)
    skip = F.conv2d(F.pad(x, (1, 1, 1, 1)), kernel, groups=6)
    skip = F.conv2d(skip, block.skip[1].weight / math.sqrt(6), stride=2)
    torch.testing.assert_close(block(x), (h + skip) / math.sqrt(2), rtol=1e-4, atol=1e-5)


def test_the_discriminator_learns_to_separate_noise_from_flat_images():
    torch.manual_seed(0)
    network = Discriminator(32, channel_multiplier=1, max_channels=16)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    real, fake = images(8), torch.zeros(8, 3, 32, 32)
    losses = []
    for _ in range(12):
        loss = F.softplus(-network(real)).mean() + F.softplus(network(fake)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_logits_have_the_right_shape_and_wrong_sizes_are_errors():
    network = Discriminator(32, max_channels=8)
    assert network(images(2)).shape == (2, 1)
    with pytest.raises(UserError, match="reads 32 x 32"):
        network(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="batch of 6"):
        network(images(6))
    with pytest.raises(UserError, match="not a power of two"):
        Discriminator(100)
