"""Builds Lightning's Trainer from the config group `trainer`, with any of its keywords except those fixed here."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import get_object, instantiate
from lightning_utilities.core.inheritance import get_all_subclasses
from pytorch_lightning.callbacks import Checkpoint, ProgressBar, Timer
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from oodgan.errors import UserError, unknown
from oodgan.nn.ema import Ema
from oodgan.ranks import environments, launched, placed
from oodgan.tracking.artifacts import plain
from oodgan.training.progress import Progress

DEFAULTS: dict[str, Any] = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto"}
OURS = ("channels_last", "compile")
"""Keys of the group that are no keywords of Lightning's: see `prepare`."""

_STEPS = "training is counted in steps: give fit.max_steps of the part that is trained"
_VALIDATION = "give fit.val_every of the part that is trained"
REFUSED = {
    "max_steps": _STEPS,
    "min_steps": _STEPS,
    "max_epochs": _STEPS,
    "min_epochs": _STEPS,
    "val_check_interval": _VALIDATION,
    "check_val_every_n_epoch": _VALIDATION,
    "callbacks": "give the group: callbacks=..., or +callbacks.NAME={_target_: ...}",
    "logger": "give the group: logger=...",
    "default_root_dir": "give root, run or folder",
    "enable_checkpointing": "a run goes on from its checkpoints; callbacks.checkpoints says when they are written",
    "use_distributed_sampler": "Lightning's sampler pads shards with images twice, which makes metrics wrong",
    "inference_mode": "codes are refined by gradients inside of test and predict loops",
    "reload_dataloaders_every_n_epochs": "training data are one endless stream, which resumes exactly",
    "barebones": "it switches off what a run is made of: checkpoints, logs, progress",
}
"""Keywords of Lightning's Trainer that are fixed here, and what to give instead or why."""


def trainer(
    cfg: Any = None, *, folder: str | Path, callbacks: Iterable[pl.Callback] = (), **options: Any
) -> pl.Trainer:
    """Build the Trainer of `cfg.trainer`, quiet and without logger; the keywords `options` take precedence.

    Samplers are not replaced, so shards are never padded.

    Raises:
        UserError: a keyword that is unknown to Lightning, fixed here (`REFUSED`), or has an invalid value.
    """
    _quiet()
    engine = described(cfg)
    target = get_object(engine.pop("_target_", "pytorch_lightning.Trainer"))
    given = {key: value for key, value in engine.items() if key not in OURS}
    check(given, target)
    if given.get("fast_dev_run") and "max_steps" not in options:
        raise UserError("trainer.fast_dev_run is for training; this stage trains nothing")
    hooks, bar = _one_progress(list(callbacks), given.pop("enable_progress_bar", None))
    keywords: dict[str, Any] = {
        "logger": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "inference_mode": False,
        "enable_progress_bar": bar,
        # If the list has none of this kind, Lightning adds its own.
        "enable_checkpointing": any(isinstance(hook, Checkpoint) for hook in hooks),
        **{key: _built(value) for key, value in given.items()},
        "strategy": _built(strategy(engine)),
        "plugins": [*(_built(given.get("plugins")) or []), *environments()],
        "profiler": _profiler(_built(given.get("profiler")), folder),
        **options,
    }
    if keywords.get("precision") == "16-mixed" and keywords["accelerator"] == "cpu":
        # Lightning would use bf16 instead, with a warning that is silenced here.
        keywords["precision"] = None
        keywords["plugins"] = [*keywords["plugins"], MixedPrecision("16-mixed", "cpu")]
    try:
        return target(default_root_dir=str(folder), callbacks=hooks, **keywords)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"this trainer cannot be built here: {error}") from error


def check(given: Mapping[str, Any], target: Any = pl.Trainer) -> None:
    """Raise UserError for unknown keywords (naming the nearest) and for those fixed here (giving the reason)."""
    takes = inspect.signature(target.__init__).parameters
    free = any(each.kind is each.VAR_KEYWORD for each in takes.values())
    for key in given:
        if key in REFUSED:
            raise UserError(f"trainer.{key} is fixed here: {REFUSED[key]}")
        if key not in takes and not free:
            raise unknown("keyword of the Trainer", key, (set(takes) - {"self", *REFUSED}) | set(OURS))


def check_values(cfg: Any) -> None:
    """Raise UserError for values that the Trainer would refuse, so that a stage need not render anything first."""
    engine = described(cfg)
    _devices(engine)
    for key, value in engine.items():
        if (key == "overfit_batches" or key.startswith("limit_")) and isinstance(value, str):
            raise UserError(f"trainer.{key}={value}: a number of batches or a share of them is expected")
    try:
        Timer(engine.get("max_time"))
    except (MisconfigurationException, TypeError) as error:
        raise UserError(f"trainer.max_time={engine['max_time']}: DD:HH:MM:SS is expected") from error


