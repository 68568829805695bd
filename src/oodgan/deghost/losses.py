"""The losses that train the deghoster (paper, section 3.4): pixel MSE, VGG16 perceptual MSE and a vanilla GAN."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.nn.backbones import imagenet_normalise, vgg16_features, vgg16_layers
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import resize_area

PERCEPTUAL_LAYER = 21


class GeneratorLoss(nn.Module):
    """Binary cross-entropy of classifying generated images as real; logits (B, 1) -> scalar."""

    inputs = ("logits",)

    def forward(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits).mean()


def discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Sum of the binary cross-entropies of the discriminator on real and on generated images (B, 3, H, W)."""
    return sum(discriminator_losses(discriminator(real), discriminator(fake)), torch.zeros((), device=real.device))


def discriminator_losses(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropies (real, fake) of the discriminator."""
    return F.softplus(-real_logits).mean(), F.softplus(fake_logits).mean()


class PerceptualLoss(nn.Module):
    """MSE between the outputs of one VGG16 layer (before its ReLU) for two images in [-1, 1].

    The network stays out of checkpoints and optimisers.

    Args:
        layer: index in torchvision's `features` (21, conv4_3, as published).
        pretrained: ImageNet weights of the package registry; random otherwise.
        size: input resolution, at most that of the images; VGG16 at 256 px costs more than the light deghoster.
    """

    def __init__(self, layer: int = PERCEPTUAL_LAYER, pretrained: bool = True, size: int | None = None) -> None:
        super().__init__()
        features = vgg16_features() if pretrained else vgg16_layers()
        self.features: Any = Frozen(features[: layer + 1])
        self.size = size

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """images, targets (B, 3, H, W) in [-1, 1] -> scalar; no gradient reaches the targets."""
        if self.size is not None:
            images, targets = (resize_area(x, self.size) for x in (images, targets))
        with torch.no_grad():
            wanted = self.features(imagenet_normalise(targets))
        return F.mse_loss(self.features(imagenet_normalise(images)), wanted)
