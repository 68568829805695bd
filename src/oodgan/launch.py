"""Compose the configuration of a stage with Hydra and run it, once or as a sweep."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from oodgan import _imports, slurm
from oodgan.command import checks, saved, words
from oodgan.command.explain import explain
from oodgan.command.usage import config_folders, constant
from oodgan.errors import UserError
from oodgan.ranks import joined, rank
from oodgan.tracking import wandb as tracker
from oodgan.training import sweep

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Terminated(UserError):
    """The command was stopped by SIGTERM."""

    exit_code = 143


def config_folder() -> Path:
    """Return the folder of the configs: beside `src` in a checkout, inside the package when installed from a wheel."""
    for folder in config_folders():
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"no conf/ folder beside {config_folders()[0].parent}: install oodgan again, it is incomplete")


def compose(stage: str, overrides: list[str] | None = None) -> DictConfig:
    """Return the composed configuration of a stage, as the command would use it, without running it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra_compose("config", overrides=[f"stage={stage}", *(overrides or [])])


def run(stage: str, given: list[str]) -> int:
    """Run `oodgan <stage> given` and return the exit code.

    With torchrun or srun, only the first process runs the stage; see `oodgan.ranks`.

    Raises:
        UserError: a mistake that the user can correct.
    """
    _find_plugins()
    with joined() as follow, _term_stops():
        return follow() if follow else _run(stage, given)


def _run(stage: str, given: list[str]) -> int:
    options, overrides = words.options(given)
    several = sweep.is_sweep(given)
    check_reads(stage, overrides)
    conf, here = config_folder(), os.getcwd()
    codes: list[int] = []
    mistakes: list[Exception] = []

    def task(cfg: DictConfig) -> Any:
        # A launcher may run this in another process, on another machine.
        if os.getcwd() != here and os.path.isdir(here):
            os.chdir(here)
        _find_plugins()
        with joined() as follow:
            if follow:
                return follow()
            try:
                outcome = sweep.job(cfg, lambda own: _call(stage, own, conf))
            except Exception as error:
                if several and not isinstance(error, BrokenPipeError):  # other jobs continue; reported at the end
                    raise
                mistakes.append(error)  # bypass Hydra, which would print it too
                return None
        codes.append(int(outcome.pop("exit_code", 0)) if isinstance(outcome, dict) else 0)
        return outcome.get("objective") if isinstance(outcome, dict) else None

    task.__module__, task.__name__ = "oodgan", f"oodgan_{stage}"
    try:
        with saved.primary(overrides, conf, stage) as (folder, left):
            left = [words.translate(word, several) for word in left]
            left += sweep.named(stage, left, folder) if several else []
            main = hydra.main(version_base="1.3", config_path=str(folder), config_name="config")(task)
            asked = [] if "--hydra-help" in options else [f"stage={stage}", *left]
            with sweep.prepared(left, several):
                _without_absent(main, _resolved_paths(options, conf), asked)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(sweep.failures() or explain(error, stage)) from error
    except UserError as error:
        if failures := sweep.failures():
            raise UserError(failures) from error
        raise
    except Exception as error:
        raise _foreign(error) from error
    if mistakes:
        raise mistakes[0]
    return max(codes, default=0)


def _call(stage: str, cfg: DictConfig, conf: Path) -> Any:
    """Check a composed configuration and run the stage with it. Raises UserError for mistakes of the user."""
    try:
        with _imports.uncollected():
            cfg = checks.checked(cfg, conf)
            module = importlib.import_module(f"oodgan.stages.{stage}")
        if "generator" in constant(stage, "READS") and stage != "pipeline":  # which hands over by itself
            cfg = importlib.import_module("oodgan.stages._common").take_own(cfg)
        with saved.beside(cfg):
            return module.run(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, stage)) from error
    except Exception as error:
        raise _foreign(error) from error
    finally:
        tracker.finish()


