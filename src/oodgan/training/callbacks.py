"""Callbacks of every training; `training.fit` adds them."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from oodgan.errors import UserError
from oodgan.nn.ema import Ema
from oodgan.nn.frozen import frozen_hashes
from oodgan.training.module import FitModule


class StepSeeds(pl.Callback):
    """Seeds all random generators before each batch from (seed, batch number, rank).

    So the random numbers of step n are the same in resumed and uninterrupted runs, whatever happened in between
    (validation, image logging, a kill), for any number of processes, without saved state.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        number = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        # Lightning's own count of logged steps is one behind after some resumes.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        words = np.random.SeedSequence([self.seed, number, trainer.global_rank]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))  # noqa: NPY002 (libraries draw from the global state)
        torch.manual_seed(int(words[2]))


class NanGuard(pl.Callback):
    """Stops the run before a loss that is not finite changes the weights.

    Args:
        every: check each n-th batch only (a check waits for the GPU).

    Raises:
        UserError: with the step, the files of the batch (`batch["name"]`) and the last good checkpoint.
    """

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self._batch: Any = None
        self._number = 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch, self._number = batch, batch_idx

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        if self._number % self.every or bool(torch.isfinite(loss.detach()).all()):
            return
        names = self._batch.get("name", []) if isinstance(self._batch, Mapping) else []
        names = [names] if isinstance(names, str) else [str(n) for n in names]
        last = getattr(trainer, "last_good_checkpoint", None)
        raise UserError(
            f"the loss is {float(loss.detach().sum())} at step {trainer.global_step}; "
            f"the batch holds {', '.join(names) or 'no named files'}; last good checkpoint: {last or 'none yet'}"
        )


class EmaUpdate(pl.Callback):
    """Updates every `Ema` in the module once for each optimiser step."""

    def __init__(self) -> None:
        self._seen = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._seen = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step != self._seen:
            self._seen = trainer.global_step
            for part in module.modules():
                if isinstance(part, Ema):
                    part.update()


class Schedules(pl.Callback):
    """Advances schedules with `interval: validation` before the checkpoint of that validation is written.

    (Lightning advances them afterwards, so that a resumed run would miss one step.)
    """

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        schedule = module.schedule if isinstance(module, FitModule) else None
        if (
            schedule is None
            or schedule.interval != "validation"
            or trainer.state.fn != "fit"
            or trainer.sanity_checking
        ):
            return
        if schedule.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise UserError(f"the schedule monitors {schedule.monitor!r}, which was not logged; logged: {known}")
        value = float(trainer.callback_metrics[schedule.monitor])
        for config in trainer.lr_scheduler_configs:
            by_metric = isinstance(config.scheduler, ReduceLROnPlateau)
            config.scheduler.step(*([value] if by_metric else []))  # type: ignore[arg-type]


class FrozenHashes(pl.Callback):
    """Saves the hashes of frozen networks in checkpoints, and raises an error if they differ on resuming."""

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["frozen"] = frozen_hashes(module)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        check_frozen(module, checkpoint.get("frozen", {}))


def check_frozen(module: nn.Module, saved: Mapping[str, str]) -> None:
    """Raise UserError if the hash of a frozen network of `module` differs from that in `saved`."""
    for name, mine in frozen_hashes(module).items():
        if name in saved and saved[name] != mine:
            raise UserError(f"the checkpoint was trained with {name} {saved[name]}, but here {name} is {mine}")


class ManualClip(pl.Callback):
    """Clips gradients by norm or value with manual optimisation, for which Lightning does not support it."""

    def __init__(self, clip: float, algorithm: str = "norm") -> None:
        self.clip = clip
        self.apply = nn.utils.clip_grad_value_ if algorithm == "value" else nn.utils.clip_grad_norm_

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        # Called after fp16 gradients are unscaled and before the step.
        values = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.apply(values, self.clip)


class StopOnSignal(pl.Callback):
    """Ends training after the current batch on Ctrl-C or SIGTERM, so that the checkpoint lies between two steps.

    A second Ctrl-C stops immediately; the last checkpoint stays intact. A second SIGTERM does not, since at a time
    limit SLURM's step and srun send one each. SIGUSR1 and SIGUSR2 also end training if they had a handler, which is
    called
    afterwards: submitit then requeues its job.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._former: dict[int, Any] = {}
        self._owed: int | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        awaited = [n for n in (signal.SIGUSR1, signal.SIGUSR2) if callable(signal.getsignal(n))]
        for number in (signal.SIGINT, signal.SIGTERM, *awaited):
            self._former[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name
        self._owed = number if number in (signal.SIGUSR1, signal.SIGUSR2) else self._owed

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self.received = self.received or "another process"
            trainer.should_stop = True
            every: Any = trainer.val_check_batch
            if (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % every:
                # Lightning would validate before it ends: too slow after a signal, and at a step that decides
                # in no other run which weights are best.
                trainer.limit_val_batches = 0

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
        if self._owed is not None:
            signal.raise_signal(self._owed)


class Position(pl.Callback):
    """Saves in checkpoints the position of the run in the stream of training batches.

    Args:
        share: images that all processes load at a time; None if the stage does not set it.
    """

    def __init__(self, share: int | None) -> None:
        self.share = share

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        seen = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        checkpoint["position"] = {"batches": seen, "share": self.share}
