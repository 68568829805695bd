"""Which validations a callback measures."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from oodgan.errors import UserError


class EveryNthValidation(pl.Callback):
    """Base of callbacks that measure each n-th validation of a training, and the last.

    How many there were is part of checkpoints, so that a resumed training measures the same ones.

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
        """Count this validation, and say whether it is one to measure; to be called once in each."""
        if trainer.sanity_checking:
            return False
        self._validations += 1
        last = 0 < trainer.max_steps <= trainer.global_step
        return last or self._validations % self.every == 0
