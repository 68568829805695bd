import pytest
import torch
from torch.nn import functional as F

from oodgan.deghost.losses import GeneratorLoss, PerceptualLoss, discriminator_loss, discriminator_losses


def test_gan_losses_are_cross_entropies():
    logits = torch.tensor([[-3.0], [0.0], [2.0], [40.0]])
    ones, zeros = torch.ones(4, 1), torch.zeros(4, 1)
    real, fake = discriminator_losses(logits, logits)
    torch.testing.assert_close(real, F.binary_cross_entropy_with_logits(logits, ones))
    torch.testing.assert_close(fake, F.binary_cross_entropy_with_logits(logits, zeros))
    torch.testing.assert_close(GeneratorLoss()(logits), real)
    torch.testing.assert_close(discriminator_loss(torch.nn.Identity(), logits, logits), real + fake)


@pytest.fixture(scope="module")
def perceptual():
    torch.manual_seed(0)
    return PerceptualLoss(pretrained=False)


def test_the_perceptual_loss_is_zero_for_equal_images_and_grows_with_the_difference(perceptual):
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert perceptual(x, x) == 0
    near, far = perceptual((x + 0.05).clamp(-1, 1), x), perceptual(-x, x)
    assert 0 < near < far


def test_only_the_first_image_gets_a_gradient(perceptual):
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)
    y = torch.ones(1, 3, 32, 32, requires_grad=True)
    perceptual(x, y).backward()
    assert x.grad.abs().sum() > 0
    assert y.grad is None
    assert all(p.grad is None for p in perceptual.features.network.parameters())
    assert not list(perceptual.parameters()) and not perceptual.state_dict()


def test_the_perceptual_loss_ends_with_the_convolution_of_layer_21_before_its_relu(perceptual):
    network = perceptual.train().features.network
    assert len(network) == 22 and isinstance(network[21], torch.nn.Conv2d) and not network.training
