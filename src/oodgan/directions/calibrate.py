"""Calibration of strength 1, and its effects on attributes and identity, on samples and inverted photos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.directions.bank import Bank
from oodgan.directions.features import Extractor, render
from oodgan.directions.probes import Probes
from oodgan.generators.protocol import Generator
from oodgan.nn.facenet import FaceNet
from oodgan.nn.identity import Recogniser

log = logging.getLogger("oodgan")
CURVE = (-1.5, -1.0, -0.5, 0.5, 1.0, 1.5)
_LADDER = tuple(2 * 1.4**i for i in range(6))  # lengths in W from 2 to 10.8


@dataclass
class Measured:
    """Measurements of N images: `scores` (N, K) of the probes, `faces` (N, 512) identity embeddings, and `thumbs`
    (N, 192), the images at 8 x 8."""

    scores: Tensor
    faces: Tensor
    thumbs: Tensor

    def against(self, base: Measured) -> tuple[Tensor, Tensor]:
        """(movement (N, K), identity similarity (N,)) relative to `base`."""
        return self.scores - base.scores, (self.faces * base.faces).sum(1)


class Bench:
    """Renders codes once and measures scores and identity on the same images."""

    def __init__(
        self,
        generator: Generator,
        extractor: Extractor,
        probes: Probes,
        size: int = 256,
        recogniser: Recogniser | None = None,
    ) -> None:
        self.generator, self.extractor, self.probes, self.size = generator, extractor, probes, size
        self.recogniser: Recogniser = recogniser or FaceNet()

    @torch.no_grad()
    def __call__(self, codes: Tensor, probes: Probes | None = None) -> Measured:
        """Render codes (N, L, 512) and measure the images, optionally with other `probes`."""
        scores, faces, thumbs = [], [], []
        batch = 1 if self.generator.mean_w.device.type == "cpu" else 16
        for part in codes.split(batch):
            images = render(self.generator, part, self.size)
            scores.append((probes or self.probes).score(self.extractor(images).cpu()))
            faces.append(self.recogniser(images).cpu())
            thumbs.append(F.adaptive_avg_pool2d(images, 8).flatten(1).cpu())
        return Measured(torch.cat(scores), torch.cat(faces), torch.cat(thumbs))


def find_step(
    move: Callable[[float], tuple[float, float]], target: float, identity: float, longest: float = 12.0
) -> tuple[float, str]:
    """Return the shortest length in W that changes the score by `target` and keeps the identity.

    Args:
        move: length -> (mean movement of the score, median identity similarity).
        target: standard deviations; identity: lowest median similarity; longest: largest length tried.

    Returns:
        The length (interpolated between tried lengths), and why the search ended: `target`, `identity` (the change is
        smaller than `target`), `turned` (the score decreases again) or `length`.
    """
    before, best = (0.0, 0.0, 1.0), (0.0, 0.0, 1.0)
    for length in (*(rung for rung in _LADDER if rung < longest), longest):
        moved, kept = move(length)
        shares = {"target": _share(before[1], moved, target), "identity": _share(-before[2], -kept, -identity)}
        ended = {why: share for why, share in shares.items() if share is not None}
        if ended:
            why = min(ended, key=lambda k: ended[k])
            return before[0] + ended[why] * (length - before[0]), why
        if moved < 0.8 * best[1]:
            return best[0], "turned"
        before = (length, moved, kept)
        best = max(best, before, key=lambda at: at[1])
    return best[0], "length"


def _share(before: float, after: float, goal: float) -> float | None:
    """Return the fraction between two values at which a rising curve crosses the goal; None if it does not."""
    if after < goal:
        return None
    return 0.0 if before >= goal else (goal - before) / max(after - before, 1e-9)


def calibrate(
    bench: Bench, names: Sequence[str], units: Tensor, codes: Tensor, target: float, identity: float,
    settings: Mapping[str, Mapping[str, Any]],
) -> tuple[Tensor, dict[str, dict[str, Any]]]:  # fmt: skip
    """Scale unit directions (K, L, 512) so that strength 1 moves their own score by `target` on `codes`.

    `settings[name]` may hold its own `target`, `identity`, `max_step`, or a fixed `step`.
    """
    base = bench(codes)
    vectors, notes = [], {}
    for name, unit in zip(names, units, strict=True):
        own = settings.get(name, {})
        column = bench.probes.index(name)

        def move(length: float, unit: Tensor = unit, column: int = column) -> tuple[float, float]:
            moved, kept = bench(codes + length * unit).against(base)
            return float(moved[:, column].mean()), float(kept.median())

        if own.get("step"):
            length, why = float(own["step"]), "fixed"
        else:
            wanted, floor = float(own.get("target", target)), float(own.get("identity", identity))
            length, why = find_step(move, wanted, floor, float(own.get("max_step", 12.0)))
        log.info("directions: %s: strength 1 is a step of %.2f in W (%s)", name, length, why)
        vectors.append(unit * length)
        notes[name] = {"step": round(length, 3), "ended_by": why, "target": float(own.get("target", target))}
    return torch.stack(vectors), notes


def curves(bench: Bench, bank: Bank, codes: Tensor, strengths: Sequence[float] = CURVE) -> dict[str, dict[str, Any]]:
    """Measure each direction's own score and the identity at several strengths: {name: {strength, move, identity}}."""
    base = bench(codes)
    by_name: dict[str, dict[str, Any]] = {}
    for name in bank.names:
        column = bench.probes.index(name)
        rows = [bench(bank.apply(codes, {name: s})).against(base) for s in strengths]
        by_name[name] = {
            "strength": list(strengths),
            "move": [round(float(moved[:, column].mean()), 3) for moved, _ in rows],
            "identity": [round(float(kept.median()), 3) for _, kept in rows],
        }
    return by_name


