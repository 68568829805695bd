"""Checkpoints: written atomically, and never with weights that are not finite."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from oodgan.errors import UserError
from oodgan.files import refusing
from oodgan.paths import BEST, CHECKPOINTS, LAST, find_checkpoint
from oodgan.weights.checkpoint import read


class Checkpoints(Checkpoint):
    """Keeps `checkpoints/last.ckpt`, and `best.ckpt` by a validation metric.

    Lightning runs it after all other callbacks, so it sees the averaged weights and whether another callback stopped
    the training. Checkpoints contain the latest logged values under `metrics`.

    Args:
        every: optimiser steps between two checkpoints `last`; None: at each validation and at the end.
        minutes: also write `last` after this many minutes.
        monitor: name of the metric of `best`, e.g. "val/loss"; None: no `best` is written.
        mode: "min" or "max".
    """

    def __init__(
        self, every: int | None = None, minutes: float = 10.0, monitor: str | None = None, mode: str = "min"
    ) -> None:
        if mode not in ("min", "max"):
            raise UserError(f"mode is {mode!r}, must be min or max")
        self.every, self.minutes, self.monitor, self.mode = every, minutes, monitor, mode
        self.best: float | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self._saved_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        due = bool(self.every) and step % (self.every or 1) == 0
        late = trainer.strategy.broadcast(time.monotonic() - self._saved_at > 60 * self.minutes) if not due else False
        if due or late or trainer.should_stop or step >= trainer.max_steps:
            self._save(trainer, module, LAST)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._compare(trainer, module)
        if self.every is None or trainer.should_stop:
            self._save(trainer, module, LAST)

    def _compare(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.monitor is None:
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(f"the metric {self.monitor!r} that decides what is best was not logged; logged: {known}")
        value = float(trainer.callback_metrics[self.monitor])
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        if better:
            self.best = value
            self._save(trainer, module, BEST)

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, name: str) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
            return
        path = Path(trainer.default_root_dir) / CHECKPOINTS / name
        save(trainer, path)
        trainer.last_good_checkpoint = str(path)  # type: ignore[attr-defined]
        if name == LAST:
            self._saved_step, self._saved_at = trainer.global_step, time.monotonic()


def save(trainer: pl.Trainer, path: Path) -> None:
    """Write a checkpoint under a temporary name and rename it; to be called by all processes.

    Raises:
        UserError: it cannot be written; an existing file at `path` is kept.
    """
    temporary = path.with_name(f".{path.name}.partial")
    if trainer.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with refusing(path):
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
    finally:
        if trainer.is_global_zero:
            with contextlib.suppress(OSError):  # the reason why nothing was written is the message
                temporary.unlink(missing_ok=True)
    trainer.strategy.barrier("checkpoint")


def find(run: str | Path, best: bool = False) -> Path:
    """Return the checkpoint of `run`: a run folder, its checkpoints folder, a stage's folder, or a file.

    Raises:
        UserError: there is none.
    """
    path = Path(run)
    if path.is_file():
        return path
    checkpoint = find_checkpoint(path, best)
    if checkpoint is None:
        raise UserError(f"no checkpoint in {run}: neither {CHECKPOINTS}/{LAST} nor {CHECKPOINTS}/{BEST} is there")
    return checkpoint


def load(path: str | Path) -> dict[str, Any]:
    """Read a training's checkpoint on the CPU, tensors and plain values only.

    Raises:
        UserError: it cannot be read, or is no checkpoint of a training.
    """
    saved = read(path, "a checkpoint of a training is expected, such as checkpoints/last.ckpt of its folder")
    if not isinstance(saved, dict) or not {"state_dict", "global_step"} <= saved.keys():
        raise UserError(f"{path} is no checkpoint of a training: it holds no state_dict or no global_step")
    return saved
