"""Checks the names of monitored metrics against what a training will log, before anything is rendered or trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch

from hydra.utils import get_object, instantiate

from oodgan.errors import UserError
from oodgan.training.module import LOGITS, Config

_IMAGES = "oodgan.metrics.callback.ImageMetrics"


def check_monitors(cfg: Config, group: str) -> None:
    """Check `fit` of a part's config group: `monitor`, that of its scheduler, and those of `callbacks`.

    A module or callback of the user's own may log any name; then a wrong one is an error at the first validation only.

    Raises:
        UserError: a name that is not logged.
    """
    callbacks = cfg.get("callbacks") or {}
    for place, settings in _trainings(cfg.get(group) or {}, group):
        monitored = dict(_monitored(place, settings, callbacks))
        logged = _by_module(settings.get("module") or {})
        if logged is None or all(_among(name, logged) for name in monitored.values()):
            continue
        for entry in filter(None, callbacks.values()):
            more = _by_callback(entry)
            if more is None:
                return
            logged |= more
        for key, name in monitored.items():
            if not _among(name, logged):
                known = sorted(each for each in logged if each.startswith("val/"))
                raise UserError(f"{key}={name} is not logged; logged are {', '.join(known)}")


def _trainings(part: Config, group: str) -> Iterator[tuple[str, Config]]:
    """The key and settings of each training: `fit` itself, or the phases in it."""
    fit = part.get("fit") or {}
    phases = {
        f"{group}.fit": fit,
        **{f"{group}.fit.{name}": value for name, value in fit.items() if isinstance(value, Mapping)},
    }
    yield from ((key, settings) for key, settings in phases.items() if "module" in settings and settings["max_steps"])


def _monitored(place: str, settings: Config, callbacks: Config) -> Iterator[tuple[str, str]]:
    places = {
        place: settings,
        f"{place}.module.scheduler": (settings.get("module") or {}).get("scheduler"),
        **{f"callbacks.{name}": entry for name, entry in callbacks.items()},
    }
    for key, entry in places.items():
        if isinstance(entry, Mapping) and entry.get("monitor"):
            yield f"{key}.monitor", str(entry["monitor"])


def _by_module(config: Config) -> set[str] | None:
    """The names that a module logs, some as globs; None if its class does not declare them."""
    measured = vars(get_object(config["_target_"])).get("measured") if "_target_" in config else None
    if measured is None or not config.get("losses"):
        return None
    losses = {name: loss for name, loss in config["losses"].items() if loss.get("weight", 1.0)}
    validated = {"loss", *measured, *(name for name, loss in losses.items() if not _adversarial(loss))}
    trained = {"loss", "discriminator", *measured, *losses}
    return {f"val/{name}" for name in validated} | {f"train/{name}" for name in trained}


def _adversarial(loss: Config) -> bool:
    return LOGITS in (loss.get("inputs") or getattr(get_object(loss["_target_"]), "inputs", None) or ())


def _by_callback(entry: Config) -> set[str] | None:
    target = entry.get("_target_", "")
    if target == _IMAGES:
        metrics = instantiate(entry)
        return {metrics.prefix + name for name in metrics.metrics}
    return set() if target.startswith(("oodgan.", "pytorch_lightning.", "lightning.")) else None


def _among(name: str, logged: set[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in logged)
