"""Feature-space inversion: a network that predicts a residual on the generator's activations at one resolution.

A code represents little of what the generator was not trained on. A residual on the activations at, say, 64 px
represents hats, hands and backgrounds, and the blocks after it still draw what the code describes (Feature-Style
encoder, Yao et al. 2022; StyleFeatureEditor, Bobkov et al. 2024). The network works as a learned optimiser: from the
photo, the current inversion and the gradient of their squared error with respect to the activations, it predicts a
correction.
The gradient contains how the generator turns activations into pixels at this code, so the network need not learn it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.blocks import SLOPE, blocks, double
from oodgan.inversion.descent import check_budget, descend
from oodgan.nn.resize import resize_area


class FeatureEncoder(nn.Module):
    """Predicts a correction of the residual from the photo, the current inversion, activations and their gradient.

    A U-Net of three resolutions (r, r/2, r/4 for activations of r px) without normalisation layers. Its last layer
    starts at zero, so that an untrained network takes a plain gradient step.

    Args:
        channels: of the generator's activations at `resolution`.
        resolution: side of the activations that get the residual.
        size: pixels at which photo and inversion are compared, a multiple of `resolution`.
        widths: channels at the three resolutions.
        depths: residual blocks at the three resolutions.
    """

    def __init__(
        self,
        channels: int,
        resolution: int = 64,
        size: int = 256,
        widths: tuple[int, int, int] = (96, 192, 256),
        depths: tuple[int, int, int] = (1, 3, 2),
    ) -> None:
        super().__init__()
        if resolution % 4 or size % resolution:
            raise UserError(f"resolution={resolution}, size={size}: multiples of 4 and of the resolution expected")
        self.channels, self.resolution, self.size = channels, resolution, size
        fine, middle, coarse = widths
        self.factor = size // resolution
        self.pixels = nn.Conv2d(6 * self.factor**2, fine, 3, padding=1)
        self.activations = nn.Conv2d(channels, fine, 1)
        self.gradient = nn.Conv2d(channels, fine, 1)
        self.enter = blocks(fine, depths[0])
        self.down = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle = blocks(middle, depths[1])
        self.down_again = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse = blocks(coarse, depths[2])
        self.up = nn.Conv2d(coarse, middle, 1)
        self.rejoin = blocks(middle, 1)
        self.up_again = nn.Conv2d(middle, fine, 1)
        self.leave = blocks(fine, depths[0])
        self.out = nn.Conv2d(fine, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.step = nn.Parameter(torch.full((1, channels, 1, 1), 0.3))

    def forward(self, photo: Tensor, inverted: Tensor, activations: Tensor, gradient: Tensor) -> Tensor:
        """Returns the correction (B, C, r, r) in units of the activations' standard deviation.

        Args:
            photo, inverted: (B, 3, size, size) in [-1, 1].
            activations: (B, C, r, r), divided by their standard deviation.
            gradient: (B, C, r, r), of any scale.
        """
        error = (photo - inverted).square().mean((1, 2, 3), keepdim=True).sqrt()
        direction = gradient * (error / gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12))
        pixels = F.pixel_unshuffle(torch.cat([photo, photo - inverted], 1), self.factor)
        x = self.pixels(pixels) + self.activations(activations) + self.gradient(direction)
        fine = self.enter(x)
        middle = self.middle(self.down(fine))
        x = self.coarse(self.down_again(middle))
        x = self.rejoin(middle + double(self.up(x)))
        x = self.leave(fine + double(self.up_again(x)))
        return self.out(F.leaky_relu(x, SLOPE)) - self.step * direction


class Comparison(NamedTuple):
    """An inversion compared with its photo: image (B, 3, s, s) and gradient of the squared error (B, C, r, r)."""

    image: Tensor
    gradient: Tensor


def compare(generator: Generator, w_plus: Tensor, residual: Tensor, target: Tensor, full: bool = False) -> Comparison:
    """Decode w_plus (B, L, 512) with a residual (B, C, r, r) and compare with the target (B, 3, s, s).

    The image is the generator's preview of s pixels or, with `full`, its full image reduced to s pixels.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = residual.detach().clone().requires_grad_(True)
        codes, wanted = w_plus.detach().clone(), target.detach().clone()
        size = wanted.shape[-1]
        image = generator.synthesis(codes, size=None if full else size, residuals={leaf.shape[-1]: leaf})
        image = resize_area(image, size)
        (gradient,) = torch.autograd.grad((image - wanted).square().sum(), leaf)
    return Comparison(image.detach().clamp(-1, 1), gradient)


