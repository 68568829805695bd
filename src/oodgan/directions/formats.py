"""Published directions in W, W+ or style space: .npy, .npz, .pt, .safetensors, and StyleCLIP's files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodgan.data.listing import passed_over
from oodgan.directions import styleclip
from oodgan.directions.bank import FFHQ_SPACE, latent_space, resize_layers
from oodgan.directions.discovery import Discovered
from oodgan.directions.linear import parse_layers
from oodgan.errors import UserError, unknown
from oodgan.foreign import reading
from oodgan.generators.protocol import Generator
from oodgan.weights.checkpoint import read

log = logging.getLogger("oodgan")
ENDINGS = (".npy", ".npz", ".pt", ".pth", ".safetensors", ".pkl")
"""Endings of the files of a folder that are taken for directions."""

EXPECTED = "expected a tensor or array: .npy, .npz, .pt, .safetensors, or a .pkl of numpy arrays"
_SHOWN = 12  # names of tensors in a message
_LARGEST = 10**8  # numbers in a direction file's tensor
_PATHS = ("path", "text", "std", "codes")
_OPTIONS = ("path", "layers", "sign", "scale", "normalise")
_FURTHER = {"text": ("text", "std", "beta"), "codes": ("codes",), "": ("key",)}
"""Further options of entries that have this one: global directions and mappers of StyleCLIP, and of all others."""


class ImportDiscovery:
    """The stage's `directions=import`.

    Args:
        files: name -> path, or {path, layers: "4-7", sign: -1, scale: 20, key: name inside the file, normalise: true};
            or a folder whose files are named after their directions. {path: fs3.npy, text: FILE, std: S_mean_std,
            beta: 0.1} is a global direction of StyleCLIP for a difference of CLIP text features; {path: CHECKPOINT,
            codes: test_faces.pt} the mean step of a StyleCLIP mapper.
        scale: length of strength 1 along a direction of unit length (20 is the paper's for its own (18, 512) files);
            with `normalise: false` the file's own length is multiplied by it.
    """

    def __init__(self, files: str | Mapping[str, Any] | None, scale: float = 20.0) -> None:
        self.files = _listed(files)
        self.scale = scale

    def discover(self, generator: Generator) -> Discovered:
        """Read every file and fit it to the generator's layers."""
        vectors = [self._read(name, dict(entry), generator) for name, entry in self.files.items()]
        files = {
            name: {key: Path(value).name if key in _PATHS else value for key, value in entry.items()}
            for name, entry in self.files.items()
        }
        provenance = {"method": "import", "generator": generator.id, "files": files}
        return Discovered(list(self.files), torch.stack(vectors), provenance, calibrated=True)

    def _read(self, name: str, entry: dict[str, Any], generator: Generator) -> Tensor:
        kind = next((option for option in ("text", "codes") if option in entry), "")
        known = (*_OPTIONS, *_FURTHER[kind])
        for option in entry.keys() - set(known):
            missing = next((f" (needs {k})" for k, more in _FURTHER.items() if option in more and k), "")
            raise unknown(f"option of direction {name!r}{missing}:", option, known)
        make, scale = {
            "text": (_global_direction, styleclip.ALPHA),
            "codes": (_mapper_direction, 1.0),
            "": (_direction, self.scale),
        }[kind]
        vector = make(name, entry, generator)
        kept = torch.zeros_like(vector)
        layers = parse_layers(entry.get("layers"), generator.num_ws)
        kept[layers] = vector[layers]
        if not bool(torch.isfinite(kept).all()) or not bool(kept.any()):
            raise UserError(
                f"direction {name!r} of {entry['path']} is zero or not finite in layers {entry.get('layers')}"
            )
        # Normalise by the length of the whole direction, so that a range of layers does not enlarge the rest.
        length = vector.norm() if entry.get("normalise", not kind) else torch.tensor(1.0)
        return kept / length * float(entry.get("scale", scale)) * float(entry.get("sign", 1))


def _direction(name: str, entry: Mapping[str, Any], generator: Generator) -> Tensor:
    direction = read_direction(entry["path"], entry.get("key"))
    if isinstance(direction, list):
        return _reported(name, direction, generator)
    return to_layers(direction, generator, str(entry["path"]))


def _global_direction(name: str, entry: Mapping[str, Any], generator: Generator) -> Tensor:
    if "std" not in entry:
        raise UserError(f"direction {name!r} of a text needs std: the file S_mean_std beside {entry['path']}")
    relevance, text = (_tensor(entry[key]) for key in ("path", "text"))
    styles = styleclip.global_direction(
        relevance, text, styleclip.read_deviations(entry["std"]), float(entry.get("beta", styleclip.BETA))
    )
    return _reported(name, styles, generator)


def _mapper_direction(name: str, entry: Mapping[str, Any], generator: Generator) -> Tensor:
    codes = _tensor(entry["codes"])
    with reading(entry["path"], "StyleCLIP mapper"):
        step, agreement = styleclip.mapper_direction(read(entry["path"], EXPECTED), codes)
    log.info(
        "direction %s: the mean step of a mapper; single steps have a mean cosine of %.2f with it", name, agreement
    )
    return to_layers(step, generator, str(entry["path"]))


def _tensor(path: str | Path) -> Tensor:
    direction = read_direction(path)
    if isinstance(direction, list):
        raise UserError(f"{path} holds a list of tensors: one is expected")
    return direction


def _reported(name: str, styles: list[Tensor], generator: Generator) -> Tensor:
    """`from_styles`, with a note if W+ cannot reproduce the step: some of its layers drive two style layers."""
    step = from_styles(styles, generator)
    share = reproduced(styles, step, generator)
    if share < 0.95:
        log.warning("direction %s: its step in W+ reproduces %.0f %% of the step in style space", name, 100 * share)
    return step


def _listed(files: Any) -> dict[str, dict[str, Any]]:
    if not files:
        raise UserError("directions=import needs directions.files: {name: path, ...} or a folder")
    if isinstance(files, str | Path):
        files = _in_folder(Path(files).expanduser())
    listed = {str(n): {"path": e} if isinstance(e, str | Path) else dict(e) for n, e in files.items()}
    for name, entry in listed.items():
        if "path" not in entry:
            raise UserError(f"direction {name!r} has no path")
    return listed


def _in_folder(folder: Path) -> dict[str, str]:
    """Return the direction files of a folder by lower-case name without ending."""
    if not folder.is_dir():
        raise UserError(f"no such folder of directions: {folder}")
    paths: dict[str, Path] = {}
    others = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        if path.suffix.lower() not in ENDINGS:
            others.append(path.name)
        elif (name := path.stem.lower()) in paths:
            raise UserError(f"{paths[name]} and {path} would both be the direction {name!r}: name the files one by one")
        else:
            paths[name] = path
    if not paths:
        raise UserError(f"{folder} holds no {', '.join(ENDINGS)} file")
    if others:
        log.warning(passed_over(others, str(folder)))
    return {name: str(path) for name, path in paths.items()}


def to_layers(vector: Tensor, generator: Generator, source: str) -> Tensor:
    """(512,), (1, 512), (L, 512) or (1, L, 512) -> (num_ws, 512).

    A single row is a direction in W and applies to all layers. In StyleGAN2-FFHQ's space, an 18-layer direction loses
    its last two rows on a generator with 16 layers, and a 16-layer one gets two rows of zeros on a generator with 18.

    Raises:
        UserError: another shape.
    """
    shape = tuple(vector.shape)
    rows = vector[0] if vector.ndim == 3 and shape[0] == 1 else vector
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim == 2 and rows.shape[1] == generator.style_dim:
        if len(rows) == 1:
            return rows.expand(generator.num_ws, -1).clone()
        shared = latent_space(generator) == FFHQ_SPACE and {len(rows), generator.num_ws} <= {16, 18}
        if len(rows) == generator.num_ws or shared:
            return resize_layers(rows, generator.num_ws)
    raise UserError(
        f"{source} has shape {shape}; generator {generator.id} takes ({generator.style_dim},), "
        f"(1, {generator.style_dim}) or ({generator.num_ws}, {generator.style_dim})"
    )


def from_styles(styles: list[Tensor], generator: Generator) -> Tensor:
    """A style-space direction (StyleCLIP's global ones: one vector a style layer) -> W+ (num_ws, 512).

    Solves least squares for the W+ step of each layer whose style layers best reproduce the given styles.

    Raises:
        UserError: the number or widths of the style layers are not this generator's.
    """
    from oodgan.directions.unlabelled import style_maps

    maps = style_maps(generator)
    have, want = [len(m) for _, m in maps], [s.numel() for s in styles]
    if have != want:
        raise UserError(f"style-space direction of widths {want}; generator {generator.id} has style layers {have}")
    out = torch.zeros(generator.num_ws, generator.style_dim)
    for layer in {layer for layer, _ in maps}:
        matrix = torch.cat([m for index, m in maps if index == layer])
        wanted = torch.cat([s.flatten() for (index, _), s in zip(maps, styles, strict=True) if index == layer])
        out[layer] = (
            torch.linalg.lstsq(matrix.double(), wanted.double()[:, None], driver="gelsd").solution[:, 0].float()
        )
    return out


def reproduced(styles: list[Tensor], step: Tensor, generator: Generator) -> float:
    """Return the share of a style-space step's energy that the W+ step (num_ws, 512) reproduces, at most 1."""
    from oodgan.directions.unlabelled import style_maps

    wanted = torch.cat([s.flatten() for s in styles]).double()
    given = torch.cat([matrix.double() @ step[layer].double() for layer, matrix in style_maps(generator)])
    return float(1 - (given - wanted).square().sum() / wanted.square().sum())


def read_direction(path: str | Path, key: str | None = None) -> Tensor | list[Tensor]:
    """Read a file's tensor, or its list of tensors for a style-space direction. Nothing in the file is executed.

    `key` selects one of several tensors, with dots for nested dictionaries (`face.latent`).

    Raises:
        UserError: missing, of an unknown kind, damaged, or several tensors without a `key`.
    """
    with reading(path, "direction file"):
        return _choose(read(path, EXPECTED), key)


def _choose(loaded: Any, key: str | None) -> Tensor | list[Tensor]:
    if isinstance(loaded, Mapping):
        leaves = dict(_leaves(loaded))
        if not leaves:
            raise UserError(f"no tensor in it; {EXPECTED}")
        if key is None and len(leaves) != 1:
            more = ", ..." if len(leaves) > _SHOWN else ""
            raise UserError(f"it holds several tensors; give key: one of {', '.join(list(leaves)[:_SHOWN])}{more}")
        if key is not None and key not in leaves:
            raise unknown("key", key, leaves)
        loaded = leaves[key] if key is not None else next(iter(leaves.values()))
    if isinstance(loaded, list | tuple) and loaded and all(isinstance(part, Tensor | np.ndarray) for part in loaded):
        return [_floats(part) for part in loaded]
    return _floats(loaded)


def _leaves(loaded: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield possible directions in nested dictionaries, by dotted name."""
    for name, value in loaded.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor | np.ndarray | list | tuple):
            yield f"{prefix}{name}", value


def _floats(value: Any) -> Tensor:
    """Numbers of any kind as a dense float tensor."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise UserError(f"it holds {type(value).__name__} of {array.dtype}, no numbers; {EXPECTED}")
        value = torch.from_numpy(np.array(array, dtype=np.float32))
    if value.is_complex():
        raise UserError(f"it holds complex numbers; {EXPECTED}")
    if value.numel() > _LARGEST:
        raise UserError(f"it holds a tensor of {value.numel()} numbers: no direction is as large")
    value = value.detach()
    if value.layout != torch.strided:
        value = value.to_dense()
    return (value.dequantize() if value.is_quantized else value).float()
