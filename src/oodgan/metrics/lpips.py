"""LPIPS: the heads of the `lpips` package (version 0.1) over the registry's ImageNet backbones.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), equation 1.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.errors import UserError, unknown
from oodgan.metrics.base import PerImage

# Layers of torchvision's `features` after which the five activations are taken.
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}


class LPIPSDistance(nn.Module):
    """Differentiable LPIPS of two batches, (B, 3, H, W) in [-1, 1] each -> (B,)."""

    def __init__(self, features: nn.Sequential, heads: list[Tensor], taps: tuple[int, ...]):
        super().__init__()
        self.features, self.taps = nn.Sequential(*list(features)[: taps[-1] + 1]), taps
        for index, head in enumerate(heads):
            self.register_buffer(f"head{index}", head.reshape(-1))

    def activations(self, images: Tensor) -> list[Tensor]:
        """The five activations, each position's channels scaled to unit length."""
        from oodgan.nn.backbones import imagenet_normalise

        x, activations = imagenet_normalise(images), []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                # The square root's slope at 0 is infinite: dead positions would give nan gradients.
                activations.append(x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt())
        return activations

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        total = torch.zeros(len(first), device=first.device)
        for index, (a, b) in enumerate(zip(self.activations(first), self.activations(second), strict=True)):
            difference = (a - b).square().mean((2, 3))
            total = total + difference @ self.get_buffer(f"head{index}")
        return total


def read_heads(net: str) -> list[Tensor]:
    """The five non-negative head vectors of the `lpips` package, read as tensors only.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("LPIPS needs the package 'lpips': pip install lpips==0.1.4")
    path = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{index}.model.1.weight"] for index in range(5)]


@lru_cache(maxsize=4)
def lpips_distance(net: str = "alex", device: str = "cpu") -> LPIPSDistance:
    """The pretrained distance (`alex` or `vgg`), eval, frozen, fetched at first use and shared by all callers."""
    from oodgan.nn.backbones import alexnet_features, vgg16_features

    if net not in TAPS:
        raise unknown("LPIPS network", net, TAPS)
    with torch.inference_mode(False):  # or the cached network could never serve as a loss
        features = alexnet_features() if net == "alex" else vgg16_features()
        return LPIPSDistance(features, read_heads(net), TAPS[net]).eval().requires_grad_(False).to(device)


class LPIPSLoss(nn.Module):
    """Mean LPIPS of result and target, (B, 3, H, W) in [-1, 1]; the result is clamped.

    The network is no submodule: it stays out of optimisers and checkpoints and follows the images' device.
    """

    def __init__(self, net: str = "alex") -> None:
        super().__init__()
        if net not in TAPS:
            raise unknown("LPIPS network", net, TAPS)
        self.net = net

    def forward(self, result: Tensor, target: Tensor) -> Tensor:
        return lpips_distance(self.net, str(target.device))(result.clamp(-1, 1), target).mean()


class LPIPS(PerImage):
    """Mean LPIPS of (result, target), (B, 3, H, W) in [-1, 1]; values beyond the range are clamped. Lower is better."""

    higher_is_better = False

    def __init__(self, net: str = "alex", **kwargs: Any):
        super().__init__(**kwargs)
        if net not in TAPS:
            raise unknown("LPIPS network", net, TAPS)
        self.net, self.name = net, f"lpips_{net}_v0.1"

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        distance = lpips_distance(self.net, str(result.device))
        return distance(result.float().clamp(-1, 1), target.float().clamp(-1, 1))
