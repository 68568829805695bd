"""Directions that others published: .npy, .npz, .pt, .safetensors; W, W+ and style-space ones."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodgan.directions.bank import FFHQ_SPACE, latent_space, resize_layers
from oodgan.directions.discovery import Discovered
from oodgan.directions.linear import parse_layers
from oodgan.errors import UserError, unknown
from oodgan.generators.protocol import Generator
from oodgan.weights.unpickle import load_restricted

_OPTIONS = ("path", "layers", "sign", "scale", "key", "normalise")


class ImportDiscovery:
    """The stage's `directions=import`.

    Args:
        files: name -> path, or {path, layers: "4-7", sign: -1, scale: 20, key: name inside the file, normalise: true};
            or a folder whose files are named after their directions.
        scale: length of strength 1 along a direction of unit length (20 is the paper's for its own (18, 512) files);
            with `normalise: false` the file's own length is multiplied by it.
    """

    def __init__(self, files: str | Mapping[str, Any] | None, scale: float = 20.0) -> None:
        self.files = _listed(files)
        self.scale = scale

    def discover(self, generator: Generator) -> Discovered:
        """Read every file and fit it to the generator's layers."""
        vectors = [self._read(name, dict(entry), generator) for name, entry in self.files.items()]
        provenance = {
            "method": "import", "generator": generator.id,
            "files": {name: {**entry, "path": Path(entry["path"]).name} for name, entry in self.files.items()},
        }  # fmt: skip
        return Discovered(list(self.files), torch.stack(vectors), provenance, calibrated=True)

    def _read(self, name: str, entry: dict[str, Any], generator: Generator) -> Tensor:
        for option in entry.keys() - set(_OPTIONS):
            raise unknown(f"option of direction {name!r}:", option, _OPTIONS)
        found = read_direction(entry["path"], entry.get("key"))
        if isinstance(found, list):
            vector = from_styles(found, generator)
        else:
            vector = to_layers(found, generator, str(entry["path"]))
        kept = torch.zeros_like(vector)
        layers = parse_layers(entry.get("layers"), generator.num_ws)
        kept[layers] = vector[layers]
        if not bool(torch.isfinite(kept).all()) or not bool(kept.any()):
            raise UserError(
                f"direction {name!r} of {entry['path']} is zero or not finite in layers {entry.get('layers')}"
            )
        # The length is that of the whole direction, so that a layer range cuts it and does not stretch the rest.
        length = vector.norm() if entry.get("normalise", True) else torch.tensor(1.0)
        return kept / length * float(entry.get("scale", self.scale)) * float(entry.get("sign", 1))


def _listed(files: Any) -> dict[str, dict[str, Any]]:
    if not files:
        raise UserError("directions=import needs directions.files: {name: path, ...} or a folder")
    if isinstance(files, str | Path):
        folder = Path(files)
        if not folder.is_dir():
            raise UserError(f"no such folder of directions: {files}")
        files = {p.stem.lower(): str(p) for p in sorted(folder.iterdir()) if p.suffix in _READERS}
        if not files:
            raise UserError(f"{folder} holds no {', '.join(_READERS)} file")
    listed = {str(n): {"path": e} if isinstance(e, str | Path) else dict(e) for n, e in files.items()}
    for name, entry in listed.items():
        if "path" not in entry:
            raise UserError(f"direction {name!r} names no path")
    return listed


def to_layers(vector: Tensor, generator: Generator, source: str) -> Tensor:
    """(512,), (1, 512), (L, 512) or (1, L, 512) -> (num_ws, 512).

    One row is a direction of W: it moves all layers. In StyleGAN2-FFHQ's space an 18-layer direction loses its last
    rows on a generator of 16 layers, and a 16-layer one leaves the last two of 18 alone.

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

    Least squares: the W+ step of a layer whose style layers move most like the wanted styles.

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


def read_direction(path: str | Path, key: str | None = None) -> Tensor | list[Tensor]:
    """A file's tensor, or its list of tensors when it is a style-space direction. Nothing in it is executed.

    Raises:
        UserError: missing, of an unknown kind, damaged, or several tensors without a `key`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such direction file: {path}")
    if path.suffix not in _READERS:
        raise UserError(f"direction file {path}: one of {', '.join(_READERS)} expected")
    try:
        found = _READERS[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes a reader raise
        raise UserError(f"direction file {path} cannot be read: {str(error).splitlines()[0]}") from error
    return _choose(found, key, path)


def _choose(found: Any, key: str | None, path: Path) -> Tensor | list[Tensor]:
    if isinstance(found, Mapping):
        if key is None and len(found) != 1:
            raise UserError(f"{path} holds several tensors; give key: one of {', '.join(map(str, found))}")
        if key is not None and key not in found:
            raise unknown(f"key in {path}:", key, found)
        found = found[key] if key is not None else next(iter(found.values()))
    if isinstance(found, list | tuple):
        return [torch.as_tensor(np.asarray(part)).float() for part in found]
    return torch.as_tensor(np.asarray(found)).float()


def _read_npy(path: Path) -> Any:
    raw = path.read_bytes()
    try:
        return np.load(io.BytesIO(raw), allow_pickle=False)
    except ValueError:
        # An array of objects (a list of style vectors) is a pickle behind the header.
        stream = io.BytesIO(raw)
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        reader(stream)
        return list(load_restricted(stream.read(), name=str(path)))


def _read_npz(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive.items())


def _read_pt(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(str(path))


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_pt, ".pth": _read_pt, ".safetensors": _read_safetensors}