def useful_range(curve: Mapping[str, Sequence[float]], identity: float = 0.25) -> list[float]:
    """Return the range of strengths [lowest, highest] over which the score still grows and the identity is kept."""
    points = sorted(zip(curve["strength"], curve["move"], curve["identity"], strict=True))
    ends = []
    for sign in (-1, 1):
        side = sorted((p for p in points if p[0] * sign > 0), key=lambda p: abs(p[0]))
        end, last = 0.0, 0.0
        for strength, moved, kept in side:
            if moved * sign <= last or kept < identity:
                break
            end, last = strength, moved * sign
        ends.append(end or 0.25 * sign)
    return ends


@dataclass
class Check:
    """Evaluation of all directions at strength 1 on held-out samples, by independent probes.

    `moves` (K, P): mean movement of every probe, standard deviations of real faces; `identity` (K,): median FaceNet
    similarity; `probes`: the P attributes.
    """

    names: tuple[str, ...]
    probes: tuple[str, ...]
    moves: Tensor
    identity: Tensor
    samples: int

    def own(self, name: str) -> float:
        """Movement of the direction's own attribute."""
        return float(self.moves[self.names.index(name), self.probes.index(name)])

    def strongest_other(self, name: str) -> tuple[str, float]:
        """Return the other attribute that changes most."""
        row = self.moves[self.names.index(name)].clone()
        row[self.probes.index(name)] = 0
        return self.probes[int(row.abs().argmax())], float(row[row.abs().argmax()])

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for metadata and manifests."""
        return {
            "samples": self.samples, "probes": list(self.probes), "identity": _rounded(self.identity),
            "moves": {n: _rounded(row) for n, row in zip(self.names, self.moves, strict=True)},
        }  # fmt: skip


def check(bench: Bench, bank: Bank, codes: Tensor, judge: Probes) -> Check:
    """Measure the effect of every direction at strength 1 on every probe of `judge`."""
    base = bench(codes, judge)
    moves, identity = [], []
    for name in bank.names:
        moved, kept = bench(bank.apply(codes, {name: 1.0}), judge).against(base)
        moves.append(moved.mean(0))
        identity.append(kept.median())
        log.info("directions: checked %s on %d samples", name, len(codes))
    return Check(bank.names, judge.names, torch.stack(moves), torch.stack(identity), len(codes))


def compose(
    bench: Bench, bank: Bank, codes: Tensor, judge: Probes, pairs: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Combine two edits: for each pair, the change of each attribute relative to its change alone.

    `kept` is measured by the judge, `kept_learnt` by the probes that the directions were learned with. If only
    `kept_learnt` is near 1, the probes disagree about the combination; the edits themselves may be fine.
    """
    judged = _together(bench, bank, codes, judge, pairs)
    learnt = _together(bench, bank, codes, bench.probes, pairs)
    return [{**row, "kept_learnt": own["kept"]} for row, own in zip(judged, learnt, strict=True)]


def _together(
    bench: Bench, bank: Bank, codes: Tensor, judge: Probes, pairs: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    base = bench(codes, judge)
    alone: dict[str, float] = {}
    rows = []
    for first, second in pairs:
        for name in (first, second):
            if name not in alone:
                moved, _ = bench(bank.apply(codes, {name: 1.0}), judge).against(base)
                alone[name] = float(moved[:, judge.index(name)].mean())
        moved, kept = bench(bank.apply(codes, {first: 1.0, second: 1.0}), judge).against(base)
        ratio = [round(float(moved[:, judge.index(n)].mean()) / alone[n], 3) for n in (first, second)]
        rows.append({"pair": [first, second], "kept": ratio, "identity": round(float(kept.median()), 3)})
        log.info("directions: %s with %s keep %.2f and %.2f", first, second, *ratio)
    return rows


def against_published(
    bench: Bench, bank: Bank, published: Bank, codes: Tensor, judge: Probes, rounds: int = 5
) -> list[dict[str, Any]]:
    """Compare the change of attributes in both banks at equal loss of identity.

    The published direction is scaled by bisection until its median identity equals ours at strength 1.
    """
    base = bench(codes, judge)
    rows = []
    for name in [n for n in published.names if n in bank.names]:
        column = judge.index(name)
        moved, kept = bench(bank.apply(codes, {name: 1.0}), judge).against(base)
        ours, goal = float(moved[:, column].mean()), float(kept.median())
        low, high, theirs = 0.0, 4.0, 0.0
        for _ in range(rounds):
            strength = (low + high) / 2
            moved, kept = bench(published.apply(codes, {name: strength}), judge).against(base)
            low, high = (strength, high) if float(kept.median()) > goal else (low, strength)
            theirs = float(moved[:, column].mean())
        row = {"identity": goal, "ours": ours, "published": theirs, "published_strength": strength}
        rows.append({"name": name, **{k: round(v, 3) for k, v in row.items()}})
        log.info("directions: %s: ours %.2f, published %.2f at identity %.2f", name, ours, theirs, goal)
    return rows


def _rounded(values: Tensor) -> list[float]:
    return [round(float(v), 3) for v in values]
