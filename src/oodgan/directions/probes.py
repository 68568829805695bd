"""Attribute probes: ridge regression from image features to labels, and probes from files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from oodgan.directions.features import Extractor
from oodgan.errors import UserError, unknown
from oodgan.files import hash_of, save_tensors
from oodgan.foreign import reading

SHIPPED_PROBES = Path(__file__).parents[1] / "weights" / "shipped" / "probes_ffhq.safetensors"
"""Probes of the faces that the shipped directions were not learnt from."""

SEEKING_PROBES = SHIPPED_PROBES.with_name("probes_ffhq_seek.safetensors")
"""Probes of the other half, which seek strengths and may guide trainings."""


@dataclass(frozen=True)
class Probes:
    """Linear probes on one extractor's features; a score's unit is its standard deviation over the labelled faces.

    Args:
        names: attributes, one column each.
        weights: (D, K); bias: (K,).
        quality: cross-validated correlation of score and label, by name.
        backbone, size: of the extractor.
    """

    names: tuple[str, ...]
    weights: Tensor
    bias: Tensor
    quality: Mapping[str, float]
    backbone: str = "alexnet"
    size: int = 256

    def score(self, features: Tensor) -> Tensor:
        """Features (N, D) -> scores (N, K)."""
        return features.float() @ self.weights + self.bias

    def index(self, name: str) -> int:
        """Column of an attribute; UserError with the nearest known one when there is none."""
        if name not in self.names:
            raise unknown("attribute", name, self.names)
        return self.names.index(name)

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file, half precision."""
        # Weights are tiny: without a common factor they would be subnormal numbers in half precision.
        factor = float(self.weights.abs().max())
        tensors = {"weights": (self.weights / factor).half().contiguous(), "bias": self.bias.float().contiguous()}
        metadata = {
            "format": "oodgan-probes-1", "names": json.dumps(self.names), "factor": repr(factor),
            "quality": json.dumps(dict(self.quality)), "backbone": self.backbone, "size": str(self.size),
        }  # fmt: skip
        save_tensors(path, tensors, metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Probes:
        """Read what `save` wrote. Raises UserError for anything else."""
        from safetensors import safe_open

        with reading(path, "attribute probes"), safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "oodgan-probes-1":
                raise UserError(f"{path} holds no attribute probes")
            tensors = {name: file.get_tensor(name).float() for name in ("weights", "bias")}
            names = tuple(map(str, json.loads(metadata["names"])))
            if tensors["weights"].shape[1:] != (len(names),) or tensors["bias"].shape != (len(names),):
                raise UserError(f"its weights are not of its {len(names)} names")
            tensors["weights"] = tensors["weights"] * float(metadata["factor"])
            quality = {str(name): float(value) for name, value in json.loads(metadata["quality"]).items()}
            return cls(names, quality=quality, backbone=metadata["backbone"], size=int(metadata["size"]), **tensors)


class ImageProbe:
    """The score of one attribute, images (B, 3, R, R) in [-1, 1] -> (B,), for the metrics of attribute change."""

    def __init__(self, probes: Probes, attribute: str, extractor: Extractor | None = None) -> None:
        self.probes, self.column = probes, probes.index(attribute)
        self.extractor = extractor or Extractor(probes.backbone, probes.size)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        self.extractor.to(images.device)
        return self.probes.score(self.extractor(images).cpu())[:, self.column].to(images.device)


def normal_scores(labels: Tensor) -> Tensor:
    """Convert labels (N,), NaN if unknown, to normal scores of their ranks (equal for ties), or to 0 and 1 if binary.

    Ranks make a probe robust to outliers and to the ends of a scale (an age of 80, a smile of exactly 0).
    """
    known = ~labels.isnan()
    values, inverse, counts = labels[known].double().unique(return_inverse=True, return_counts=True)
    out = torch.full_like(labels, torch.nan, dtype=torch.float32)
    if len(values) == 2:
        out[known] = inverse.float()
    else:
        ranks = (counts.cumsum(0).double() - counts.double() / 2) / counts.sum()
        out[known] = torch.special.ndtri(ranks)[inverse].float()
    return out


def fit_probes(
    features: Tensor, labels: Mapping[str, Tensor], extractor: Extractor, ridge: float = 0.5, folds: int = 5
) -> Probes:
    """Fit one ridge probe per attribute on standardised features (in the dual form, since N is far below D).

    Args:
        features: (N, D); labels: attribute -> (N,), NaN where unknown.
        ridge: regulariser in units of the mean of the kernel's diagonal.

    Raises:
        UserError: fewer than ten labels of an attribute, or only one class of it.
    """
    # Rarely active channels are noise, which must not be amplified.
    mean, scale = features.mean(0), features.std(0) + 1e-2
    standard = (features - mean) / scale
    kernel = standard @ standard.T
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    weights, biases, quality = [], [], {}
    for name, raw in labels.items():
        check_labels(name, raw)
        target = normal_scores(raw)
        known = order[~target[order].isnan()]
        held_out = _cross_validate(kernel, target, known, ridge, folds)
        unit = held_out.std().clamp(min=1e-6)
        quality[name] = round(float(torch.corrcoef(torch.stack([held_out, target[known]]))[0, 1]), 3)
        dual, offset = _solve(kernel, target, known, ridge)
        weight = standard[known].T @ dual / unit / scale
        weights.append(weight)
        biases.append((offset - target[known].mean()) / unit - mean @ weight)
    return Probes(
        tuple(labels), torch.stack(weights, 1), torch.stack(biases), quality, extractor.backbone, extractor.size
    )


def merge_probes(parts: Sequence[Probes]) -> Probes:
    """Merge probes of several sources; shared attributes are averaged, weighted by squared quality."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    weights, biases, quality = [], [], {}
    for name in names:
        known = [part for part in parts if name in part.names]
        trust = torch.tensor([max(part.quality[name], 0.05) ** 2 for part in known])
        trust = trust / trust.sum()
        columns = [part.index(name) for part in known]
        weights.append(sum(t * p.weights[:, c] for t, p, c in zip(trust, known, columns, strict=True)))
        biases.append(sum(t * p.bias[c] for t, p, c in zip(trust, known, columns, strict=True)))
        quality[name] = max(part.quality[name] for part in known)
    first = parts[0]
    return Probes(names, torch.stack(weights, 1), torch.stack(biases), quality, first.backbone, first.size)


def check_labels(name: str, labels: Tensor) -> None:
    """Raise UserError when labels (N,), NaN where unknown, cannot train a probe."""
    known = labels[~labels.isnan()]
    if len(known) < 10:
        raise UserError(f"attribute {name!r} has {len(known)} labelled images; a probe needs at least 10")
    values, counts = known.unique(return_counts=True)
    if len(values) < 2:
        raise UserError(f"attribute {name!r} has one class only ({values[0]:g}); a probe needs two")
    if len(values) == 2 and int(counts.min()) < 3:
        raise UserError(f"attribute {name!r} has {counts.min()} examples of {values[counts.argmin()]:g}; it needs 3")


def _solve(kernel: Tensor, target: Tensor, rows: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    block, offset = kernel[rows][:, rows], target[rows].mean()
    block = block + ridge * block.diagonal().mean() * torch.eye(len(rows))
    return torch.linalg.solve(block, target[rows] - offset), offset


def _cross_validate(kernel: Tensor, target: Tensor, rows: Tensor, ridge: float, folds: int) -> Tensor:
    held_out = torch.zeros(len(rows))
    for fold in range(folds):
        test = torch.arange(len(rows)) % folds == fold
        dual, offset = _solve(kernel, target, rows[~test], ridge)
        held_out[test] = kernel[rows[test]][:, rows[~test]] @ dual + offset
    return held_out


def load_probes(
    path: Path, attributes: Sequence[str], edits: Mapping[str, float]
) -> dict[tuple[str, str, float], ImageProbe]:
    """Return {(attribute, version, sign): probe} for those `attributes` that the file has.

    The version contains the file's hash, so that columns of different probes have different names. The sign is that of
    the edit's strength, so that a change in the requested direction is positive.

    Raises:
        UserError: the file holds no probes.
    """
    probes, version = Probes.load(path), f"probe_{hash_of(path)[:8]}"
    wanted = [name for name in attributes if name in probes.names]
    return {(a, version, -1.0 if edits.get(a, 1.0) < 0 else 1.0): ImageProbe(probes, a) for a in wanted}