def _foreign(error: Exception) -> Exception:
    """Convert errors of libraries and of the disk that a user can correct to UserError; return others unchanged."""
    kind = f"{type(error).__module__}.{type(error).__name__}"
    if isinstance(error, OSError) and (error.filename or error.errno in _DISK):
        return UserError(f"{error.filename or 'the disk'}: {error.strerror}")
    if kind.startswith("wandb.") and not kind.startswith("wandb.sdk.data_types"):
        return UserError(f"wandb: {error}; logger.wandb.offline=true keeps the run in its folder, for wandb sync later")
    if kind.startswith("submitit."):
        return UserError(f"the launcher: {error}")
    if kind.endswith("MisconfigurationException"):
        return UserError(f"trainer: {error}")
    if isinstance(error, RuntimeError) and "Could not detect" in str(error):
        return UserError(f"hydra=slurm needs SLURM on this machine ({error}); hydra=submitit or hydra=joblib run here")
    return error


def check_reads(stage: str, overrides: list[str]) -> None:
    """Raise UserError for settings of parts that the stage does not use, since they would have no effect."""
    reads, groups = constant(stage, "READS"), checks.groups(config_folder())
    for word in overrides:
        group = words.key_of(word).partition(".")[0]
        if group in groups and group not in reads:
            others = ", ".join(reads) or "none of the parts"
            raise UserError(f"{word}: oodgan {stage} does not use {group}; it reads {others}")


def _resolved_paths(options: list[str], conf: Path) -> list[str]:
    """Return Hydra's options with folders relative to the working folder, and our configs added to the search path."""
    resolved, paths = [], ("--config-path", "-cp", "--config-dir", "-cd")
    for before, word in zip(["", *options], options, strict=False):
        name, given, value = word.partition("=")
        if name in paths and given:
            resolved += [name, _folder(name, value)]
        else:
            resolved.append(_folder(before, word) if before in paths else word)
    if any(word in ("--config-path", "-cp") for word in resolved):
        resolved.append(f"hydra.searchpath=[file://{conf}]")
    return resolved


def _folder(option: str, path: str) -> str:
    folder = Path(path).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{option} {path}: there is no such folder")
    return str(folder)


def _without_absent(main: Callable[[], Any], options: list[str], asked: list[str]) -> None:
    """Run Hydra's `main`; `~key` for a key that does not exist is ignored with a note."""
    while True:
        try:
            with _arguments([*options, *asked]):
                return main()
        except ConfigCompositionException as error:
            absent = re.search(r"Could not delete from config\. '([^']+)' does not exist", str(error))
            left = [word for word in asked if absent and word.lstrip("~") != absent[1]]
            if not absent or len(left) == len(asked):
                raise
            print(f"note: there is no key {absent[1]} to delete", file=sys.stderr)
            asked = left


@contextlib.contextmanager
def _arguments(given: list[str]) -> Iterator[None]:
    """Put arguments into `sys.argv`, where Hydra reads them."""
    former, sys.argv = sys.argv, ["oodgan", *given]
    try:
        yield
    finally:
        sys.argv = former


def _find_plugins() -> None:
    """Add the working folder to the module search path, after installed packages, for `_target_`."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


@contextlib.contextmanager
def _term_stops() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, and requeue a SLURM job that may be requeued.

    With several ranks, the first one decides and the others wait for it, so that none ends the job too early.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        if rank() == 0 and len(received) == 1:
            raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if not received:
            raise
        _requeue()
        raise Terminated("stopped by SIGTERM; run the same command again to continue") from None
    except UserError as error:
        if getattr(error, "signal", "SIGINT") != "SIGINT":
            _requeue()
        raise
    finally:
        signal.signal(signal.SIGTERM, former)


def _requeue() -> None:
    if rank() == 0 and slurm.requeue():
        print("the job was requeued in SLURM and will continue from here", file=sys.stderr)
