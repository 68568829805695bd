"""The settings that determine an edit: recorded with results, written by the web page, read from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from oodgan.errors import UserError, unknown
from oodgan.foreign import reading
from oodgan.tracking.artifacts import plain

PARTS = ("generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "search", "parser")
PLAIN = ("edits", "aligned", "face", "save", "format", "quality", "backend", "mask", "mask_mode")
_NESTING = 50
_HEAD = "# The settings of an edit: oodgan edit PHOTO settings=THIS_FILE output=FOLDER makes it again.\n"


def decisive(cfg: Mapping[str, Any], edits: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines the pixels: the edit, the choice of faces, and the parts with the hashes of their weights.

    Settings of the search count only when `edits` requests a change (`auto`, `+1sd`).
    """
    from oodgan.weights import trained

    seeks = any(isinstance(strength, str) for strength in edits.values())
    parts = {name: plain(cfg.get(name)) for name in PARTS if seeks or name != "search"}
    if not (parts["parser"] or {}).get("network"):  # settings without a parser keep the hash of earlier versions
        del parts["parser"]
    for part in parts.values():
        if isinstance(part, dict):
            part.pop("fit", None)
            if part.get("weights"):
                part["weights_sha256"] = trained.weights_hash(part["weights"])
    other = {} if cfg.get("backend", "torch") == "torch" else {"backend": str(cfg["backend"])}
    return {"edits": dict(edits), "aligned": bool(cfg["aligned"]), "face": str(cfg["face"]), **other, **parts}


def dump(cfg: Mapping[str, Any]) -> str:
    """Return the text of a settings file for an edit's configuration."""
    output = {key: plain(cfg[key]) for key in ("save", "format", "quality")}
    if cfg.get("mask"):
        output |= {"mask": Path(str(cfg["mask"])).name, "mask_mode": str(cfg["mask_mode"])}
    return _HEAD + OmegaConf.to_yaml(OmegaConf.create({**decisive(cfg, plain(cfg["edits"])), **output}))


def read(cfg: DictConfig) -> DictConfig:
    """Return the configuration with the values of its `settings` file; keys on the command line take precedence.

    A `mask` that the file names lies beside it.

    Raises:
        UserError: no such file, unknown keys, objects from outside this package, weights with another hash than in the
            file, or a part that the command line sets too.
    """
    if not cfg.get("settings"):
        return cfg
    path, on_command_line = Path(str(cfg.settings)).expanduser(), _command_line_keys()
    merged = cfg.copy()
    OmegaConf.set_struct(merged, False)
    for key, value in _load(path).items():
        if key in PARTS and key in on_command_line:
            raise UserError(f"settings={path} names the {key} already: leave {key} out on the command line")
        if key == "mask" and value and key not in on_command_line:
            merged.mask = str(path.parent / Path(str(value)).name)  # a settings file chooses no file from elsewhere
        elif key not in on_command_line:
            merged[key] = _checked(key, value, path) if key in PARTS else value
    return merged


def _load(path: Path) -> dict[str, Any]:
    with reading(path, "settings file"):
        _check_tokens(path.read_text(encoding="utf-8"))
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(loaded, dict):
        raise UserError(f"settings={path} is not a settings file of the web page (oodgan serve)")
    for key in loaded:
        if key not in (*PLAIN, *PARTS):
            raise unknown(f"key in {path}", str(key), (*PLAIN, *PARTS))
    return {str(key): value for key, value in loaded.items()}


def _check_tokens(text: str) -> None:
    """Raise UserError for YAML that would need much time or memory; files written by the page have none of it."""
    import yaml

    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.AliasToken):
            raise UserError("it contains YAML references (&, *), which settings files never have")
        depth += type(token).__name__.endswith("StartToken") - type(token).__name__.endswith("EndToken")
        if depth > _NESTING:
            raise UserError(f"it is nested more than {_NESTING} deep, which settings files never are")


def _checked(name: str, part: Any, path: Path) -> Any:
    """Return a part without the hash of its weights, after comparing it with the weights here."""
    for target in _targets(part):  # a file from somebody else must not call arbitrary code
        if not target.startswith("oodgan."):
            raise UserError(f"{path}: {name} would call {target}, which is no part of oodgan")
    if not isinstance(part, dict) or "weights_sha256" not in part:
        return part
    from oodgan.weights import trained

    wanted = part.pop("weights_sha256")
    if trained.weights_hash(str(part.get("weights"))) != wanted:
        raise UserError(f"{path}: the {name} weights {part.get('weights')} have another hash than in this file")
    return part


def _targets(node: Any) -> Iterator[str]:
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(item)
    if isinstance(node, dict) and "_target_" in node:
        yield str(node["_target_"])


def _command_line_keys() -> set[str]:
    """Return the first parts of the keys that the command line sets."""
    from hydra.core.hydra_config import HydraConfig

    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return {word.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")[0] for word in words}
