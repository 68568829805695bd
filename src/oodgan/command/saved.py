"""Saves a run's configuration with its results, and repeats it: `oodgan STAGE config=FOLDER`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from oodgan.command.words import key_of
from oodgan.errors import UserError
from oodgan.files import write_text
from oodgan.foreign import reading
from oodgan.paths import CONFIG, RunFolder, StageFolder
from oodgan.ranks import rank

_FOLDER = "${root}/${run}/${stage}"
_HERE = ("folder", "stage", "fit", "hydra", "defaults", "sweep", "resume", "replace", "config")
"""Keys that belong to the one run, and are not taken over."""


@contextlib.contextmanager
def beside(cfg: DictConfig) -> Iterator[None]:
    """Write the configuration to the folder of the stage, if it created one, after the block succeeds."""
    kept = cfg.copy()
    yield
    file = (RunFolder.of(kept) if kept.stage == "pipeline" else StageFolder.of(kept)).config
    if rank() == 0 and file.parent.is_dir():
        with contextlib.suppress(OSError):
            if not file.is_file() or file.read_text(encoding="utf-8") != text(kept):
                write_text(file, text(kept))


def text(cfg: DictConfig) -> str:
    """Return the text of the file with unresolved interpolations, so that `run=` of a later command has an effect."""
    again = f"# Once more: oodgan {cfg.get('stage')} config=THIS_FILE run=ANOTHER; other words go before these.\n"
    return again + OmegaConf.to_yaml(cfg)


@contextlib.contextmanager
def primary(overrides: list[str], conf: Path, stage: str) -> Iterator[tuple[Path, list[str]]]:
    """Return the folder of Hydra's primary config (ours, or one generated from `config=`) and the remaining overrides.

    Groups are taken from the saved file unless the command line chooses another option.

    Raises:
        UserError: no such file, or it contains no configuration.
    """
    named = [word.partition("=")[2] for word in overrides if key_of(word) == "config"]
    left = [word for word in overrides if key_of(word) != "config"]
    if not named:
        yield conf, left
        return
    chosen = {key_of(word) for word in left}
    body = {k: v for k, v in _read(find(named[-1], stage)).items() if k not in _HERE}
    for group in chosen & {p.name for p in conf.iterdir() if p.is_dir()}:
        for key in _keys_of(conf, group):
            body.pop(key, None)
    with tempfile.TemporaryDirectory(prefix="oodgan-config-") as folder:
        ours = yaml.safe_load((conf / CONFIG).read_text(encoding="utf-8"))
        made = {**ours, "defaults": _defaults(ours["defaults"], set(body)), **body, "folder": _FOLDER}
        (Path(folder) / CONFIG).write_text(yaml.safe_dump(made, sort_keys=False, allow_unicode=True), encoding="utf-8")
        yield Path(folder), [f"hydra.searchpath=[file://{conf}]", *left]


def find(place: str, stage: str) -> Path:
    """Return the file of `config=`: the file itself, or that in a stage's or run's folder."""
    path = Path(place).expanduser()
    for file in (path, path / CONFIG, path / stage / CONFIG):
        if file.is_file():
            return file
    raise UserError(f"config={place}: neither a saved configuration nor a folder of a run that holds one")


def _read(path: Path) -> dict[str, Any]:
    with reading(None, f"config={path}"):
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    if not isinstance(loaded, dict):
        raise UserError(f"config={path} is not a configuration: it has no keys")
    return {str(key): value for key, value in loaded.items()}


def _keys_of(conf: Path, group: str) -> set[str]:
    """Return the top-level keys that the options of a group set: the group itself, or several if global."""
    top_keys = {group}
    for path in (conf / group).glob("*.yaml"):
        content = path.read_text(encoding="utf-8")
        if "@package _global_" in content and group != "experiment":
            top_keys |= set(yaml.safe_load(content) or {})
    return top_keys


def _defaults(ours: list[Any], present: set[str]) -> list[Any]:
    """Return our defaults list without the groups in the saved file."""
    return [{group: None if group in present else item[group]} if (group := _group(item)) else item for item in ours]


def _group(item: Any) -> str | None:
    return next(iter(item)) if isinstance(item, dict) else None
