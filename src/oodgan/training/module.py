"""Base class of the Lightning modules: losses, optimisers, schedule, averaged weights, and logging."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torchmetrics import Metric

from oodgan.errors import UserError
from oodgan.nn.ema import Ema
from oodgan.training import build
from oodgan.training.losses import Losses
from oodgan.training.manual import optimise

Config = Mapping[str, Any]
ADAM: Config = {"_target_": "torch.optim.Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
LOGITS = "logits"  # logits of the discriminator for generated images
_AT_VALIDATION = 1 << 60  # Lightning never steps such a schedule; `callbacks.Schedules` does


class BatchMean(Metric):
    """Mean over images of values that are batch means, from sums and counts over all processes.

    (torchmetrics' MeanMetric ignores weights if nan values are allowed.)
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor, count: int) -> None:
        self.total += value.double() * count
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


class FitModule(pl.LightningModule):
    """Trains `network` on a weighted sum of losses, against a discriminator where there is one.

    A subclass implements `predictions` and, with a discriminator, `real` and `fake`. All losses and their sum are
    logged (`train/NAME`, `val/NAME`, `train/loss`, `val/loss`), with the same values for any number of processes.
    Validation uses the averaged weights. `val/loss` does not include adversarial losses, which only show the balance
    between the two networks.

    Args:
        network: the network that is trained and exported; like all networks here, an object or a config.
        losses: {name: {"_target_", "weight", keywords}}, see `oodgan.training.losses.Losses`.
        optimizer: config with `_target_` or callable that takes the trained parameters; its steps count as
            `global_step`.
        scheduler: the same for an optimiser; a config also has `interval` (step or validation) and `monitor`.
        ema_decay: decay of the averaged weights; None: no averaging.
        discriminator: trained against the network with `discriminator_loss(discriminator, real, fake)` and
            `discriminator_optimizer` (None: as `optimizer`), on the same schedule. Not built if no loss uses its
            `logits`.
    """

    networks: tuple[str, ...] = ("network", "discriminator")
    """Arguments that are networks: checkpoints hold their weights and how to build them."""
    loss_inputs: tuple[str, ...] = ("result", "target")
    """What a loss is called with that does not say."""
    measured: tuple[str, ...] | None = None
    """What this very class logs at validations besides its losses, also as globs; None: any names."""

    def __init__(
        self,
        network: nn.Module | Config,
        losses: Config,
        optimizer: Config | Callable[..., Any] | None = None,
        scheduler: Config | Callable[..., Any] | None = None,
        ema_decay: float | None = None,
        discriminator: nn.Module | Config | None = None,
        discriminator_optimizer: Config | Callable[..., Any] | None = None,
        discriminator_loss: Config | Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=self.networks, logger=False)
        for name in [name for name, value in self.hparams.items() if not _is_plain(value)]:
            del self.hparams[name]
        self.network = built(network)
        self.losses = Losses(losses, self.loss_inputs)
        self.ema = Ema(self.network, ema_decay) if ema_decay else None
        self.optimizer = build.maker(optimizer or ADAM)
        self.schedule = build.schedule(scheduler)
        self.discriminator: Any = built(discriminator) if self.losses.need(LOGITS) else None
        if self.losses.need(LOGITS):
            if discriminator is None or discriminator_loss is None:
                raise UserError("a loss asks for the discriminator's logits: give module.discriminator and its loss")
            self.automatic_optimization = False
            self.discriminator_loss = built(discriminator_loss)
            self.discriminator_optimizer = build.maker(discriminator_optimizer or optimizer or ADAM)
        self.exports: dict[str, Any] = {}  # see `build_module`
        self.exported_tensors: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        # No submodules: the names are known only when the first batch has been validated.
        self._means: dict[str, BatchMean] = {}

    # implemented by subclasses

    def predictions(self, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the tensors that losses and metrics can use besides the batch; `network` may be the averaged one."""
        raise NotImplementedError(f"{type(self).__name__} must define predictions()")

    def measures(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return further values to log, as means over the batch."""
        return {}

    def real(self, known: Mapping[str, Tensor]) -> Tensor:
        """Return the real inputs of the discriminator."""
        return known["target"]

    def fake(self, known: Mapping[str, Tensor]) -> Tensor:
        """Return the fake inputs of the discriminator."""
        return known["result"]

    # steps

    @property
    def averaged(self) -> nn.Module:
        """The network that is validated and exported: the averaged one if weights are averaged."""
        return self.network if self.ema is None else self.ema.module

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        if self.discriminator is not None:
            self._adversarial_step(batch, batch_idx)
            return None
        known = self._known(self.network, batch)
        values = self.losses(known)
        total = self.losses.total(values)
        self.log_training({**values, "loss": total, **self.measures(known)}, batch_idx)
        return total

    def _known(self, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        return {**tensors, **self.predictions(network, batch)}

    def _adversarial_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimisers: Any = self.optimizers()
        first, second = optimisers
        logged: dict[str, Tensor] = {}
        known: dict[str, Tensor] = {}

        def loss() -> Tensor:
            known.update(self._known(self.network, batch))
            known[LOGITS] = self.discriminator(self.fake(known))
            logged.update(self.losses(known))
            return self.losses.total(logged)

        def discriminate() -> Tensor:
            return self.discriminator_loss(self.discriminator, self.real(known).detach(), self.fake(known).detach())

        total = optimise(self, first, loss, batch_idx)
        wrong = optimise(self, second, discriminate, batch_idx, counts=False)
        self.log_training({**logged, "loss": total, "discriminator": wrong, **self.measures(known)}, batch_idx)
        if self.schedule is not None and self.schedule.interval == "step" and self._steps(batch_idx):
            schedulers: Any = self.lr_schedulers()
            for scheduler in schedulers:
                scheduler.step()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Add the batch to the means; return the predictions for callbacks."""
        known = self._known(self.averaged, batch)
        values = self.losses(known, self.losses.named(without=LOGITS))
        totals = {"loss": self.losses.total(values)} if values else {}
        self.log_validation({**values, **totals, **self.measures(known)}, count_of(known))
        return known

    def configure_optimizers(self) -> Any:
        pairs = [(self.network, self.optimizer)]
        if self.discriminator is not None:
            pairs.append((self.discriminator, self.discriminator_optimizer))
        optimizers = [make([p for p in network.parameters() if p.requires_grad]) for network, make in pairs]
        if self.schedule is None:
            return optimizers
        often = 1 if self.schedule.interval == "step" else _AT_VALIDATION
        more = {"interval": "step", "frequency": often, "monitor": self.schedule.monitor}
        schedulers = [self.schedule.make(each) for each in optimizers]
        if not self.automatic_optimization:
            return optimizers, schedulers
        return optimizers, [{"scheduler": each, **more} for each in schedulers]

    # logging

    def log_training(self, values: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log scalars of a training batch as `train/<name>`: their mean over all processes and accumulated batches.

        Call it once a batch, with the same names on every process.
        """
        if self._trainer is None:  # called without a Trainer, so there is no logger
            return
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        if not self._steps(batch_idx):
            return
        means = torch.stack(list(self._sums.values())) / self._accumulated
        if self.trainer.world_size > 1:
            means = self.trainer.strategy.reduce(means, reduce_op="mean")
        self.log_dict({f"train/{name}": mean for name, mean in zip(self._sums, means, strict=True)}, prog_bar=True)
        self._sums = {}

    @property
    def _accumulated(self) -> int:
        return getattr(self.trainer, "manual_accumulate", 1)

    def _steps(self, batch_idx: int) -> bool:
        """Return whether the optimisers step after this batch."""
        return (batch_idx + 1) % self._accumulated == 0

    def log_validation(self, values: Mapping[str, Tensor], count: int) -> None:
        """Add a batch of `count` images to the means that are logged as `val/<name>` when validation ends.

        A value is the mean over the batch. Sums and counts are added over all processes, so uneven shards are handled.
        """
        for name, value in values.items():
            self._mean(name).update(value.detach(), count)

    def _mean(self, name: str) -> BatchMean:
        if name not in self._means:
            self._means[name] = BatchMean().to(self.device)
        return self._means[name]

    def on_validation_epoch_start(self) -> None:
        for mean in self._means.values():
            mean.reset()

    def on_validation_epoch_end(self) -> None:
        for name in self._known_names():
            value = self._mean(name).compute()
            # Equal on all processes already: the mean that sync_dist takes changes nothing.
            self.log(f"val/{name}", value.to(torch.get_default_dtype()), prog_bar=True, sync_dist=True)

    def _known_names(self) -> list[str]:
        """Return the names logged by any process: computing a mean is a collective call of all processes."""
        names: Any = [list(self._means)]
        if self.trainer.world_size > 1:
            names *= self.trainer.world_size
            torch.distributed.all_gather_object(names, names[0])
        return sorted({name for each in names for name in each})

    # checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the metadata of the artifact, so that the checkpoint can be used as weights."""
        checkpoint["exports"] = {**self.exports, **({"tensors": self.exported_tensors} if self.exports else {})}

    # used by tools of Lightning

    @property
    def lr(self) -> float:
        """The optimiser's learning rate, for Lightning's LearningRateFinder."""
        return float(getattr(self.optimizer, "keywords", {}).get("lr", 0.0))

    @lr.setter
    def lr(self, value: float) -> None:
        make = self.optimizer
        self.optimizer = lambda parameters: make(parameters, lr=value)
        for config in self.trainer.lr_scheduler_configs if self._trainer is not None else []:
            config.scheduler.base_lrs = [value for _ in config.scheduler.base_lrs]

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a module from a checkpoint. Networks are built from the checkpoint's configs unless they are given.

        Raises:
            UserError: the checkpoint names a class that is not a network, loss, optimiser or schedule.
        """
        from oodgan.training import checkpoints

        saved = checkpoints.load(checkpoint_path).get("hyper_parameters") or {}
        build.check_trusted({name: value for name, value in saved.items() if name not in kwargs})
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)


def count_of(known: Mapping[str, Tensor]) -> int:
    """Return the number of images of a batch."""
    return len(next(iter(known.values())))


def built(part: Any) -> Any:
    """Return a network or loss, built from its config if it is one."""
    return instantiate(part, _convert_="all") if isinstance(part, Mapping) else part


def _is_plain(value: Any) -> bool:
    """Return whether a checkpoint can contain it without custom classes."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
