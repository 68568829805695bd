"""The interfaces of encoders and inverters; all other code uses these alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.value import Inversion

if TYPE_CHECKING:
    from oodgan.inversion.inverter import EncoderInverter


@runtime_checkable
class Encoder(Protocol):
    """Photos (B, 3, R, R) in [-1, 1] -> offsets (B, L, 512) to the generator's mean code.

    To use your own network, write `class Mine(nn.Module, Encoder)` with a `forward`; the other methods have defaults.

    describes: whether the encoder can be trained on precomputed features: `describe(photos)` returns frozen features,
        and `head(features)` the offsets.
    identity: name of the recogniser whose embedding is an input of the encoder; weights work only with this one.
    """

    describes: bool = False
    identity: str | None = None

    def __call__(self, photos: Tensor) -> Tensor: ...

    def bind(self, generator: Generator) -> None:
        """Set the generator; called once, before anything else."""

    def prepare(self, passes: int) -> None:
        """Prepare training with this number of `passes`: freeze what they do not use."""

    def offsets(self, generator: Generator, photos: Tensor, passes: int = 1) -> Tensor:
        """Photos -> offsets after `passes` passes; all but the first also get the current inversion as input.

        Raises:
            UserError: less than one pass, or more than one with an encoder that cannot correct its inversion.
        """
        if passes != 1:
            able = "inverter=light can correct itself; ReStyle's encoders iterate on their own"
            raise UserError(
                f"inverter.passes={passes}: at least 1, and more only where the encoder corrects itself ({able})"
            )
        return self(photos)

    def borrowed(self, device: str) -> tuple[nn.Module, ...]:
        """Return shared networks on `device` that the encoder uses and that are not its submodules."""
        return ()


class Inverter(Protocol):
    """Photos (B, 3, R, R) in [-1, 1] -> codes and, if the inverter predicts them, residuals.

    residual: resolution of the activations that get residuals; None: codes alone.
    """

    name: str
    residual: int | None = None

    def invert(self, photos: Tensor) -> Inversion: ...

    @property
    def coder(self) -> EncoderInverter | None:
        """The inverter whose encoder predicts the initial codes; None if there is only optimisation."""
        return None
