"""The light deghoster: a small U-Net on all images of the edit, with the frozen generator's activations as prior.

It works at 256 px and predicts two smooth fields that are applied at any resolution, so that 1024 px is cheap and no
detail is redrawn: the weight of the edited image against the coarse one at each position (`blend`), and a low-frequency
colour correction (`shift`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.protocol import Generator
from oodgan.nn.frozen import Frozen
from oodgan.nn.resize import resize_area

_INPUTS = 13  # coarse, photo, inverted, edited (3 each) and mask


class ConvBlock(nn.Sequential):
    """Two 3 x 3 convolutions with group norm and SiLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
        )


class LightDeghoster(nn.Module):
    """(coarse, photo, inverted, edited, mask, code) -> fine image of the same size.

    Args:
        generator: the frozen prior; its activations for the edited code at `prior` resolutions enter the U-Net there.
        widths: channels from `size` downwards, each level half the resolution.
        sees: "all", or "coarse" to blank everything but the coarse image and its mask (the paper's input), to compare.
        reach: largest colour correction, in units of the range [-1, 1].
    """

    def __init__(
        self,
        generator: Generator,
        size: int = 256,
        widths: Sequence[int] = (24, 40, 64, 96),
        prior: Sequence[int] = (32, 64),
        prior_width: int = 32,
        sees: str = "all",
        reach: float = 0.5,
    ) -> None:
        super().__init__()
        self.generator = Frozen(generator)  # type: ignore[arg-type]
        self.size, self.sees, self.reach = min(size, generator.resolution), sees, reach
        sizes = [self.size >> i for i in range(len(widths))]
        self.prior = [r for r in prior if r in generator.feature_channels and r in sizes]
        self.narrow = nn.ModuleDict(
            {str(r): nn.Conv2d(generator.feature_channels[r], prior_width, 1) for r in self.prior}
        )
        extra = [prior_width if s in self.prior else 0 for s in sizes]
        enters = [_INPUTS, *widths[:-1]]
        self.down = nn.ModuleList(ConvBlock(i + e, w) for i, e, w in zip(enters, extra, widths, strict=True))
        self.up = nn.ModuleList(
            ConvBlock(widths[i] + widths[i - 1], widths[i - 1]) for i in range(len(widths) - 1, 0, -1)
        )
        self.out = nn.Conv2d(widths[0], 4, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        # Start next to the identity: almost no blending towards the edited image, no colour correction.
        self.out.bias.data.copy_(torch.tensor([-3.0, 0.0, 0.0, 0.0]))  # type: ignore[union-attr]

    def forward(
        self, coarse: Tensor, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, code: Tensor
    ) -> Tensor:
        """Images (B, 3, R, R) in [-1, 1], mask (B, 1, R, R), edited code (B, L, 512) -> fine (B, 3, R, R).

        Where the mask is 0, the result is the coarse image and therefore the photo.
        """
        blend, shift = self.fields(coarse, photo, inverted, edited, mask, code)
        if coarse.shape[-1] != blend.shape[-1]:
            blend, shift = (F.interpolate(x, coarse.shape[2:], mode="bilinear") for x in (blend, shift))
        inside = (mask * 4).clamp(max=1)
        return coarse + inside * (blend * (edited - coarse) + shift)

    def share(self, mask: Tensor) -> Tensor:
        return (mask > 0).to(mask)  # the network gets the photo as input and keeps it where little was edited

    def fields(
        self, coarse: Tensor, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, code: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`blend` (B, 1, size, size) in [0, 1] and `shift` (B, 3, size, size) in [-reach, reach]."""
        if self.sees == "coarse":
            photo, inverted, edited = (torch.zeros_like(x) for x in (photo, inverted, edited))
        x = torch.cat([resize_area(each, self.size) for each in (coarse, photo, inverted, edited, mask)], 1)
        features = self._prior(code)
        kept: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = F.avg_pool2d(x, 2) if i else x
            resolution = x.shape[-1]
            x = block(torch.cat([x, features[resolution]], 1) if resolution in features else x)
            kept.append(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:], mode="nearest"), skip], 1))
        out = self.out(x)
        return out[:, :1].sigmoid(), out[:, 1:].tanh() * self.reach

    def trained_state(self) -> dict[str, Tensor]:
        """Return all tensors; the generator is not part of the state."""
        return self.state_dict()

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Inverse of `trained_state`."""
        self.load_state_dict(state)

    def _prior(self, code: Tensor) -> dict[int, Tensor]:
        if not self.prior:
            return {}
        with torch.no_grad():
            features = self.generator.features(code, last=max(self.prior))
        return {r: self.narrow[str(r)](features[r]) for r in self.prior}
