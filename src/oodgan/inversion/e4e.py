"""e4e (Tov et al. 2021): one code for all layers plus small offsets, so that the codes stay editable."""

from __future__ import annotations

import torch
from torch import Tensor

from oodgan.generators.protocol import Generator
from oodgan.inversion.protocol import Encoder
from oodgan.inversion.psp import PSP, VARIANTS, BackboneEncoder, ResNetBackboneEncoder
from oodgan.inversion.pyramid import Pyramid
from oodgan.nn.frozen import Frozen


def progressive(styles: list[Tensor], stage: int) -> Tensor:
    """Codes (B, L, 512): the first style everywhere, plus layer i's offset for 1 <= i <= stage."""
    base, offsets = styles[0], styles[1:]
    rows = [base, *(base + offset if i <= stage else base for i, offset in enumerate(offsets, start=1))]
    return torch.stack(rows, 1)


class Encoder4Editing(Pyramid):
    """Images (B, 3, 256, 256) in [-1, 1] -> codes (B, num_ws, 512), relative to the mean code.

    `stage` is the last layer that has its own offset: 0 gives a code in W; training increases it step by step (section
    4.1); None: all layers.
    """

    stage: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        styles = self.styles_of(images)
        return progressive(styles, len(styles) if self.stage is None else self.stage)


class ProgressiveBackboneEncoder(BackboneEncoder):
    """ReStyle's e4e: as `Encoder4Editing`, from the 16 px features of a photo beside its current inversion."""

    stage: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        styles = self.styles_of(images)
        return progressive(styles, len(styles) if self.stage is None else self.stage)


class ProgressiveResNetEncoder(ResNetBackboneEncoder):
    """ReStyle's e4e on a ResNet-34."""

    stage: int | None = None

    def forward(self, images: Tensor) -> Tensor:
        styles = self.styles_of(images)
        return progressive(styles, len(styles) if self.stage is None else self.stage)


class E4E(PSP):
    """`PSP` whose variants include `e4e` (the default), `restyle_e4e` and `restyle_e4e_resnet`; see there."""

    variants = VARIANTS | {
        "e4e": Encoder4Editing,
        "restyle_e4e": ProgressiveBackboneEncoder,
        "restyle_e4e_resnet": ProgressiveResNetEncoder,
    }

    def __init__(self, num_ws: int = 18, variant: str = "e4e", **keywords) -> None:
        super().__init__(num_ws, variant, **keywords)


class PublicEncoder(E4E, Encoder):
    """A public encoder of any variant, for the config group `inverter`: photos -> offsets from the mean code.

    `bind` sets the generator. New weights start from the generator's mean code.
    """

    def __init__(self, num_ws: int = 18, variant: str = "psp", iterations: int = 5) -> None:
        super().__init__(num_ws, variant, iterations=iterations)

    def bind(self, generator: Generator) -> None:
        """Set the generator. It is not part of parameters, checkpoints and averaged copies."""
        self.frozen = Frozen(generator)  # type: ignore[arg-type]
        self._generator = [self.frozen]
        self.latent_avg.copy_(generator.mean_w.expand_as(self.latent_avg))

    def forward(self, images: Tensor) -> Tensor:
        """Aligned photos (B, 3, H, W) in [-1, 1], any size -> offsets (B, L, 512), L as the generator takes."""
        return super().forward(images) - self.frozen.mean_w
