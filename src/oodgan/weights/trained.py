"""Trained or converted weights: safetensors files with metadata.

The metadata of both kinds name part, generator and directions. Converted weights (`oodgan weights convert`) also have
the `architecture` of their network, which takes precedence over the configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from oodgan.errors import UserError, nearest
from oodgan.files import hash_of, save_tensors
from oodgan.foreign import reading
from oodgan.paths import WEIGHTS, StageFolder, find_checkpoint
from oodgan.remote import local
from oodgan.weights import training
from oodgan.weights.registry import REGISTRY, SHIPPED

FILE = WEIGHTS
UNCONVERTED = (".pt", ".pth", ".pkl", ".ckpt")


def save(path: Path, tensors: Mapping[str, Tensor], half: bool = False, **metadata: Any) -> None:
    """Write tensors (as fp16 when `half`) with JSON metadata, by a temporary name.

    Raises UserError for a value that fp16 would turn into infinity.
    """
    kept = {
        name: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in tensors.items()
    }
    for name, value in kept.items():
        if value.is_floating_point() and bool((value.isinf() & tensors[name].detach().cpu().isfinite()).any()):
            raise UserError(f"{name} has values outside the range of half precision: save it without half=True")
    save_tensors(path, kept, {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()})


def locate(source: str | Path) -> Path:
    """Return the file of shipped weights, a stage's folder, an artifact (a folder with weights), a file or a URL."""
    path = local(source)
    stage = StageFolder(path)
    files = (
        SHIPPED / f"{source}.safetensors",
        path / FILE,
        stage.artifact / FILE,
        find_checkpoint(path, best=True),
        path,
    )
    for file in files:
        if file is not None and file.is_file():
            return file
    if parts := sorted(str(weights_file.parents[1]) for weights_file in path.glob(f"*/artifact/{FILE}")):
        raise UserError(f"{source} is a whole run: name the stage whose weights are meant, {' or '.join(parts)}")
    names = [p.stem for p in SHIPPED.glob("*.safetensors")]
    raise UserError(
        f"no weights {str(source)!r}{nearest(str(source), names)}: neither shipped ({', '.join(sorted(names))}), "
        f"nor a folder with {FILE} or a training's checkpoints, nor a file"
    )


def weights_hash(source: str | Path) -> str:
    """Return the hash (sha256) of a source of weights: of the registered download, else of the file (`locate`)."""
    return REGISTRY[str(source)].sha256 if str(source) in REGISTRY else hash_of(locate(source))


def sources(group: str, settings: Mapping[str, Any] | None) -> dict[str, str]:
    """Return all `weights` of a config group and its sub-keys, e.g. {"inverter.residual": "feature_light"}.

    Those below `fit` are left out: they affect training only.
    """
    named = {}
    for key, value in (settings or {}).items():
        if key == "weights" and value:
            named[group] = str(value)
        elif isinstance(value, Mapping) and key != "fit":
            named |= sources(f"{group}.{key}", value)
    return named


def configured(cfg: Mapping[str, Any], group: str, stage: str) -> str:
    """Return the `weights` of a config group. Raises UserError that says where to get some if there are none."""
    if cfg.get("weights"):
        return str(cfg["weights"])
    name = cfg.get("name", group)
    if cfg.get("download"):
        raise UserError(missing(group, name, cfg["download"]))
    raise UserError(f"{group}={name} has no weights: train them with oodgan {stage}, or give {group}.weights=PATH")


def missing(group: str, name: str, download: str) -> str:
    """Return the error message for a missing public checkpoint."""
    return (
        f"{group}={name} has no weights: download {download}, then oodgan weights convert FILE output=FOLDER and "
        f"{group}.weights=FOLDER"
    )


def network(settings: Mapping[str, Any], metadata: Mapping[str, Any], source: str | Path, **keywords: Any) -> Any:
    """Build the network of a config (`_target_` and keywords) with the architecture from the metadata of the weights.

    Raises UserError when the weights are of another network.
    """
    from hydra.utils import instantiate

    architecture = metadata.get("architecture", {})
    # Partial, because Hydra would copy a generator among the keywords and wrap every error.
    make = instantiate(settings, _partial_=True)
    try:
        return make(**{**keywords, **architecture})
    except TypeError as error:
        if not architecture:
            raise
        raise UserError(f"the weights {source} are not of {settings['_target_']}: {error}") from error


@contextmanager
def fitting(source: str | Path, what: str) -> Iterator[None]:
    """Context manager for `load_state_dict`: UserError with the first difference if the weights do not fit."""
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"the weights {source} do not fit this {what}: {text}") from error


def load(
    source: str | Path,
    part: str | tuple[str, ...],
    generator: str | None = None,
    directions: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights of a part (or one of several) as float32 with their metadata.

    The folder of a converted checkpoint also contains the networks that came with it, e.g. the generator of pSp.

    Raises UserError when they are unreadable, of another part, or made for another generator or other directions.
    """
    path, parts = locate(source), (part,) if isinstance(part, str) else part
    tensors, metadata = _read(path)
    if metadata.get("part") not in parts:
        if (path.parent / parts[-1] / FILE).is_file():
            return load(path.parent / parts[-1], parts, generator, directions)
        raise UserError(f"{path} holds {metadata.get('part', 'unnamed')} weights, {parts[0]} weights are needed")
    _same(path, "generator", metadata.get("generator"), generator)
    _same(path, "directions", metadata.get("directions"), list(directions) if directions is not None else None)
    floats = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    return floats, metadata


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and metadata of an artifact or of a training's checkpoint."""
    exported = training.read(path) if path.suffix == ".ckpt" else None
    if exported is not None:
        return exported
    if path.suffix in UNCONVERTED:
        raise UserError(f"{path} is not converted yet: oodgan weights convert {path} output=FOLDER, then give FOLDER")
    with reading(path, "weights file"), safe_open(path, "pt") as file:
        metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)


def _same(path: Path, what: str, saved: Any, wanted: Any) -> None:
    if wanted is not None and saved is not None and saved != wanted:
        raise UserError(f"{path} was made for {what} {_short(saved)}, but {_short(wanted)} is configured")


def _short(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
