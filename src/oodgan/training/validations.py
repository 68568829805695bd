"""Base class of callbacks that do not measure every validation."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from oodgan.errors import UserError


class EveryNthValidation(pl.Callback):
    """Base class of callbacks that measure every n-th validation of a training, and the last.

    The number of validations is saved in checkpoints, so that a resumed training measures the same ones.

    Raises:
        UserError: `every` below 1.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise UserError(f"every={every} must be at least 1")
        self.every, self._validations = every, 0

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validations = state_dict["validations"]

    def due(self, trainer: pl.Trainer) -> bool:
        """Count this validation and return whether to measure it; call exactly once in each validation."""
        if trainer.sanity_checking:
            return False
        self._validations += 1
        last = 0 < trainer.max_steps <= trainer.global_step
        return last or self._validations % self.every == 0
