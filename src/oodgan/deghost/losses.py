"""The losses that train the deghoster (paper, section 3.4): pixel MSE, VGG16 perceptual MSE and a vanilla GAN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.nn.backbones import imagenet_normalise, vgg16_features, vgg16_layers

GAN_WEIGHT = 0.01
PERCEPTUAL_WEIGHT = 0.01
PERCEPTUAL_LAYER = 21


def generator_loss(fake_logits: Tensor, weight: float = GAN_WEIGHT) -> Tensor:
    """weight x binary cross-entropy of calling the fakes real; logits (B, 1) -> scalar."""
    return weight * F.softplus(-fake_logits).mean()


def discriminator_losses(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropies (real, fake) of the discriminator, unweighted."""
    return F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()


class PerceptualLoss(nn.Module):
    """weight x MSE between the outputs of one VGG16 layer (before its ReLU) for two images in [-1, 1].

    Args:
        layer: index in torchvision's `features` (21, conv4_3, as published).
        weight: 0.01 as published.
        pretrained: ImageNet weights of the package registry; random otherwise.
    """

    def __init__(
        self, layer: int = PERCEPTUAL_LAYER, weight: float = PERCEPTUAL_WEIGHT, pretrained: bool = True
    ) -> None:
        super().__init__()
        features = vgg16_features() if pretrained else vgg16_layers()
        self.features = features[: layer + 1].requires_grad_(False).eval()
        self.weight = weight

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """images, targets (B, 3, H, W) in [-1, 1] -> scalar; no gradient reaches the targets."""
        with torch.no_grad():
            wanted = self.features(imagenet_normalise(targets))
        return self.weight * F.mse_loss(self.features(imagenet_normalise(images)), wanted)
