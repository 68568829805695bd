"""Directions from labels: probes score generator samples, and a linear model in W explains the scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodgan.data.names import short
from oodgan.data.splits import stable_fraction
from oodgan.directions.calibrate import Bench
from oodgan.directions.features import Extractor, list_images, photo_features, sample_features
from oodgan.directions.labels import labels_of
from oodgan.directions.linear import conditional, fit_codes, fit_linear, parse_layers, spread
from oodgan.directions.polish import Polisher
from oodgan.directions.probes import Probes, fit_probes, merge_probes
from oodgan.directions.solve import Solver
from oodgan.errors import UserError, unknown
from oodgan.foreign import reading
from oodgan.generators.protocol import Generator

log = logging.getLogger("oodgan")
_OPTIONS = {"orthogonal", "layers", "model", "regulariser", "target", "identity", "step", "max_step", "try", "polish"}
POLISHER = {"steps", "lr", "others", "outside", "colour"}  # settings that can differ between attributes
_POLISH = {"place", "spare", "target", "identity", "step", "max_step"} | POLISHER


@dataclass
class Discovered:
    """Directions before calibration.

    `vectors` (K, L, 512) have length 1 in the layer with the largest step, unless `calibrated`. `quality` has the
    accuracy of probes and linear models on held-out labels. `probes` are used for calibration, `check` for the final
    evaluation (trained on other labels). `settings` has calibration options of single directions; its entry `polish`
    has the place that `polisher` restricts the direction to, and options of the calibration after polishing.
    """

    names: list[str]
    vectors: Tensor
    provenance: dict[str, Any]
    probes: Probes | None = None
    check: Probes | None = None
    calibrated: bool = False
    quality: dict[str, dict[str, float]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    polisher: Polisher | None = None


class ProbeDiscovery:
    """The stage's `directions=probe`.

    Args:
        labels: label source, or several (`oodgan.directions.labels`); images: the folder of each.
        attributes: name -> {orthogonal: [names], layers: "0-8", model: ridge, ...}; every labelled one if empty.
        samples, truncation, seed: the generator samples that are scored.
        model, regulariser: `oodgan.directions.linear.fit_linear`.
        backbone, size, ridge: the probes' features and regulariser.
        holdout: share of the labelled faces that trains the independent probe of the final check.
        cache: folder for the samples' features; null keeps nothing.
        solve: settings of `oodgan.directions.solve.Solver`, which combines candidate directions of all attributes by
            their measured effects; null: use each candidate, made orthogonal and limited to layers by its options.
        polish: settings of `oodgan.directions.polish.Polisher`, which restricts attributes with an option
            `polish: {place: [left, top, right, bottom]}` to this place; null: no polishing. This option may also have
            `spare` and settings of the polisher, and `target`, `identity`, `step` of the calibration afterwards.

    Raises:
        UserError: an unknown option, or fewer than 20 samples.
    """

    def __init__(
        self, labels: str | Sequence[str] | None, images: str | Sequence[str] | None,
        attributes: Mapping[str, Mapping[str, Any]] | None = None, samples: int = 2000, truncation: float = 0.85,
        seed: int = 100, model: str = "ridge", regulariser: float = 0.3, backbone: str = "alexnet", size: int = 256,
        ridge: float = 0.5, holdout: float = 0.5, cache: str | None = None,
        solve: Mapping[str, Any] | None = None, polish: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.solver = None if solve is None else Solver(**solve)
        self.polisher = None if polish is None else Polisher(**polish, cache=cache)
        self.sources = _pairs(labels, images)
        self.attributes = {str(k): dict(v or {}) for k, v in (attributes or {}).items()}
        self.samples, self.truncation, self.seed = samples, truncation, seed
        self.model, self.regulariser, self.ridge, self.holdout = model, regulariser, ridge, holdout
        self.backbone, self.size = backbone, size
        self.cache = Path(cache).expanduser() if cache else None
        if samples < 20:
            raise UserError(f"samples={samples}: a direction needs at least 20 samples (2000 make good ones)")
        for name, options in self.attributes.items():
            self._options_known(name, options)

    def _options_known(self, name: str, options: Mapping[str, Any]) -> None:
        """Check options before samples are scored, which takes an hour."""
        for option in options.keys() - _OPTIONS:
            raise unknown(f"option of attribute {name!r}:", option, _OPTIONS)
        polish = options.get("polish") or {}
        for option in polish.keys() - _POLISH:
            raise unknown(f"option of {name}.polish:", option, _POLISH)

    def discover(self, generator: Generator) -> Discovered:
        """Fit probes, score samples, and solve for every attribute's direction."""
        extractor = Extractor(self.backbone, self.size).to(generator.mean_w.device)
        probes, check = self._probes(extractor)
        wanted = self.attributes or {name: {} for name in probes.names}
        for name in wanted:
            probes.index(name)
        log.info("directions: scoring %d samples of %s", self.samples, generator.id)
        codes, features = sample_features(
            generator, extractor, self.samples, self.seed, self.truncation, self.cache
        )  # fmt: skip
        scores = probes.score(features)
        normals = {n: self._normal(codes, scores[:, i], wanted.get(n, {})) for i, n in enumerate(probes.names)}
        lines = [self._direction(name, dict(opts), normals, generator.num_ws) for name, opts in wanted.items()]
        vectors = torch.stack(lines)
        if self.solver is not None:
            bench = Bench(generator, extractor, probes, self.size)
            steps = self._steps(vectors, fit_codes(codes, scores), probes, wanted)
            vectors = unit(self.solver(bench, list(wanted), steps))
        return Discovered(
            list(wanted), vectors, self._provenance(generator), probes, check,
            quality=self._quality(codes, scores, probes, list(wanted)), settings=wanted, polisher=self.polisher,
        )  # fmt: skip

    def _steps(
        self, lines: Tensor, risen: Tensor, probes: Probes, wanted: Mapping[str, Mapping[str, Any]]
    ) -> Tensor:  # fmt: skip
        """Return two candidate steps per attribute (K, 2, L, 512), of length `try`: along its linear model, and along
        that of `fit_codes`, in the same layers."""
        pairs = []
        for line, (name, options) in zip(lines, wanted.items(), strict=True):
            layers = parse_layers(options.get("layers"), len(line))
            second = spread(risen[probes.index(name)], layers, len(line))
            pairs.append(unit(torch.stack([line, second])) * float(options.get("try", 4.0)))
        return torch.stack(pairs)

    def _probes(self, extractor: Extractor) -> tuple[Probes, Probes | None]:
        """Train probes for discovery, and independent ones on the other faces for the final check."""
        fitted: list[list[Probes]] = [[], []]
        for source, folder in self.sources:
            images = list_images(folder)
            with reading(source, "label source"):
                labels = {k: v for k, v in labels_of(source, images).items() if self._needed(k)}
            names = sorted({name for column in labels.values() for name in column})
            if not names:
                raise UserError(f"{source} has no labels of the wanted attributes for the images in {folder}")
            log.info("directions: reading %d labelled faces of %s", len(names), folder)
            features = photo_features(extractor, [images[name] for name in names])
            table = {
                k: torch.tensor([column.get(n, float("nan")) for n in names]) for k, column in sorted(labels.items())
            }
            table = self._usable(table)
            # By name, so that a face with labels from two sources is in the same half of both.
            keys = short(images)
            judged = torch.tensor([stable_fraction(keys[name]) < self.holdout for name in names])
            for part, rows in zip(fitted, ((~judged).nonzero()[:, 0], judged.nonzero()[:, 0]), strict=True):
                if len(rows):
                    columns = {name: column[rows] for name, column in table.items()}
                    part.append(fit_probes(features[rows], columns, extractor, self.ridge))
        return merge_probes(fitted[0]), merge_probes(fitted[1]) if fitted[1] else None

    def _needed(self, name: str) -> bool:
        """Return the configured attributes and those that they are made orthogonal to; all if none is configured."""
        others = {o for opts in self.attributes.values() for o in opts.get("orthogonal") or ()}
        return not self.attributes or name in self.attributes or name in others

    def _usable(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop attributes with a single class, except configured ones, for which `fit_probes` raises an error."""
        if self.attributes:
            return table
        enough = {k: v for k, v in table.items() if len(v[~v.isnan()]) >= 40 and len(v[~v.isnan()].unique()) > 1}
        return enough or table

    def _normal(self, codes: Tensor, score: Tensor, options: Mapping[str, Any]) -> Tensor:
        regulariser = float(options.get("regulariser", self.regulariser))
        return fit_linear(codes, score, str(options.get("model", self.model)), regulariser)

    def _direction(self, name: str, options: dict[str, Any], normals: Mapping[str, Tensor], num_ws: int) -> Tensor:
        others = [str(o) for o in options.get("orthogonal") or ()]
        for other in others:
            if other not in normals:
                raise unknown("attribute to be orthogonal to", other, normals)
        stacked = torch.stack([normals[o] for o in others]) if others else torch.zeros(0, 512)
        direction = conditional(normals[name], stacked)
        return spread(direction, parse_layers(options.get("layers"), num_ws), num_ws)

    def _quality(
        self, codes: Tensor, scores: Tensor, probes: Probes, names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Return the cross-validated r of each probe, and r of the linear model on the last fifth of the samples."""
        cut = len(codes) * 4 // 5
        quality = {}
        for name in names:
            column = scores[:, probes.index(name)]
            normal = self._normal(codes[:cut], column[:cut], self.attributes.get(name, {}))
            pair = torch.stack([codes[cut:] @ normal, column[cut:]])
            quality[name] = {"probe_r": probes.quality[name], "w_r": round(float(torch.corrcoef(pair)[0, 1]), 3)}
        return quality

    def _provenance(self, generator: Generator) -> dict[str, Any]:
        return {
            "method": "probe", "generator": generator.id, "samples": self.samples, "truncation": self.truncation,
            "seed": self.seed, "model": self.model, "regulariser": self.regulariser, "backbone": self.backbone,
            "ridge": self.ridge, "holdout": self.holdout, "labels": [Path(s).name for s, _ in self.sources],
        }  # fmt: skip


def unit(vectors: Tensor) -> Tensor:
    """Scale directions (K, L, 512) to length 1 in the layer with the largest step."""
    return vectors / vectors.norm(dim=2).amax(1)[:, None, None]


def _pairs(labels: Any, images: Any) -> list[tuple[str, str]]:
    if not labels or not images:
        raise UserError("directions=probe needs labels=FILE and images=FOLDER (labelled, aligned faces)")
    sources = [labels] if isinstance(labels, str | Path) else list(labels)
    folders = [images] if isinstance(images, str | Path) else list(images)
    if len(sources) != len(folders):
        raise UserError(f"{len(sources)} label sources and {len(folders)} image folders: one folder for each")
    return [(str(s), str(f)) for s, f in zip(sources, folders, strict=True)]
