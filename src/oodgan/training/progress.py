"""Progress display on stderr: a bar in a terminal, occasional lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

import pytorch_lightning as pl

T = TypeVar("T")


class Meter:
    """Shows how much of `total` is done, the speed, and the remaining time.

    Args:
        unit: what is counted, in the plural.
        done: number already done by an earlier run.
        seconds: time between two lines where the output is no terminal.
    """

    def __init__(self, title: str, total: int, unit: str = "steps", done: int = 0, seconds: float = 10.0) -> None:
        self.title, self.total, self.unit, self.seconds = title, total, unit, seconds
        self._first, self._begun = done, time.monotonic()
        self._printed = self._begun - seconds  # so that the first count is shown at once
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[numbers]}"), console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(title, total=total, completed=done, numbers="")

    def show(self, done: int, numbers: Callable[[], str] = str, last: bool = False) -> None:
        """Update to `done`; `numbers()` is called only when it is shown, because it synchronises the GPU."""
        now = time.monotonic()
        if not last and done < self.total and now - self._printed < (0.5 if self._bar is not None else self.seconds):
            return
        self._printed = now
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, numbers=numbers())
            return
        rate = (done - self._first) / max(now - self._begun, 1e-9)
        left = f"{(self.total - done) / rate:.0f} s left" if rate else ""
        line = f"{self.title} {done}/{self.total}  {rate:.2f} {self.unit}/s  {left}  {numbers()}"
        print(line.rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def track(items: Iterable[T], title: str, total: int | None = None, unit: str = "images") -> Iterator[T]:
    """Iterate over the items with a `Meter`; give `total` if they have no length."""
    count = len(items) if isinstance(items, Sized) else total
    if count is None:
        raise TypeError(f"{title}: items without a length need total=")
    meter = Meter(title, count, unit)
    try:
        for done, item in enumerate(items, start=1):
            yield item
            meter.show(done)
    finally:
        meter.close()


class Progress(pl.Callback):
    """Shows the steps of a training with its newest numbers, or the images of a test or predict loop."""

    def __init__(self, title: str, seconds: float = 10.0) -> None:
        self.title, self.seconds = title, seconds
        self._meter: Meter | None = None
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._meter = Meter(self.title, trainer.max_steps, "steps", trainer.global_step, self.seconds)

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        # The last step's line waits for the validation that follows it.
        if self._meter is not None and trainer.global_step < self._meter.total:
            self._meter.show(trainer.global_step, lambda: _numbers(trainer))

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._open(trainer, trainer.test_dataloaders)

    def on_predict_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._open(trainer, trainer.predict_dataloaders)

    def on_test_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, _: Any, batch: Any, *__: Any) -> None:
        self._add(trainer, batch)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, _: Any, batch: Any, *__: Any
    ) -> None:
        self._add(trainer, batch)

    def _open(self, trainer: pl.Trainer, loader: Any) -> None:
        self._seen = 0
        if trainer.is_global_zero:
            self._meter = Meter(self.title, len(loader.dataset), "images", 0, self.seconds)

    def _add(self, trainer: pl.Trainer, batch: Any) -> None:
        if self._meter is not None:
            self._seen += len(batch["name"] if isinstance(batch, dict) else batch) * trainer.world_size
            self._meter.show(min(self._seen, self._meter.total))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._meter is not None:
            self._meter.show(trainer.global_step, lambda: _numbers(trainer), last=True)
        self._close()

    def on_test_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._close()

    def on_predict_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._meter is not None:
            self._meter.close()
            self._meter = None


def _numbers(trainer: pl.Trainer) -> str:
    """Format the newest numbers, losses first, as many as fit."""
    items = [(k, v) for k, v in trainer.callback_metrics.items() if not k.endswith(("_step", "_epoch"))]
    items.sort(key=lambda item: not item[0].endswith("/loss"))
    return "  ".join(f"{k} {float(v):.4g}" for k, v in items[:6])
