"""Converts errors of Hydra and OmegaConf to one line, with the nearest valid key, option or keyword."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from oodgan.command.usage import config_folders
from oodgan.errors import UserError, nearest


def explain(error: BaseException, stage: str) -> str:
    """Explain an error in composing a configuration or calling a `_target_`: what was wrong and what is valid."""
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return str(cause)
    text = str(error)
    for pattern, message_of in _PATTERNS:
        if match := re.search(pattern, text, re.DOTALL):
            return message_of(match, error, stage)
    return " ".join(text.partition("\nfull_key")[0].split())


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    return causes


def _key(match: re.Match[str], error: BaseException, stage: str) -> str:
    key = match[1]
    if key == "init_from":
        return "init_from is written PART.weights=CHECKPOINT PART.fit.continue_from_weights=true (diffcam.weights=...)"
    return f"unknown key {key!r}{nearest(key, keys(stage))}; add it with +{key}=... if it is meant to be new"


def _option(match: re.Match[str], error: BaseException, stage: str) -> str:
    group, option = match.groups()
    if group in ("hydra/launcher", "hydra/sweeper"):
        return (
            f"Hydra's {group.partition('/')[2]} {option!r} is not installed; pip install 'oodgan[sweep]' may bring it"
        )
    options = sorted(path.stem for path in (_conf() / group).glob("*.yaml"))
    return f"unknown option {group}={option}{nearest(option, options)}; known: {', '.join(options)}"


def _several(match: re.Match[str], error: BaseException, stage: str) -> str:
    key, values = match.groups()
    return f"{key}={values}: a list is written {key}=[{values}]; for a sweep over the values, add -m"


def _missing(match: re.Match[str], error: BaseException, stage: str) -> str:
    key = re.search(r"full_key: (\S+)", str(error))
    name = key[1] if key else match[1]
    return f"{name} is not given: {name}=VALUE (see oodgan {stage} --help)"


def _absent(match: re.Match[str], error: BaseException, stage: str) -> str:
    key = re.search(r"full_key: (\S+)", str(error))
    whole = key[1] if key else match[1]
    group = whole.partition(".")[0]
    return f"oodgan {stage} needs {whole}, which the chosen {group} does not have: choose another, or give it"


def _module(match: re.Match[str], error: BaseException, stage: str) -> str:
    place = re.search(r"full_key: (\S+)", str(error))
    reasons = [str(c) for c in _causes(error)[1:]]
    reason = next((r for c in _causes(error) if isinstance(c, ModuleNotFoundError) for r in [str(c)]), None)
    reason = reason or (" ".join(reasons[-1].split()) if reasons else "it is not there")
    where = f"{place[1]}: " if place else ""
    return f"{where}_target_ {match[1]} cannot be loaded: {reason} (modules installed here or in this folder are found)"


def _keyword(match: re.Match[str], error: BaseException, stage: str) -> str:
    from hydra.utils import get_object

    target, keyword = match[1], match[2]
    place = re.search(r"full_key: (\S+)", str(error))
    takes = [name for name in inspect.signature(get_object(target)).parameters if name != "self"]
    where = f"{place[1]}." if place else ""
    return f"{where}{keyword}: {target.rpartition('.')[2]} takes no {keyword!r}{nearest(keyword, takes)}; it takes {', '.join(takes)}"  # noqa: E501


def _call(match: re.Match[str], error: BaseException, stage: str) -> str:
    place = re.search(r"full_key: (\S+)", str(error))
    reasons = _causes(error)
    reason = " ".join(str(reasons[-1]).split()) if len(reasons) > 1 else match[2]
    return f"{place[1] + ': ' if place else ''}{match[1].rpartition('.')[2]} cannot be made: {reason}"


_PATTERNS: list[tuple[str, Any]] = [
    (r"Could not override '([^']+)'", _key),
    (r"Could not find '([^']+)/([^']+)'", _option),
    (r"Error merging override (.+)", lambda match, *_: f"{match[1]}: a list [a,b] and a mapping {{a: b}} are not one"),
    (r"Ambiguous value for argument '([^'=]+)=([^']*)'", _several),
    (r"Missing mandatory value: (\S+)", _missing),
    (r"Key '([^']+)' is not in struct", _absent),
    (r"Error locating target '([^']+)'", _module),
    (r"Error in (?:call to target|creating partial\() ?'?([\w.]+).*unexpected keyword argument '(\w+)'", _keyword),
    (r"Error in call to target '([^']+)':\n(.*?)(?:\nfull_key|$)", _call),
]


def _conf() -> Path:
    return next(folder for folder in config_folders() if (folder / "config.yaml").is_file())


def keys(stage: str) -> list[str]:
    """Return all dotted keys of the stage's configuration."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(_conf()), version_base="1.3"):
            cfg = OmegaConf.to_container(compose("config", overrides=[f"stage={stage}"]))
    except (HydraException, OmegaConfBaseException, ValueError):
        return []
    dotted: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            dotted.append(f"{prefix}{key}")
            walk(value, f"{prefix}{key}.")

    walk(cfg, "")
    return dotted
