"""What every encoder and every inverter offers; nothing else asks which network is behind them."""

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

    A network of your own is `class Mine(nn.Module, Encoder)` with a `forward`; what follows has answers that suit most.

    describes: the encoder can learn from codes alone: `describe(photos)` gives features that need no training, and
        `head(features)` the offsets from them.
    identity: name of the recogniser whose embedding the encoder reads: its weights serve with that one alone.
    """

    describes: bool = False
    identity: str | None = None

    def __call__(self, photos: Tensor) -> Tensor: ...

    def bind(self, generator: Generator) -> None:
        """Take the generator that the codes are for; called once, before anything else."""

    def prepare(self, passes: int) -> None:
        """Get ready for training by `passes` passes: what they do not use is not trained."""

    def offsets(self, generator: Generator, photos: Tensor, passes: int = 1) -> Tensor:
        """Photos -> offsets after `passes` passes, of which all but the first look at the inversion so far.

        Raises:
            UserError: more than one pass with an encoder that cannot correct itself, or less than one.
        """
        if passes != 1:
            able = "inverter=light can correct itself; ReStyle's encoders iterate on their own"
            raise UserError(
                f"inverter.passes={passes}: at least 1, and more only where the encoder corrects itself ({able})"
            )
        return self(photos)

    def borrowed(self, device: str) -> tuple[nn.Module, ...]:
        """Networks on `device` that the encoder asks and that are no submodules of it, since others ask them too."""
        return ()


class Inverter(Protocol):
    """Photos (B, 3, R, R) in [-1, 1] -> their codes, and residuals where the inverter gives them.

    residual: side of the activations that get the residuals; None: codes alone.
    """

    name: str
    residual: int | None = None

    def invert(self, photos: Tensor) -> Inversion: ...

    @property
    def coder(self) -> EncoderInverter | None:
        """The inverter whose encoder gives the first codes; None where they are found by optimisation alone."""
        return None
