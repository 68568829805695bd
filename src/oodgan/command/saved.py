"""A run's configuration as a file beside its results, and the same run again: `oodgan STAGE config=FOLDER`."""

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
    """After a block that ended well, write the configuration into the folder of the stage, where it made one."""
    kept = cfg.copy()
    yield
    file = (RunFolder.of(kept) if kept.stage == "pipeline" else StageFolder.of(kept)).config
    if rank() == 0 and file.parent.is_dir():
        with contextlib.suppress(OSError):
            if not file.is_file() or file.read_text(encoding="utf-8") != text(kept):
                write_text(file, text(kept))


def text(cfg: DictConfig) -> str:
    """The file's text: values that refer to others still do, so that `run=` of a later command is honoured."""
    again = f"# Once more: oodgan {cfg.get('stage')} config=THIS_FILE run=ANOTHER; other words go before these.\n"
    return again + OmegaConf.to_yaml(cfg)


@contextlib.contextmanager
def primary(overrides: list[str], conf: Path, stage: str) -> Iterator[tuple[Path, list[str]]]:
    """The folder of the config that Hydra begins with, ours or one made from `config=`, and the overrides left.

    A group of the saved file is taken whole, unless the command line chooses another option of it.

    Raises:
        UserError: no such file, or one that holds no configuration.
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
    """The file that `config=` means: itself, or that of a stage's or a run's folder."""
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
    """Top-level keys that the options of a group set: the group's own, or several where it is packed globally."""
    top_keys = {group}
    for path in (conf / group).glob("*.yaml"):
        content = path.read_text(encoding="utf-8")
        if "@package _global_" in content and group != "experiment":
            top_keys |= set(yaml.safe_load(content) or {})
    return top_keys


def _defaults(ours: list[Any], present: set[str]) -> list[Any]:
    """Our defaults list, without the groups that the saved file brings."""
    return [{group: None if group in present else item[group]} if (group := _group(item)) else item for item in ours]


def _group(item: Any) -> str | None:
    return next(iter(item)) if isinstance(item, dict) else None