class Prediction(NamedTuple):
    """A residual and the activations that it is added to, (B, C, r, r) each."""

    residual: Tensor
    base: Tensor


def predict(
    encoder: FeatureEncoder, generator: Generator, w_plus: Tensor, photos: Tensor, passes: int = 1, exact: int = 0
) -> Prediction:
    """Return the residual of photos with known codes, after `passes + exact` forward passes of the encoder.

    Gradients reach the encoder through the last pass only.

    Args:
        w_plus: codes (B, L, 512).
        photos: (B, 3, R, R) in [-1, 1].
        passes: passes that compare the generator's preview, at the encoder's input size.
        exact: further passes that compare the full image, reduced to that size.
    """
    target, resolution = resize_area(photos, encoder.size), encoder.resolution
    with torch.no_grad():
        base = generator.features(w_plus, last=resolution)[resolution]
        unit = deviation(base)
    residual = torch.zeros_like(base)
    last = passes + exact - 1
    for number in range(passes + exact):
        with torch.set_grad_enabled(torch.is_grad_enabled() and number == last):
            image, gradient = compare(generator, w_plus, residual, target, full=number >= passes)
            residual = residual + unit * encoder(target, image, (base + residual) / unit, gradient)
    return Prediction(residual, base)


def deviation(activations: Tensor) -> Tensor:
    """The standard deviation of each image's activations, (B, 1, 1, 1): the unit of residuals."""
    return activations.std((1, 2, 3), keepdim=True).clamp(min=1e-6)


@dataclass
class ResidualRefinement:
    """Adam on the residual of a photo, after the encoder: 2 x squared error + LPIPS (AlexNet) at `size` px.

    The budget is `steps`, or `seconds` for the whole batch, whichever ends first. Each photo keeps its best residual.

    Args:
        lr: in units of the activations' deviation; falls to a tenth.
        exact: compare the full image, reduced to `size`, instead of the generator's preview.
        size: pixels.
    """

    steps: int = 0
    seconds: float | None = None
    lr: float = 0.03
    exact: bool = False
    size: int = 256

    def __post_init__(self) -> None:
        check_budget("residual.refine", self.steps, self.seconds)

    def __call__(self, generator: Generator, w_plus: Tensor, residual: Tensor, base: Tensor, photos: Tensor) -> Tensor:
        """Codes (B, L, 512), residual and activations (B, C, r, r), photos (B, 3, R, R) -> residual (B, C, r, r)."""
        if not self.steps and self.seconds is None:
            return residual
        with torch.inference_mode(False), torch.enable_grad():
            w_plus, start, unit = w_plus.clone(), residual.detach().clone(), deviation(base).clone()
            target = resize_area(photos.clone(), min(self.size, generator.resolution))
            offset = descend(
                lambda offset: self._losses(generator, w_plus, start + unit * offset, target),
                start, self.lr, self.steps, self.seconds,
            )  # fmt: skip
            return start + unit * offset

    def _losses(self, generator: Generator, w_plus: Tensor, residual: Tensor, target: Tensor) -> Tensor:
        from oodgan.metrics.lpips import lpips_distance  # brings torchmetrics: 2 s, 0.2 GB

        size = target.shape[-1]
        image = generator.synthesis(w_plus, size=None if self.exact else size, residuals={residual.shape[-1]: residual})
        image = resize_area(image, size)
        error = (image - target).square().mean((1, 2, 3))
        return 2 * error + lpips_distance("alex", str(target.device))(image.clamp(-1, 1), target)
