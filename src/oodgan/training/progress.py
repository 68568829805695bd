"""Progress of a training run in optimiser steps: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl


class Progress(pl.Callback):
    """Shows stage, step, speed, time left and the newest training numbers.

    Args:
        title: the stage's name.
        seconds: time between two lines where the output is no terminal.
    """

    def __init__(self, title: str, seconds: float = 10.0) -> None:
        self.title, self.seconds = title, seconds
        self._bar: Any = None
        self._start = self._printed = 0.0
        self._first = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._start = self._printed = time.monotonic()
        self._first = trainer.global_step
        if trainer.is_global_zero and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[numbers]}"), console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.title, total=trainer.max_steps, completed=self._first, numbers="")

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        now, done = time.monotonic(), trainer.global_step >= trainer.max_steps
        if not trainer.is_global_zero:
            return
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, numbers=_numbers(trainer))
        elif done or now - self._printed >= self.seconds:
            self._printed = now
            rate = (trainer.global_step - self._first) / max(now - self._start, 1e-9)
            left = (trainer.max_steps - trainer.global_step) / rate if rate else float("nan")
            print(
                f"{self.title} {trainer.global_step}/{trainer.max_steps}  {rate:.2f} steps/s  {left:.0f} s left  "
                f"{_numbers(trainer)}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _numbers(trainer: pl.Trainer) -> str:
    items = {k: v for k, v in trainer.callback_metrics.items() if not k.endswith(("_step", "_epoch"))}
    return "  ".join(f"{k} {float(v):.4g}" for k, v in list(items.items())[:6])
