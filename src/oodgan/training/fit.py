"""`fit`, the common code of all training stages, with the Trainer of `oodgan.training.engine`."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from oodgan.errors import UserError
from oodgan.files import write_json, write_text
from oodgan.paths import FitFolder
from oodgan.ranks import rank
from oodgan.tracking import loggers
from oodgan.tracking import wandb as tracker
from oodgan.tracking.artifacts import plain
from oodgan.training import added, checkpoints
from oodgan.training import callbacks as parts
from oodgan.training.call import BEST, Call
from oodgan.training.endless import EndlessData
from oodgan.training.engine import loaders_restored, local_processes, prepare, strategy, trainer
from oodgan.training.progress import Progress
from oodgan.training.spread import spread
from oodgan.training.study import Pruner, pruner_here


class Stopped(UserError):
    """Training was stopped by a signal (`SIGINT`, `SIGTERM`) after a whole step; it can be resumed."""

    in_all_ranks = True

    def __init__(self, signal: str, step: int, folder: Path) -> None:
        super().__init__(f"stopped by {signal} at step {step}; go on with resume={folder}")
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """The exit code of a command that was ended by a signal."""
        return 130 if self.signal == "SIGINT" else 143


@dataclass
class FitResult:
    """The result of a training: run folder, exported checkpoint (None after a `fast_dev_run`) and metrics.

    `metrics` contains the last values logged before that checkpoint, `steps` the optimiser steps of the whole run,
    `seconds` the time of this call, `images_per_second` the throughput of all processes, `objective` the best value of
    the monitored metric (the exported `val/loss` where none is monitored), which a sweep optimises.
    """

    folder: Path
    checkpoint: Path | None
    metrics: dict[str, float]
    steps: int
    seconds: float
    images_per_second: float = 0.0
    objective: float | None = None
    frozen: dict[str, str] = field(default_factory=dict)


def fit(
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    *,
    cfg: Any = None,
    settings: Any,
    folder: str | Path,
    callbacks: Iterable[pl.Callback] = (),
    resume: str | Path | None = None,
    init_from: str | Path | None = None,
    keep_run: bool = False,
) -> FitResult:
    """Train `module` on `data` by `settings` (a part's `fit:` config) with the engine of `cfg.trainer`.

    Reads `cfg.trainer`, `cfg.callbacks`, `cfg.logger`, `cfg.seed`, `cfg.resume` and `cfg.stage`, all optional;
    `conf/fit/default.yaml` lists what it reads of `settings`. `settings.batch_size` is the global batch of one
    optimiser step; `data.batch_size` is set to what all processes load at a time: that divided by the accumulation.
    `resume` is a run folder, or "auto": `folder` itself when it holds a checkpoint. `init_from` is an earlier
    checkpoint, all of whose weights a new run starts from. After the call `module` has the weights that
    `settings.export` names (`best` by the monitored metric, the default where there is one, or `last`), in fp32 on the
    CPU. `keep_run` leaves a wandb run open for what the caller logs besides (`oodgan.tracking.wandb.finish` ends it).

    Raises:
        UserError: `folder` holds a run already, a batch that cannot be split, a loss that is not finite, a checkpoint
            of another module, no disk space.
        Stopped: Ctrl-C or SIGTERM.
    """
    call = Call(
        config=plain(cfg) if cfg is not None else {},
        settings=plain(settings),
        folder=Path(folder).absolute(),
        resume=str(resume or _get(cfg, "resume") or "") or None,
        init_from=str(init_from or "") or None,
        extra=tuple(callbacks),
        keep_run=keep_run,
    )
    call.check()
    if call.trial:
        with tempfile.TemporaryDirectory() as nowhere:
            call.folder, call.resume = Path(nowhere), None
            return spread(local_processes(call.trainer), _fit, module, data, call)
    call.extra += tuple(pruner_here(call.settings.get("monitor"), call.settings.get("mode")))
    return spread(local_processes(call.trainer), _fit, module, data, call)


def _fit(module: pl.LightningModule, data: pl.LightningDataModule, call: Call) -> FitResult:
    settings, begun = call.settings, time.monotonic()
    tracker.finish()  # whatever ran before in this process must not get this run's numbers
    saved = checkpoints.load(checkpoints.find(call.resume)) if call.resume else None
    if call.init_from:
        initialise(module, call.init_from)
    if saved is not None and call.resume and rank() == 0:
        _inherit(Path(call.resume), call.folder)
    if rank() == 0 and not call.trial:
        write_text(
            FitFolder(call.folder).config, OmegaConf.to_yaml(OmegaConf.create({**call.config, "fit": call.settings}))
        )
    stop = parts.StopOnSignal()
    engine = _assemble(module, call, stop, int(saved["global_step"]) if saved else None)
    share = _share(settings, engine.world_size, call.accumulate)
    engine.manual_accumulate = call.accumulate  # type: ignore[attr-defined]
    engine.callbacks.insert(0, parts.Position(share))  # type: ignore[attr-defined]
    if share is not None:
        data.batch_size = share  # type: ignore[attr-defined]
    start = _batches_seen(saved, share)
    prepare(module, call.trainer)
    first = int(saved["global_step"]) if saved else 0
    try:
        with loaders_restored():
            engine.fit(
                module,
                datamodule=EndlessData(data, start, call.limit_val),
                ckpt_path=str(checkpoints.find(call.resume)) if call.resume else None,
                weights_only=False if call.resume else None,
            )
    except MisconfigurationException as error:
        raise UserError(f"Lightning cannot run this: {' '.join(str(error).split())}") from error
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        stop.restore()
        if not call.keep_run or rank():
            tracker.finish()
    if stop.received:
        raise Stopped(stop.received, engine.global_step, call.folder)
    for pruner in (c for c in call.extra if isinstance(c, Pruner)):
        pruner.finish()
    return _result(engine, module, call, first, share, time.monotonic() - begun)


def _assemble(module: pl.LightningModule, call: Call, stop: pl.Callback, resume_at: int | None) -> pl.Trainer:
    steps = int(call.settings["max_steps"])
    val_every = min(int(call.settings.get("val_every") or steps), steps)
    automatic, clip, way = module.automatic_optimization, call.clip, call.trainer.get("gradient_clip_algorithm", "norm")
    options: dict[str, Any] = {
        "max_steps": steps,
        "max_epochs": -1,
        "val_check_interval": val_every * call.accumulate,
        "check_val_every_n_epoch": None,
        "accumulate_grad_batches": call.accumulate if automatic else 1,
        "gradient_clip_val": clip if automatic else None,
    }
    if not call.trial:
        options["logger"] = loggers.build(call.config.get("logger"), call.folder, call.stage, call.config, resume_at)
    if strategy(call.trainer) == "ddp":
        # Two networks are trained in turn, and some layers feed no loss in some steps.
        options["strategy"] = "ddp_find_unused_parameters_true"
    if call.limit_val is not None:
        options["limit_val_batches"] = call.limit_val
    hooks = [parts.StepSeeds(call.seed), parts.FrozenHashes(), parts.EmaUpdate(), parts.Schedules(), stop]
    if clip and not automatic:
        hooks.append(parts.ManualClip(float(clip), way))
    hooks += [Progress(call.stage), *call.extra, *_configured(call)]
    added.check(hooks, module, call.folder)
    if call.resume:
        hooks = added.on_resume(hooks)
    return trainer(call.config, folder=call.folder, callbacks=hooks, **options)


def _configured(call: Call) -> list[pl.Callback]:
    """Build the callbacks of `cfg.callbacks`; checkpoints and the NaN guard are always included."""
    from hydra.utils import instantiate

    entries = dict(call.config.get("callbacks") or {})
    entries.setdefault("checkpoints", {"_target_": "oodgan.training.checkpoints.Checkpoints"})
    entries.setdefault("nan_guard", {"_target_": "oodgan.training.callbacks.NanGuard"})
    saving = {
        "every": call.settings.get("checkpoint_every"),
        "monitor": call.settings.get("monitor"),
        "mode": call.settings.get("mode"),
    }
    entries["checkpoints"] = {**entries["checkpoints"], **{k: v for k, v in saving.items() if v is not None}}
    return [instantiate(entry) for entry in entries.values() if entry]


def _share(settings: Mapping[str, Any], processes: int, accumulate: int) -> int | None:
    """Images that all processes load at a time: global batch / accumulation."""
    batch = settings.get("batch_size")
    if batch is None:
        return None
    divisor = processes * accumulate
    if int(batch) < 1 or int(batch) % divisor:
        raise UserError(
            f"batch_size is {batch}, the images of one step over all {processes} processes and "
            f"{accumulate} accumulated batches: it must be a multiple of {divisor}"
        )
    return int(batch) // accumulate


def _batches_seen(saved: Mapping[str, Any] | None, share: int | None) -> int:
    """Return the number of batches that a checkpoint was trained on, in units of the current batch size."""
    if saved is None:
        return 0
    position = saved.get("position")
    if position is None:
        raise UserError("this checkpoint was not written by a training stage: it has no position in the data")
    if share is None or not position["share"]:
        return int(position["batches"])
    return int(position["batches"]) * int(position["share"]) // share


def initialise(module: nn.Module, source: str | Path) -> None:
    """Load the weights of a run folder or checkpoint (best, else last) into `module`, but not its optimisers.

    Raises:
        UserError: names or shapes differ.
    """
    saved = checkpoints.load(checkpoints.find(source, best=True))
    if isinstance(module, pl.LightningModule):
        parts.check_frozen(module, saved.get("frozen", {}))
    try:
        module.load_state_dict(saved["state_dict"])
    except (RuntimeError, KeyError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"the weights in {source} do not fit this module: {text[:300]}") from error


def _inherit(source: Path, folder: Path) -> None:
    """Copy history and identity of a resumed run that continues in another folder."""
    if source.is_file():
        return
    source = checkpoints.find(source).parents[1]  # a stage's folder holds the fit's further below
    if source.absolute() == folder:
        return
    old, new = FitFolder(source), FitFolder(folder)
    for theirs, ours in ((old.metrics_csv, new.metrics_csv), (old.identity, new.identity), (old.best, new.best)):
        if theirs.is_file():
            ours.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(theirs, ours)


def _result(
    engine: pl.Trainer, module: pl.LightningModule, call: Call, first: int, share: int | None, seconds: float
) -> FitResult:
    module.cpu()
    if engine.precision in ("64-true", "bf16-true", "16-true"):
        module.float()
    done = engine.global_step - first
    if call.trial:
        return FitResult(call.folder, None, {}, engine.global_step, seconds)
    source = call.folder if done else call.resume or call.folder
    checkpoint = checkpoints.find(source, best=call.export == BEST)
    metrics = {k: float(v) for k, v in engine.callback_metrics.items()}
    if call.export == BEST:
        saved = checkpoints.load(checkpoint)
        module.load_state_dict(saved["state_dict"])
        metrics = saved.get("metrics", metrics)
    batch = int(call.settings.get("batch_size") or 0)
    speed = done * batch / seconds if seconds else 0.0
    path = FitFolder(call.folder).metrics_json
    if rank() == 0:
        if not done and path.is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
        else:
            write_json(path, metrics)
    hashes = parts.frozen_hashes(module)
    keeper = next(c for c in engine.callbacks if isinstance(c, checkpoints.Checkpoints))  # type: ignore[attr-defined]
    objective = metrics.get("val/loss") if keeper.best is None else keeper.best
    return FitResult(call.folder, checkpoint, metrics, engine.global_step, seconds, speed, objective, hashes)


def _get(cfg: Any, key: str) -> Any:
    return None if cfg is None else cfg.get(key)
