"""Artifacts: the outputs of stages, each a folder with `manifest.json` and weights or images.

A folder is written under a temporary name and renamed when complete, so that an incomplete one is never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from oodgan.command.version import revision
from oodgan.errors import UserError
from oodgan.files import MANIFEST, hash_of, write_json
from oodgan.foreign import reading

_LISTED_FILES = 10_000


@dataclass
class Manifest:
    """Describes an artifact and its inputs.

    `inputs` maps a name to the hash of an input (see `hash_of`); `directions` holds the names in class order;
    `value_range` is that of the images or weights' inputs;
    `settings_hash` is the hash of settings and inputs; a stage is up to date while it stays the same.
    """

    stage: str
    config: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    version: str = ""
    revision: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    generator: str | None = None
    directions: list[str] | None = None
    resolution: int | None = None
    value_range: tuple[float, float] = (-1.0, 1.0)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    settings_hash: str = ""
    files: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from oodgan import __version__

        self.version = self.version or __version__
        self.revision = self.revision or revision()
        self.config = plain(self.config)
        self.value_range = (float(self.value_range[0]), float(self.value_range[1]))

    def save(self, folder: str | Path) -> Path:
        """Write `folder/manifest.json` with a list of the files in the folder."""
        folder = Path(folder)
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
        self.files = names[:_LISTED_FILES]
        write_json(folder / MANIFEST, asdict(self))
        return folder / MANIFEST

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read the manifest of an artifact.

        Raises:
            UserError: no such folder, no manifest in it, or one that cannot be read.
        """
        path = Path(folder) / MANIFEST
        if not path.parent.is_dir():
            raise UserError(f"no artifact at {folder}: there is no such folder")
        if not path.is_file():
            raise UserError(f"{folder} is not an artifact: it holds no {MANIFEST}")
        with reading(path, "manifest"):
            values = json.loads(path.read_text(encoding="utf-8"))
            if "fingerprint" in values:  # the key of earlier versions
                values.setdefault("settings_hash", values["fingerprint"])
            known = {f.name for f in fields(cls)}
            return cls(**{k: v for k, v in values.items() if k in known})


def require(
    manifest: Manifest,
    stage: str | None = None,
    generator: str | None = None,
    directions: Iterable[str] | None = None,
) -> Manifest:
    """Return the manifest if it was made by `stage`, for `generator` and for `directions` in this order.

    Raises:
        UserError: naming both sides of the first difference. What is None is not compared.
    """
    if stage is not None and manifest.stage != stage:
        raise UserError(f"this artifact was made by stage {manifest.stage!r}, but one of {stage!r} is needed")
    if generator is not None and manifest.generator != generator:
        raise UserError(
            f"this {manifest.stage} artifact belongs to generator {manifest.generator},"
            f" but the generator is {generator}"
        )
    if directions is not None and list(manifest.directions or []) != list(directions):
        theirs, ours = (", ".join(names or []) or "none" for names in (manifest.directions, directions))
        raise UserError(
            f"this {manifest.stage} artifact was made for the directions {theirs}, but the directions are {ours}"
        )
    return manifest


def plain(config: Any) -> Any:
    """Return a config as plain dicts and lists, with interpolations resolved."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    if isinstance(config, DictConfig | ListConfig):
        return OmegaConf.to_container(config, resolve=True)
    if isinstance(config, Mapping):
        return {str(k): plain(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [plain(v) for v in config]
    return config


def hash_settings(config: Any, inputs: Mapping[str, str | Path] | None = None) -> str:
    """Return one hash of config and inputs: a Path is hashed by `hash_of`, a str is used directly.

    >>> hash_settings({"a": 1, "b": 2}) == hash_settings({"b": 2, "a": 1})
    True
    >>> hash_settings({"a": 1}, {"generator": "g-1"}) == hash_settings({"a": 1}, {"generator": "g-2"})
    False
    """
    hashed = {k: hash_of(v) if isinstance(v, Path) else str(v) for k, v in (inputs or {}).items()}
    text = json.dumps({"config": plain(config), "inputs": hashed}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def up_to_date(folder: str | Path, settings_hash: str) -> bool:
    """Return whether `folder` is a complete artifact made with these settings."""
    try:
        manifest = Manifest.load(folder)
    except UserError:
        return False
    return manifest.settings_hash == settings_hash and all((Path(folder) / name).is_file() for name in manifest.files)
