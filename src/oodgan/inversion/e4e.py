"""e4e (Tov et al. 2021): one code for all layers plus small offsets, so that the codes stay editable."""

from __future__ import annotations

import torch
from torch import Tensor

from oodgan.inversion.irse import Pyramid
from oodgan.inversion.psp import PSP, VARIANTS, BackboneEncoder


def progressive(styles: list[Tensor], stage: int) -> Tensor:
    """Codes (B, L, 512): the first style everywhere, plus layer i's offset for 1 <= i <= stage."""
    base, offsets = styles[0], styles[1:]
    rows = [base, *(base + offset if i <= stage else base for i, offset in enumerate(offsets, start=1))]
    return torch.stack(rows, 1)


class Encoder4Editing(Pyramid):
    """Images (B, 3, 256, 256) in [-1, 1] -> codes (B, num_ws, 512), relative to the mean code.

    `stage` is the last layer that has an offset of its own: 0 gives a code of W; training raises it step by step
    (section 4.1); all layers when None.
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


class E4E(PSP):
    """`PSP` whose variants include `e4e` (the default) and `restyle_e4e`; see there."""

    variants = VARIANTS | {"e4e": Encoder4Editing, "restyle_e4e": ProgressiveBackboneEncoder}

    def __init__(self, num_ws: int = 18, variant: str = "e4e", **keywords) -> None:
        super().__init__(num_ws, variant, **keywords)
