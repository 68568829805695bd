"""Callbacks added by users: which work, which are refused and why, and which change a training's result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import callbacks as lightning

from oodgan.errors import UserError

log = logging.getLogger("oodgan")

_REFUSED: dict[type, str] = {
    lightning.BatchSizeFinder: "it would change fit.batch_size, the images of a step over all processes, on which the "
    "learning rate, an exact resume and comparisons rest; where memory is short, raise fit.accumulate",
    lightning.StochasticWeightAveraging: "it counts epochs, and training counts steps; "
    "fit.module.ema_decay averages weights",
    lightning.GradientAccumulationScheduler: "it counts epochs, and training counts steps; give fit.accumulate",
}

OBSERVERS = (
    "oodgan.training.pictures.Pictures",
    "oodgan.training.callbacks.NanGuard",
    "oodgan.metrics.callback.ImageMetrics",
    *(
        f"pytorch_lightning.callbacks.{name}"
        for name in (
            "DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "RichModelSummary",
            "RichProgressBar", "TQDMProgressBar", "ThroughputMonitor", "OnExceptionCheckpoint",
        )
    ),
)  # fmt: skip
"""Callbacks that watch a training and change nothing of what it gives."""

_CHECKPOINTS = "oodgan.training.checkpoints.Checkpoints"
_NEUTRAL = {
    *("_target_", "accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "deterministic", "benchmark"),
    *("log_every_n_steps", "fast_dev_run", "profiler", "detect_anomaly", "compile", "channels_last"),
    *("enable_progress_bar", "enable_model_summary", "num_sanity_val_steps", "enable_autolog_hparams"),
    *("limit_test_batches", "limit_predict_batches", "gradient_clip_algorithm"),
}
_USUAL = {
    "precision": "32-true",
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "overfit_batches": 0,
    "limit_val_batches": 1.0,
    "max_time": None,
}


def deciding(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `trainer` and `callbacks` that change a training's result beyond rounding; {} by default.

    Independent of the number of devices. All callbacks count except those that are known only to observe.
    """
    trainer = dict(cfg.get("trainer") or {})
    deciding_settings = {k: v for k, v in trainer.items() if k not in _NEUTRAL and not (k in _USUAL and _USUAL[k] == v)}
    if trainer.get("gradient_clip_val"):
        deciding_settings["gradient_clip_algorithm"] = trainer.get("gradient_clip_algorithm", "norm")
    for name, entry in (cfg.get("callbacks") or {}).items():
        target = (entry or {}).get("_target_", "")
        if target == _CHECKPOINTS:
            if entry.get("monitor"):
                deciding_settings["monitor"] = [entry["monitor"], entry.get("mode")]
        elif entry and target not in OBSERVERS:
            deciding_settings[f"callbacks.{name}"] = entry
    return deciding_settings


def check(hooks: Sequence[pl.Callback], module: pl.LightningModule, folder: Path) -> None:
    """Adapt Lightning's callbacks to this engine. Raises UserError for those that would not work as documented."""
    for hook in hooks:
        for kind, reason in _REFUSED.items():
            if isinstance(hook, kind):
                raise UserError(f"{type(hook).__name__} cannot be used here: {reason}")
        if isinstance(hook, lightning.LearningRateFinder) and not module.automatic_optimization:
            raise UserError("LearningRateFinder knows one optimiser, and this training has two: give fit.lr")
        if isinstance(hook, lightning.EarlyStopping) and hook._check_on_train_epoch_end:
            raise UserError("EarlyStopping(check_on_train_epoch_end=true) would never stop: training has no epochs")
        if isinstance(hook, lightning.ModelCheckpoint) and hook.dirpath is None:
            hook.dirpath = str(folder / "model_checkpoints")


def on_resume(hooks: Sequence[pl.Callback]) -> list[pl.Callback]:
    """Return the callbacks of a resumed run, without the learning rate finder: its result is in the checkpoint."""
    return [hook for hook in hooks if not isinstance(hook, lightning.LearningRateFinder)]
