"""pSp (Richardson et al. 2021) and variants: photo -> w+ in one pass, or refined in a few (ReStyle, Alaluf 2021)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError, nearest
from oodgan.generators.ops import EqualLinear
from oodgan.generators.protocol import Generator
from oodgan.generators.stylegan2 import load_strict
from oodgan.inversion.pyramid import STYLE_DIM, Pyramid, StyleBlock
from oodgan.nn.irse import Trunk
from oodgan.weights import trained

INPUT_SIZE = 256


class GradualStyleEncoder(Pyramid):
    """pSp's encoder: images (B, 3, 256, 256) in [-1, 1] -> codes (B, num_ws, 512), relative to the mean code."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack(self.styles_of(images), 1)


class LastLayerIntoW(Trunk):
    """pSp's W variant: one code from the pooled last features, repeated for every layer."""

    def __init__(self, num_ws: int = 18, channels: int = 3) -> None:
        super().__init__(channels)
        self.num_ws = num_ws
        self.linear = EqualLinear(512, STYLE_DIM)

    def forward(self, images: Tensor) -> Tensor:
        _, _, coarse = self.levels(images)
        return self.linear(coarse.mean((2, 3)))[:, None].repeat(1, self.num_ws, 1)


class LastLayerIntoWPlus(Trunk):
    """pSp's naive W+ variant: all codes from one linear layer over the last features."""

    def __init__(self, num_ws: int = 18, channels: int = 3) -> None:
        super().__init__(channels)
        self.num_ws = num_ws
        pool = nn.AdaptiveAvgPool2d(7)
        self.output_layer_2 = nn.Sequential(nn.BatchNorm2d(512), pool, nn.Flatten(), nn.Linear(512 * 49, 512))
        self.linear = EqualLinear(512, STYLE_DIM * num_ws)

    def forward(self, images: Tensor) -> Tensor:
        _, _, coarse = self.levels(images)
        return self.linear(self.output_layer_2(coarse)).view(-1, self.num_ws, STYLE_DIM)


class BackboneEncoder(Trunk):
    """ReStyle's encoder: every code from the 16 px features of a photo beside its current inversion (6 channels)."""

    def __init__(self, num_ws: int = 18, channels: int = 6) -> None:
        super().__init__(channels)
        self.styles = nn.ModuleList(StyleBlock(16) for _ in range(num_ws))

    def styles_of(self, images: Tensor) -> list[Tensor]:
        """Each style block's output (B, 512)."""
        _, _, coarse = self.levels(images)
        return [style(coarse) for style in self.styles]

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack(self.styles_of(images), 1)


class ResNetBackboneEncoder(nn.Module):
    """ReStyle's encoder for images other than faces: as `BackboneEncoder`, on a ResNet-34 without pooling."""

    def __init__(self, num_ws: int = 18, channels: int = 6) -> None:
        super().__init__()
        from torchvision.models import resnet34

        trunk = resnet34(weights=None)
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.PReLU(64)
        self.body = nn.Sequential(*trunk.layer1, *trunk.layer2, *trunk.layer3, *trunk.layer4)
        self.styles = nn.ModuleList(StyleBlock(16) for _ in range(num_ws))

    def styles_of(self, images: Tensor) -> list[Tensor]:
        """Each style block's output (B, 512)."""
        coarse = self.body(self.relu(self.bn1(self.conv1(images))))
        return [style(coarse) for style in self.styles]

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack(self.styles_of(images), 1)


VARIANTS: dict[str, Callable[..., nn.Module]] = {
    "psp": GradualStyleEncoder,
    "psp_w": LastLayerIntoW,
    "psp_wplus": LastLayerIntoWPlus,
    "restyle_psp": BackboneEncoder,
    "restyle_psp_resnet": ResNetBackboneEncoder,
}


class PSP(nn.Module):
    """Photos -> codes by a public encoder.

    Args:
        num_ws: codes of the encoder's generator: 18 for 1024 px, 16 for 512, 14 for 256.
        variant: `psp`, `psp_w`, `psp_wplus`, `restyle_psp`, `restyle_psp_resnet` (and, in `E4E`, `e4e`, `restyle_e4e`,
            `restyle_e4e_resnet`).
        weights: artifact of `oodgan weights convert` (folder or file); its metadata decide `num_ws` and `variant`.
            Random when None.
        generator: generator of the codes. ReStyle needs it to decode its own inversion; codes beyond its `num_ws` are
            dropped (they belong to resolutions that it does not have).
        iterations: ReStyle's refinements (5 as published).

    Raises:
        UserError: unknown variant, weights of another kind, or ReStyle without a generator.
    """

    variants = VARIANTS
    latent_avg: Tensor

    def __init__(
        self,
        num_ws: int = 18,
        variant: str = "psp",
        weights: str | Path | None = None,
        generator: Generator | None = None,
        iterations: int = 5,
    ) -> None:
        super().__init__()
        state: dict[str, Tensor] | None = None
        if weights is not None:
            state, metadata = trained.load(weights, "psp")
            num_ws, variant = (metadata["architecture"][key] for key in ("num_ws", "variant"))
        if variant not in self.variants:
            options = ", ".join(self.variants)
            raise UserError(f"unknown encoder variant {variant!r}{nearest(variant, self.variants)}: {options}")
        self.num_ws, self.variant, self.iterations = num_ws, variant, iterations
        # A list keeps the generator out of this module's parameters and checkpoints.
        self._generator = [generator]
        if state is None:
            self._build()
        else:
            with torch.device("meta"):
                self._build()
            load_strict(self, state, f"a {variant} encoder of {num_ws} codes", assign=True)
        self.eval()

    def _build(self) -> None:
        self.encoder = self.variants[self.variant](self.num_ws)
        self.register_buffer("latent_avg", torch.zeros(self.num_ws, STYLE_DIM))

    @property
    def refines(self) -> bool:
        """Whether the encoder gets its own inversion as input (ReStyle)."""
        return self.variant.startswith("restyle")

    def forward(self, images: Tensor) -> Tensor:
        """Aligned photos (B, 3, H, W) in [-1, 1], any size -> codes (B, L, 512), L <= num_ws of the generator."""
        generator = self._generator[0]
        x = _to_input(images)
        if not self.refines:
            codes = self.encoder(x) + self.latent_avg
        elif generator is None:
            raise UserError("a ReStyle encoder reads its own inversion: pass it the generator")
        else:
            codes = self.latent_avg.expand(len(x), -1, -1)
            for _ in range(self.iterations):
                inverted = _to_input(generator.synthesis(codes[:, : generator.num_ws]))
                codes = codes + self.encoder(torch.cat([x, inverted], 1))
        return codes if generator is None else codes[:, : generator.num_ws]


def _to_input(images: Tensor) -> Tensor:
    if images.shape[-2:] == (INPUT_SIZE, INPUT_SIZE):
        return images
    if min(images.shape[-2:]) >= INPUT_SIZE:
        return F.adaptive_avg_pool2d(images, INPUT_SIZE)
    return F.interpolate(images, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False)