def described(cfg: Any) -> dict[str, Any]:
    """Return `cfg.trainer` as plain values, with the devices and nodes of torchrun or SLURM if they are used."""
    chosen = plain(None if cfg is None else cfg.get("trainer"))
    return {**DEFAULTS, **dict(chosen or {}), **placed()}


def prepare(module: pl.LightningModule, engine: Mapping[str, Any]) -> None:
    """Set memory format and compile the trained networks in place, so that names in checkpoints do not change.

    Raises:
        UserError: `sync_batchnorm` on the CPU.
    """
    synced = engine.get("sync_batchnorm") and strategy(engine) != "auto" and engine.get("accelerator") == "cpu"
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if synced and any(p.requires_grad for norm in norms for p in norm.parameters()):
        raise UserError("synchronised batch norm needs GPUs; trainer.sync_batchnorm=false keeps each process's own")
    if engine.get("channels_last"):
        # Weights of modulated convolutions have five dimensions, for which there is no such format.
        module._apply(lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
    if engine.get("compile"):
        for child in module.children():
            if not isinstance(child, Ema) and any(p.requires_grad for p in child.parameters()):
                child.compile()


def strategy(engine: Mapping[str, Any]) -> Any:
    """Return Lightning's strategy: the configured one, or "ddp" for several devices if none is configured."""
    chosen = engine.get("strategy") or "auto"
    if isinstance(chosen, Mapping) and str(chosen.get("_target_", "")).endswith(".DDPStrategy"):
        # As for the name "ddp": two networks are trained in turn, and some layers feed no loss in some steps.
        return {"find_unused_parameters": True, **chosen}
    many = _devices(engine) > 1 or int(engine.get("num_nodes") or 1) > 1
    return "ddp" if chosen == "auto" and many else chosen


@contextmanager
def loaders_restored() -> Iterator[None]:
    """Take back what Lightning patches in torch's loaders while it asks for them.

    It does not where asking fails, and every loader that is made later in this process would be treated as one of the
    failed call.
    """
    try:
        yield
    finally:
        for cls in [each for base in (DataLoader, BatchSampler) for each in (base, *get_all_subclasses(base))]:
            for name in ("__init__", "__setattr__", "__delattr__"):
                if f"__old{name}" in cls.__dict__:
                    setattr(cls, name, cls.__dict__[f"__old{name}"])
                    delattr(cls, f"__old{name}")


def local_processes(engine: Mapping[str, Any]) -> int:
    """Return the number of processes to start on this machine.

    Raises:
        UserError: several machines, but neither torchrun nor srun started the processes.
    """
    if launched():
        return 1
    if int(engine.get("num_nodes") or 1) > 1:
        raise UserError(
            f"nodes={engine['num_nodes']}: the processes of several machines are started by srun oodgan ... inside "
            "of a SLURM job, or by torchrun ... -m oodgan ... on each machine"
        )
    forking = str(engine.get("strategy") or "auto").endswith(("_fork", "_spawn", "_notebook"))
    return 1 if forking else _devices(engine)


def _devices(engine: Mapping[str, Any]) -> int:
    devices = engine.get("devices", 1)
    if isinstance(devices, list | tuple):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        on_cpu = engine.get("accelerator") == "cpu" or not torch.cuda.is_available()
        return 1 if on_cpu else torch.cuda.device_count()
    try:
        return int(devices)
    except ValueError:
        raise UserError(f"devices={devices}: a number, a list of GPUs, or auto is expected") from None


def _built(value: Any) -> Any:
    """Build objects among the keywords (strategies, profilers, plugins) from configs with `_target_`."""
    if isinstance(value, Mapping) and "_target_" in value:
        return instantiate(value, _convert_="all")
    return [_built(each) for each in value] if isinstance(value, list) else value


def _one_progress(hooks: list[pl.Callback], wanted: bool | None) -> tuple[list[pl.Callback], bool]:
    """Return the callbacks with one progress bar: one of Lightning's replaces ours."""
    bar = any(isinstance(hook, ProgressBar) for hook in hooks)
    if bar or wanted is False:
        hooks = [hook for hook in hooks if not isinstance(hook, Progress)]
    return hooks, bar and wanted is not False


def _profiler(profiler: Any, folder: str | Path) -> Any:
    """Build a profiler by name that writes `profile*` to the run's folder instead of a log that is disabled."""
    named: dict[str, Any] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return named[profiler](dirpath=str(folder), filename="profile") if profiler in named else profiler


def _quiet() -> None:
    """Silence Lightning's messages about hardware, loaders and ranks, but not the output of callbacks."""
    for name in ("utilities.rank_zero", "accelerators.cuda", "trainer.connectors"):
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    noise = (
        "does not have many workers", "in eval mode", "IterableDataset", "sync_dist", r"isinstance\(treespec",
        "The `srun` command is available",
    )  # fmt: skip
    for text in (f".*{words}.*" for words in noise):
        warnings.filterwarnings("ignore", text)
