"""Search of strengths for a requested change: `auto`, or standard deviations of the attribute (`+1sd`).

The strength is searched on small previews of the edited face with one half of the attribute probes. The other half
evaluates results (`oodgan evaluate`), so that no strength is measured by the probes that chose it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from oodgan.errors import UserError, nearest, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from oodgan.directions.bank import Bank
    from oodgan.directions.features import Extractor
    from oodgan.directions.probes import Probes
    from oodgan.editing.editor import Editor
    from oodgan.inversion.value import Inversion
    from oodgan.nn.identity import Recogniser

AUTO = "auto"
_DEVIATIONS = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))\s*sd")
_CLOSE = 0.02  # smaller differences of strengths are invisible


@dataclass(frozen=True)
class Target:
    """A requested change of an attribute: `sd` standard deviations; None: the change of strength 1 on samples."""

    sd: float | None = None

    def __str__(self) -> str:
        return AUTO if self.sd is None else f"{self.sd:+g}sd"


Strength = float | Target


def parse(name: str, value: Any) -> Strength:
    """Parse a strength: a number, `auto`, or a change such as `+1sd`. Raises UserError for anything else."""
    if isinstance(value, Target):
        return value
    if isinstance(value, str):
        return _target(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"strength {value!r} of {name!r} is not a finite number, for example {name}: 1.0")
    return float(value)


def _target(name: str, text: str) -> Target:
    if text == AUTO:
        return Target()
    match = _DEVIATIONS.fullmatch(text.strip())
    deviations = float(match[1]) if match else 0.0
    if not match or not math.isfinite(deviations):
        raise UserError(
            f"strength {text!r} of {name!r}{nearest(text, (AUTO, '+1sd'))}: a number, {AUTO}, or a change in standard "
            "deviations such as +1sd expected"
        )
    if not deviations:
        raise UserError(f"strength {text!r} of {name!r} asks for no change; for example {name}: +1sd")
    return Target(deviations)


@dataclass(frozen=True)
class Choice:
    """The strength that was chosen for one attribute.

    Args:
        strength: what the edit uses.
        target, change: the attribute's change in standard deviations, as requested and as measured on the preview.
        identity: similarity of the preview and the inverted face.
        reached: whether the preview shows the requested change; `reason` explains why not.
    """

    strength: float
    target: float
    change: float
    identity: float
    reached: bool
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON, rounded to 3 digits."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        shown = f"{self.strength:+.3g}: {self.change:+.2f} of {self.target:+.2f} sd, identity {self.identity:.2f}"
        return shown if self.reached else f"{shown} (not reached: {self.reason})"


@dataclass(frozen=True)
class Seen:
    """A preview: position along the direction (`Course`), change towards the target, and identity similarity."""

    progress: float
    change: float
    identity: float


class Course:
    """One side of a direction's useful range, parametrised by the change on samples, so that changes are nearly linear.

    Args:
        notes: the direction's calibration; without a curve on samples progress is the strength itself.
        end: the last useful strength, negative on the negative side.
    """

    def __init__(self, notes: Mapping[str, Any], end: float) -> None:
        curve, sign = notes.get("samples") or {"strength": [end], "move": [end]}, math.copysign(1, end)
        points = zip(curve["strength"], curve["move"], strict=True)
        side = sorted((s * sign, m * sign) for s, m in points if 0 < s * sign <= abs(end))
        growing = bool(side) and side[-1][0] == abs(end) and bool((np.diff([0.0, *(m for _, m in side)]) > 0).all())
        self.strengths, self.moves = zip((0.0, 0.0), *(side if growing else [(abs(end),) * 2]), strict=True)
        self.sign, self.end = sign, self.moves[-1]

    def strength(self, progress: float) -> float:
        """The signed strength."""
        return round(self.sign * float(np.interp(progress, self.moves, self.strengths)), 3)


def seek(
    look: Callable[[float], tuple[float, float]], target: float, course: Course, identity: float, previews: int,
    tolerance: float,
) -> Choice:  # fmt: skip
    """Search the strength at which the attribute changes by `target` while the similarity stays above `identity`.

    Starts at the strength at which samples change by `target`, then extrapolates from preview to preview.

    Args:
        look: strength -> (the attribute's change, identity), by a preview.
        target: standard deviations; its sign is that of the course.
    """
    wanted = abs(target)
    near, far = Seen(0.0, 0.0, 1.0), None  # too little change; too much change, or too low identity
    allowed, at = [near], min(wanted, course.end)
    for _ in range(previews):
        change, kept = look(course.strength(at))
        seen = Seen(at, change * course.sign, kept)
        allowed += [seen] if kept >= identity else []
        width = _width(near, far)
        if kept < identity or seen.change > wanted + tolerance:
            far = seen
        else:
            near = seen
        if _done(near, far, wanted - tolerance, course):
            break
        at = _next(near, far, wanted, course.end, identity, creeping=_width(near, far) > width / 2)
    best = min(allowed, key=lambda s: abs(s.change - wanted))
    reached = best.change >= wanted - tolerance
    reason = "" if reached else _reason(near, far, course, identity, previews)
    return Choice(course.strength(best.progress), target, best.change * course.sign, best.identity, reached, reason)


def _width(near: Seen, far: Seen | None) -> float:
    return math.inf if far is None else far.progress - near.progress


def _done(near: Seen, far: Seen | None, enough: float, course: Course) -> bool:
    if near.progress and near.change >= enough:
        return True
    if far is None:
        return near.progress >= course.end
    return abs(course.strength(far.progress) - course.strength(near.progress)) < _CLOSE


def _next(near: Seen, far: Seen | None, wanted: float, end: float, identity: float, creeping: bool) -> float:
    """Return the next position to try: where change or identity should match, well inside the unexplored interval."""
    if far is None:
        guess = near.progress * wanted / near.change if near.change > 0 else end
        return min(max(guess, near.progress + 0.2 * (end - near.progress)), end)
    if creeping:
        return (near.progress + far.progress) / 2
    share = (wanted - near.change) / (far.change - near.change) if far.change > wanted else 1.0
    if far.identity < identity:
        share = min(share, (near.identity - identity) / (near.identity - far.identity))
    return near.progress + min(max(share, 0.1), 0.9) * (far.progress - near.progress)


def _reason(near: Seen, far: Seen | None, course: Course, identity: float, previews: int) -> str:
    if far is None and near.progress >= course.end:
        return f"the useful range ends at {course.strength(course.end):+g}"
    if far is not None and far.identity < identity:
        return f"identity is {far.identity:.2f} at {course.strength(far.progress):+.3g}, below {identity:g}"
    return f"the nearest of {previews} previews"


class Search:
    """Searches the strengths for requested changes (the config group `search`).

    Args:
        weights: probes that measure the change (`oodgan.directions.probes`): a shipped name or a file.
        identity: lowest similarity of edited and inverted face that a chosen strength may have.
        previews: largest number of previews per attribute.
        tolerance: accepted deviation from the requested change, in standard deviations.
        recogniser: measures `identity`; FaceNet when None.
    """

    def __init__(
        self,
        weights: str = "probes_ffhq_seek",
        identity: float = 0.6,
        previews: int = 5,
        tolerance: float = 0.1,
        recogniser: Recogniser | None = None,
    ) -> None:
        if not 0 <= identity < 1:
            raise UserError(f"search.identity={identity}: from 0 to below 1 expected")
        if isinstance(previews, bool) or not isinstance(previews, int) or previews < 1:
            raise UserError(f"search.previews={previews}: a whole number from 1 expected")
        if not tolerance > 0:
            raise UserError(f"search.tolerance={tolerance}: more than 0 standard deviations expected")
        self.weights, self.identity, self.previews, self.tolerance = weights, identity, previews, tolerance
        self._recogniser = recogniser

    @cached_property
    def probes(self) -> Probes:
        from oodgan.directions.probes import Probes
        from oodgan.weights import trained

        return Probes.load(trained.locate(self.weights))

    @cached_property
    def extractor(self) -> Extractor:
        from oodgan.directions.features import Extractor

        return Extractor(self.probes.backbone, self.probes.size).eval()

    @cached_property
    def recogniser(self) -> Recogniser:
        from oodgan.nn.facenet import FaceNet

        return self._recogniser or FaceNet()

    def wanted(self, bank: Bank, name: str, target: Target) -> float:
        """Return the requested change in standard deviations.

        Raises:
            UserError: no probe for the attribute, or `auto` for a direction that was not measured on samples.
        """
        if name not in self.probes.names:
            raise unknown(f"attribute for {target} (search.weights={self.weights})", name, self.probes.names)
        if target.sd is not None:
            return target.sd
        curve = bank.calibration.get(name, {}).get("samples")
        if not curve:
            raise UserError(f"{name}: {AUTO}, but this bank does not record the change at strength 1: use {name}: +1sd")
        points = sorted(zip([0.0, *curve["strength"]], [0.0, *curve["move"]], strict=True))
        return float(np.interp(1.0, [s for s, _ in points], [m for _, m in points]))

    def __call__(
        self, editor: Editor, inversion: Inversion, edits: Mapping[str, Strength], photo: Tensor | None = None
    ) -> tuple[dict[str, float], dict[str, Choice]]:
        """The strengths of all `edits` in their order, and what was chosen.

        `photo` is what was inverted: with it, previews redraw and remove parts as the edit does (`Editor.change`).
        Several targets are searched one after the other, together with the strengths already given or chosen: `change`
        is relative to these, `identity` is that of all edits together.
        """
        strengths = {name: 0.0 if isinstance(value, Target) else value for name, value in edits.items()}

        def see(edits: Mapping[str, float]) -> tuple[Tensor, Tensor]:
            return self._see(editor, editor.change(inversion, edits, photo))

        _, person = self._see(editor, inversion)
        chosen: dict[str, Choice] = {}
        for name, target in edits.items():
            if isinstance(target, Target):
                chosen[name] = self._choose(editor.bank, see, strengths, name, target, person)
                strengths[name] = chosen[name].strength
        return strengths, chosen

    def _choose(
        self, bank: Bank, see: Callable[[Mapping[str, float]], tuple[Tensor, Tensor]], others: Mapping[str, float],
        name: str, target: Target, person: Tensor,
    ) -> Choice:  # fmt: skip
        column, wanted = self.probes.index(name), self.wanted(bank, name, target)
        before, _ = see(others)

        def look(strength: float) -> tuple[float, float]:
            scores, face = see({**others, name: strength})
            return float((scores - before)[0, column]), float((face * person).sum())

        low, high = bank.range(name)
        course = Course(bank.calibration.get(name, {}), high if wanted > 0 else low)
        return seek(look, wanted, course, self.identity, self.previews, self.tolerance)

    def _see(self, editor: Editor, inversion: Inversion) -> tuple[Tensor, Tensor]:
        """Scores (1, K) and identity (1, D) of a preview."""
        import torch

        with torch.no_grad():
            image = inversion.image(editor.generator, min(self.probes.size, editor.generator.resolution))
            extractor = self.extractor.to(image.device)
            return self.probes.score(extractor(image).cpu()), self.recogniser(image).cpu()


def build(cfg: Mapping[str, Any] | None) -> Search:
    """Build the search of a config group `search`; with the shipped probes if there is none."""
    from hydra.utils import instantiate

    return instantiate(cfg, _partial_=True)() if cfg else Search()
