"""Polishing: restricts a calibrated direction to its place in the face, by gradient descent through the generator.

A linear model in W also finds what merely correlates with an attribute: a smile narrows the eyes, a beard darkens the
whole image. Changes outside the attribute's place are lost, because the mask removes them. Gradient descent therefore
optimises each direction to change its own score as much as before, and to change the other scores, the identity and
the pixels outside its place in the aligned face less.

The offsets are combinations of the largest principal components of W, scaled by their standard deviations. Without this
restriction, the optimisation finds changes that raise the probe's score and are invisible (adversarial examples).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.directions.calibrate import Bench
from oodgan.errors import UserError, unknown
from oodgan.files import save_tensors
from oodgan.generators.protocol import Generator, sample_codes
from oodgan.tracking.artifacts import hash_settings

log = logging.getLogger("oodgan")
_THUMB = 64  # resolution of the comparison of pixels outside the place
_EDGE = 0.015  # softness of a place's border, as a fraction of the image's width


@dataclass(frozen=True)
class Looks:
    """Measurements of one image: `scores` (1, P), `face` (1, 512), `thumb` (1, 3, 64, 64)."""

    scores: Tensor
    face: Tensor
    thumb: Tensor


class Polisher:
    """Polishes calibrated directions.

    Each step edits three samples: one by strength 1, one by 0.7 to 1.2, one by -0.6 to -1.1. The loss is the own
    score's shortfall from `target` (of the first two) + `others` x mean square movement of the other scores + `outside`
    x mean absolute change of the pixels outside of the place + `colour` x mean absolute change of the colours (channels
    less their mean, on a grid of 8 x 8) + `identity` x (1 - FaceNet similarity).

    Args:
        steps: steps of Adam, with cosine decay from `lr`.
        codes, seed: number and seed of the samples, with truncation 0.5 to 1, some with mixed styles.
        components: number of principal components of W that an offset may use.
        target: change of the own score at strength 1, in standard deviations.
        others, outside, colour, identity: weights of the loss terms, see above.
        cache: folder for polished directions, so that an interrupted run continues where it stopped.

    Raises:
        UserError: fewer than one step or two codes.
    """

    def __init__(
        self, steps: int = 110, lr: float = 0.04, codes: int = 96, seed: int = 900, components: int = 128,
        target: float = 1.6, others: float = 1.5, outside: float = 12.0, colour: float = 0.0,
        identity: float = 1.0,
        cache: str | Path | None = None,
    ) -> None:  # fmt: skip
        if steps < 1 or codes < 2:
            raise UserError(f"directions.polish: steps={steps} and codes={codes}: at least 1 and 2")
        self.steps, self.lr, self.codes, self.seed, self.components = steps, lr, codes, seed, components
        self.target, self.others, self.outside = target, others, outside
        self.colour, self.identity = colour, identity
        self.cache = Path(cache).expanduser() if cache else None

    def but(self, **changed: Any) -> Polisher:
        """The same with some settings changed."""
        return Polisher(**{**vars(self), **changed})

    def __call__(
        self, bench: Bench, name: str, vector: Tensor, place: Sequence[float],
        spare: Mapping[str, float] | None = None,
    ) -> Tensor:  # fmt: skip
        """Polish a direction (L, 512) of strength 1; the result has about the same strength.

        Args:
            place: left, top, right, bottom of the attribute, as fractions of the aligned image.
            spare: factors of the cost of changing single other scores.

        Raises:
            UserError: an invalid place, or a score in `spare` that no probe has.
        """
        outside = _outside(name, place)
        prices = _prices(bench, name, spare or {})
        kept = self._kept(bench, name, place, spare or {})
        start = {"start": vector.cpu(), "probe": bench.probes.weights[:, bench.probes.index(name)].cpu()}
        if kept is not None and (polished := _read(kept, start)) is not None:
            return polished
        with torch.inference_mode(False), torch.enable_grad():
            polished = self._descend(bench, name, vector, outside, prices)
        if kept is not None:
            _keep(kept, {**start, "vector": polished})
        return polished

    def _descend(self, bench: Bench, name: str, vector: Tensor, outside: Tensor, prices: Tensor) -> Tensor:
        generator, column = bench.generator, bench.probes.index(name)
        device = generator.mean_w.device
        outside, vector, prices = (x.to(device) for x in (outside, vector, prices))
        basis, rng = _basis(generator, self.components), torch.Generator().manual_seed(5)
        codes = torch.cat([self._sample(generator, i, rng) for i in range(self.codes)])
        with torch.no_grad():
            before = [_look(bench, code[None]) for code in codes]
        amounts = torch.zeros(len(vector), len(basis), requires_grad=True, device=device)
        optimiser = torch.optim.Adam([amounts], self.lr, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps, self.lr * 0.1)
        for step in range(1, self.steps + 1):
            total = torch.zeros(len(_PARTS))
            for index, strength in _draw(len(codes), rng):
                direction = vector + amounts @ basis
                after = _look(bench, (codes[index] + strength * direction)[None])
                parts = self._parts(before[index], after, strength, column, outside, prices)
                # Not backward(), which would accumulate gradients in networks that are not frozen.
                (gradient,) = torch.autograd.grad(parts.sum(), amounts)
                amounts.grad = gradient if amounts.grad is None else amounts.grad + gradient
                total += parts.detach().cpu()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            if step % 10 == 0 or step == self.steps:
                shown = ", ".join(f"{part} {float(value):.3f}" for part, value in zip(_PARTS, total, strict=True))
                log.info("directions: polish %s %d/%d: %s", name, step, self.steps, shown)
        return (vector + amounts @ basis).detach().cpu()

    def _parts(
        self, before: Looks, after: Looks, strength: float, column: int, outside: Tensor, prices: Tensor
    ) -> Tensor:  # fmt: skip
        """Return the terms of the loss (5,), in the order of `_PARTS`."""
        moved = (after.scores - before.scores)[0] / abs(strength)
        short = F.relu(self.target - moved[column]) / 2 if strength > 0 else torch.zeros_like(moved[column])
        others = (moved.square() * prices).sum() / (len(prices) - 1)
        changed = ((after.thumb - before.thumb).abs().mean(1)[0] * outside).sum() / outside.sum()
        tinted = (_colours(after.thumb) - _colours(before.thumb)).abs().mean()
        left = 1 - (after.face * before.face).sum()
        costs = (self.others * others, self.outside * changed, self.colour * tinted, self.identity * left)
        return torch.stack([short, *(cost / 3 for cost in costs)])

    def _sample(self, generator: Generator, index: int, rng: torch.Generator) -> Tensor:
        truncation = 0.5 + 0.5 * float(torch.rand((), generator=rng))
        return sample_codes(generator, 1, self.seed + index, truncation, mixing=0.3)

    def _kept(self, bench: Bench, name: str, place: Sequence[float], spare: Mapping[str, float]) -> Path | None:
        if self.cache is None:
            return None
        settings: dict[str, Any] = {k: v for k, v in vars(self).items() if k != "cache"} | {"place": list(place)}
        settings |= {"spare": dict(spare)} if spare else {}
        settings_hash = hash_settings(settings, {"generator": bench.generator.id, "name": name})
        return self.cache / f"polished-{name}-{settings_hash[:12]}.safetensors"


_PARTS = ("short of the target", "others", "outside", "colour", "identity")


def _outside(name: str, place: Sequence[float]) -> Tensor:
    """(64, 64): 0 in the place, 1 outside, with a soft border."""
    edges = [float(edge) for edge in place]
    if len(edges) != 4 or not (0 <= edges[0] < edges[2] <= 1 and 0 <= edges[1] < edges[3] <= 1):
        key = f"directions.attributes.{name}.polish.place"
        raise UserError(f"{key}={list(place)}: [left, top, right, bottom] from 0 to 1 expected")
    centres = (torch.arange(_THUMB) + 0.5) / _THUMB

    def between(low: float, high: float) -> Tensor:
        return torch.sigmoid((centres - low) / _EDGE) * torch.sigmoid((high - centres) / _EDGE)

    left, top, right, bottom = edges
    return 1 - between(top, bottom)[:, None] * between(left, right)[None]


def _prices(bench: Bench, name: str, spare: Mapping[str, float]) -> Tensor:
    """Weights (P,): 0 for the own score, 1 for the others, more for those in `spare`."""
    prices = torch.ones(len(bench.probes.names))
    prices[bench.probes.index(name)] = 0
    for other, factor in spare.items():
        if other == name or other not in bench.probes.names:
            known = [n for n in bench.probes.names if n != name]
            raise unknown(f"score in directions.attributes.{name}.polish.spare:", other, known)
        prices[bench.probes.names.index(other)] = float(factor)
    return prices


def _look(bench: Bench, code: Tensor) -> Looks:
    size = min(bench.size, bench.generator.resolution)
    image = bench.generator.synthesis(code, size=size).clamp(-1, 1)
    weights, bias = (x.to(image.device) for x in (bench.probes.weights, bench.probes.bias))
    scores = bench.extractor(image) @ weights + bias
    return Looks(scores, bench.recogniser(image), F.interpolate(image, (_THUMB, _THUMB), mode="area"))


def _colours(thumb: Tensor) -> Tensor:
    """(N, 3, 64, 64) -> (N, 3, 8, 8): the colours without lightness."""
    return F.avg_pool2d(thumb - thumb.mean(1, keepdim=True), 8)


def _basis(generator: Generator, components: int) -> Tensor:
    """The largest principal components of W (K, 512), scaled by standard deviation; the first has length 1."""
    codes = sample_codes(generator, 2000, 77, 1.0)[:, 0]
    _, spreads, axes = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    return axes[:components] * (spreads[:components] / spreads[0])[:, None]


def _draw(count: int, rng: torch.Generator) -> list[tuple[int, float]]:
    """Three samples and the strengths to edit them by."""
    chosen = torch.randint(0, count, (3,), generator=rng).tolist()
    more, less = (float(torch.rand((), generator=rng)) for _ in range(2))
    return list(zip(chosen, (1.0, 0.7 + 0.5 * more, -(0.6 + 0.5 * less)), strict=True))


def _read(path: Path, start: dict[str, Tensor]) -> Tensor | None:
    """Read a direction from the cache if it was computed from the same start (up to rounding); else None."""
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    kept = load_file(str(path))
    same = kept.keys() == start.keys() | {"vector"} and all(_alike(kept[n], wanted) for n, wanted in start.items())
    return kept["vector"] if same else None


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-2, atol=1e-3)


def _keep(path: Path, tensors: dict[str, Tensor]) -> None:
    save_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()})
