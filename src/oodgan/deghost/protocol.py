"""The interface of deghosters; all other code uses it alone."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class DeghosterNetwork(Protocol):
    """(coarse, photo, inverted, edited, mask, code) -> the fine image; a network ignores what it does not need.

    `generator` is its frozen prior. `trained_state` and `load_trained` are the tensors of its weights file.
    """

    generator: Any

    def __call__(
        self, coarse: Tensor, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, code: Tensor
    ) -> Tensor:
        """Images (B, 3, R, R) in [-1, 1], mask (B, 1, R, R), edited code (B, L, 512) -> (B, 3, S, S)."""
        ...

    def share(self, mask: Tensor) -> Tensor:
        """The weight of the fine image over the photo, from the mask, both (B, 1, R, R); 0 where the mask is 0."""
        ...

    def trained_state(self) -> dict[str, Tensor]: ...

    def load_trained(self, state: dict[str, Tensor]) -> None: ...

    def eval(self) -> Any: ...
