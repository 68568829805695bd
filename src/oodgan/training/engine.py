"""Lightning's Trainer on the configured engine: accelerator, devices, machines, precision."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from oodgan.errors import UserError
from oodgan.nn.ema import Ema
from oodgan.ranks import environments, launched, placed
from oodgan.tracking.artifacts import plain

_ENGINE: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": "32-true",
    "sync_batchnorm": False,
    "deterministic": False,
    "benchmark": False,
}


def trainer(
    cfg: Any = None, *, folder: str | Path, callbacks: Iterable[pl.Callback] = (), **options: Any
) -> pl.Trainer:
    """A Trainer on the engine of `cfg.trainer` (accelerator, devices, nodes, strategy, precision), quiet and without a
    logger; `options` are Lightning's own keywords. Samplers are left as they are: shards are never padded."""
    _quiet()
    engine = described(cfg)
    given = {k: engine[k] for k in _ENGINE} | {"strategy": strategy(engine), "plugins": environments()}
    defaults = {
        "logger": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        # Refinement needs gradients inside of test and predict loops, which inference tensors cannot give.
        "inference_mode": False,
    }
    chosen = {**given, **defaults, **options}
    if chosen["precision"] == "16-mixed" and engine["accelerator"] == "cpu":
        # Lightning would take bf16 instead, with a warning that nobody sees.
        chosen["precision"] = None
        chosen["plugins"] = [*chosen["plugins"], MixedPrecision("16-mixed", "cpu")]
    hooks = list(callbacks)
    # Without one of its kind in the list, Lightning would add its own.
    chosen["enable_checkpointing"] = any(isinstance(hook, Checkpoint) for hook in hooks)
    try:
        return pl.Trainer(default_root_dir=str(folder), callbacks=hooks, **chosen)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"this trainer cannot be built here: {error}") from error


def described(cfg: Any) -> dict[str, Any]:
    """`cfg.trainer` with all its keys; under torchrun or SLURM, devices and machines as they were started."""
    chosen = plain(None if cfg is None else cfg.get("trainer"))
    return {**_ENGINE, **dict(chosen or {}), **placed()}


def prepare(module: pl.LightningModule, engine: Mapping[str, Any]) -> None:
    """Memory format and compilation of the trained networks, in place: names in the checkpoint stay the same.

    Raises:
        UserError: batch statistics cannot be shared between processes on the CPU.
    """
    synced = engine.get("sync_batchnorm") and strategy(engine) != "auto" and engine.get("accelerator") == "cpu"
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if synced and any(p.requires_grad for norm in norms for p in norm.parameters()):
        raise UserError("synchronised batch norm needs GPUs; trainer.sync_batchnorm=false keeps each process's own")
    if engine.get("channels_last"):
        # Modulated convolutions keep weights of five dimensions, for which there is no such format.
        module._apply(lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
    if engine.get("compile"):
        for child in module.children():
            if not isinstance(child, Ema) and any(p.requires_grad for p in child.parameters()):
                child.compile()


def strategy(engine: Mapping[str, Any]) -> Any:
    """Lightning's strategy: the configured one, "ddp" where there are several devices and none is named."""
    chosen = engine.get("strategy") or "auto"
    many = _devices(engine) > 1 or int(engine.get("num_nodes") or 1) > 1
    return "ddp" if chosen == "auto" and many else chosen


def local_processes(engine: Mapping[str, Any]) -> int:
    """Processes that a step has to start on this machine itself."""
    forking = str(engine.get("strategy") or "auto").endswith(("_fork", "_spawn", "_notebook"))
    return 1 if launched() or forking or int(engine.get("num_nodes") or 1) > 1 else _devices(engine)


def _devices(engine: Mapping[str, Any]) -> int:
    devices = engine.get("devices", 1)
    if isinstance(devices, list | tuple):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        on_cpu = engine.get("accelerator") == "cpu" or not torch.cuda.is_available()
        return 1 if on_cpu else torch.cuda.device_count()
    return int(devices)


def _quiet() -> None:
    for name in ("pytorch_lightning", "lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    noise = (
        "does not have many workers",
        "The `srun` command is available",
        "in eval mode",
        "IterableDataset",
        "sync_dist",
        r"isinstance\(treespec",
    )
    for text in (f".*{words}.*" for words in noise):
        warnings.filterwarnings("ignore", text)
