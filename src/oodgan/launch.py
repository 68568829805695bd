"""Compose the configuration of a stage with Hydra and run it, once or as a sweep."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oodgan.errors import UserError, nearest
from oodgan.ranks import joined
from oodgan.tracking import wandb as tracker
from oodgan.training import sweep


def config_folder() -> Path:
    """Where the configs lie: beside `src` in a checkout, inside the package when installed from a wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"no conf/ folder beside {here}: the installation is incomplete, install oodgan again")


def compose(stage: str, overrides: list[str] | None = None) -> DictConfig:
    """Compose a stage's configuration without running it (the same that the command would run)."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra_compose("config", overrides=[f"stage={stage}", *(overrides or [])])


def run(stage: str, overrides: list[str]) -> int:
    """Run `oodgan <stage> overrides`; returns the exit code. Raises UserError for what the user can mend.

    Of the processes that torchrun or srun started, the first runs the stage; see `oodgan.ranks`.
    """
    with joined() as follow:
        return follow() if follow else _run(stage, overrides)


def _run(stage: str, overrides: list[str]) -> int:
    codes: list[int] = []
    mistakes: list[UserError] = []
    several = bool({"-m", "--multirun"} & set(overrides))

    def task(cfg: DictConfig) -> Any:
        try:
            found = sweep.job(cfg, importlib.import_module(f"oodgan.stages.{stage}").run)
        except (UserError, HydraException) as error:
            # A mistake inside of a `_target_` comes wrapped in Hydra's own error.
            mistake = error if isinstance(error, UserError) else UserError(explain(error, stage))
            if several:  # Hydra then says which of the jobs it was
                raise mistake from error
            mistakes.append(mistake)
            return None
        finally:
            tracker.finish()
        codes.append(int(found.pop("exit_code", 0)) if isinstance(found, dict) else 0)
        return found.get("objective") if isinstance(found, dict) else None

    task.__module__, task.__name__ = "oodgan", f"oodgan_{stage}"
    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(task)
    kept, sys.argv = sys.argv, ["oodgan", *_ordered([f"stage={stage}", *overrides])]
    try:
        with sweep.prepared(stage, overrides):
            main()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, stage)) from error
    finally:
        sys.argv = kept
    if mistakes:
        raise mistakes[0]
    return max(codes, default=0)


def _ordered(words: list[str]) -> list[str]:
    """Options before overrides: Hydra's parser refuses overrides on both sides of `-m`."""
    multirun = [word for word in words if word in ("-m", "--multirun")]
    return multirun[:1] + [word for word in words if word not in multirun]


def explain(error: Exception, stage: str) -> str:
    """One line for a mistake in the overrides, with the nearest right key or option."""
    if isinstance(error.__cause__, UserError):
        return str(error.__cause__)
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        return f"unknown key {key!r}{nearest(key, _keys(stage))}; add it with +{key}=... if it is meant to be new"
    if match := re.search(r"Could not find '([^']+)/([^']+)'", text):
        group, option = match.groups()
        if group in ("hydra/launcher", "hydra/sweeper"):
            package = "hydra-ray-launcher" if option.startswith("ray") else "'oodgan[sweep]'"
            return f"Hydra's {group.partition('/')[2]} {option!r} is not installed; pip install {package} may bring it"
        options = sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))
        return f"unknown option {group}={option}{nearest(option, options)}; known: {', '.join(options)}"
    return text.partition("\nfull_key")[0].replace("\n", " ")


def _keys(stage: str) -> list[str]:
    """All keys of the stage's configuration, dotted."""
    try:
        cfg = OmegaConf.to_container(compose(stage))
    except (HydraException, OmegaConfBaseException, ValueError):
        return []
    found: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            found.append(f"{prefix}{key}")
            walk(value, f"{prefix}{key}.")

    walk(cfg, "")
    return found
