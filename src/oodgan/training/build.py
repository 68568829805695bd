"""Builds modules, optimisers and schedules from configs with `_target_`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_object, instantiate
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from oodgan.errors import UserError, unknown
from oodgan.tracking.artifacts import plain

INTERVALS = ("step", "validation")


@dataclass(frozen=True)
class Schedule:
    """How to build a schedule from an optimiser, and when it advances: after each step or each validation."""

    make: Callable[[Any], Any]
    interval: str = "step"
    monitor: str = "val/loss"


def maker(config: Mapping[str, Any] | Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that builds an object from its first argument, from a config with `_target_` or a callable."""
    return instantiate(plain(config), _partial_=True, _convert_="all") if isinstance(config, Mapping) else config


def schedule(config: Mapping[str, Any] | Callable[..., Any] | Schedule | None) -> Schedule | None:
    """Build the schedule of a config; `interval` and `monitor` are used here, other keys go to the scheduler.

    Raises:
        UserError: an unknown interval.
    """
    if config is None or isinstance(config, Schedule):
        return config
    if not isinstance(config, Mapping):
        return Schedule(config)
    keywords = plain(config)
    by_metric = get_object(keywords["_target_"]) is ReduceLROnPlateau
    interval = keywords.pop("interval", None) or ("validation" if by_metric else "step")
    monitor = keywords.pop("monitor", None) or "val/loss"
    if interval not in INTERVALS:
        raise UserError(f"scheduler.interval={interval}: step or validation (training counts steps and has no epochs)")
    if by_metric and interval == "step":
        raise UserError("ReduceLROnPlateau follows a metric of validations: give scheduler.interval=validation")
    return Schedule(maker(keywords), interval, monitor)


def build_module(
    config: Mapping[str, Any] | None,
    recipes: Mapping[str, Any] | None = None,
    exports: Mapping[str, Any] | None = None,
    **networks: Any,
) -> Any:
    """The Lightning module of a `fit.module` config, given its networks.

    `recipes` are configs {argument: config with `_target_`} from which the networks can be built again. Checkpoints
    contain them, so that `load_from_checkpoint` needs only the file. `exports` is the metadata of the artifact (part,
    generator, ...), with which a checkpoint can be used as weights too.

    Raises:
        UserError: no `_target_`, or a key that its constructor does not take.
    """
    keywords = plain(config or {})
    if "_target_" not in keywords:
        raise UserError("fit.module names no _target_; begin a config of your own with `defaults: [light, _self_]`")
    target = get_object(keywords.pop("_target_"))
    takes = inspect.signature(target).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        for key in keywords:
            if key not in takes:
                raise unknown(f"key of fit.module ({target.__name__})", key, set(takes) - set(networks))
    module = target(**keywords, **networks)
    module.hparams.update(plain(recipes or {}))
    module.exports = plain(exports or {})
    return module


_MAKERS = ("oodgan.generators.", "oodgan.nn.facenet", "oodgan.nn.arcface", "oodgan.training.schedules")


def check_trusted(config: Any, key: str = "") -> None:
    """Raise an error for any `_target_` that does not build or train networks: checkpoints may come from strangers.

    A `_target_` must be the class of a network or loss, an optimiser or a schedule, of torch, of this package or of one
    that has been imported already; or one of this package's generators, recognisers or schedules.

    Raises:
        UserError: naming the first other `_target_`.
    """
    if isinstance(config, list | tuple):
        for i, each in enumerate(config):
            check_trusted(each, f"{key}.{i}")
    if not isinstance(config, Mapping):
        return
    if "_target_" in config and not _trusted(str(config["_target_"]), bool(config.get("_partial_"))):
        raise UserError(
            f"the checkpoint names the class {config['_target_']} for {key.lstrip('.') or 'itself'}: import its "
            "package first if it is your own network or loss, or give the argument yourself"
        )
    for name, each in config.items():
        check_trusted(each, f"{key}.{name}")


def _trusted(target: str, partial: bool) -> bool:
    """Return whether a `_target_` is trusted. A partial function runs later, with arguments from a module."""
    if target.rpartition(".")[0] not in sys.modules and not target.startswith(("oodgan.", "torch.nn.", "torch.optim.")):
        return False
    resolved = get_object(target)
    makers = ("oodgan.",) if partial else _MAKERS
    ours = getattr(resolved, "__module__", "").startswith(makers)
    return ours or (isinstance(resolved, type) and issubclass(resolved, nn.Module | Optimizer | LRScheduler))
