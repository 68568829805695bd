"""Faces with five landmarks, by MTCNN (Zhang et al., "Joint Face Detection and Alignment", SPL 2016).

The three networks come from the weights registry and run in OpenCV; the cascade is implemented here. Coordinates are
continuous: pixel (i, j) covers [i, i + 1) x [j, j + 1), so its centre is at + 0.5.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oodgan.errors import UserError

Array = NDArray[np.floating[Any]]

CELL, STRIDE = 12, 2
THRESHOLDS = (0.6, 0.7, 0.7)
SURE = 0.95
"""Beside a face of this score or more, less certain ones are taken for false alarms."""

WORK_SIDE = 1024
"""Longer photos are searched at this longest side first, and at four times it only when no face was found."""

_LOCK = threading.Lock()


@dataclass(frozen=True)
class Face:
    """A face in a photo, in the photo's pixels.

    `box` (left, top, right, bottom), `score` in [0, 1], `landmarks` (5, 2) as x, y: the eye at the left of the picture,
    the other eye, nose, the mouth corner at the left, the other one.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: NDArray[np.float64]

    @property
    def size(self) -> float:
        """Shorter side of the box in pixels."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])


def detect_faces(image: Image.Image, *, min_face: int = 32, refine: bool = True) -> list[Face]:
    """Find the faces in an RGB picture, largest first; an empty list when there is none.

    `min_face` is the smallest face that is searched for, in pixels of the resized photo (see `WORK_SIDE`). `refine`
    averages the landmarks over shifted and mirrored views of each face, which makes the alignment more stable.
    """
    longest = max(image.size)
    if min(image.size) < CELL:
        return []
    faces: list[Face] = []
    for side in (WORK_SIDE, 4 * WORK_SIDE):
        scale = min(1.0, side / longest)
        faces = _detect(_pixels(image, scale), image.size, min_face, refine)
        if faces or scale == 1.0:
            break
    if any(face.score >= SURE for face in faces):
        faces = [face for face in faces if face.score >= SURE]
    return sorted(faces, key=lambda face: face.size, reverse=True)


def _pixels(image: Image.Image, scale: float) -> NDArray[np.uint8]:
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if scale < 1:
        width, height = (max(CELL, round(side * scale)) for side in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.BOX)
    return np.asarray(rgb)


def _detect(pixels: NDArray[np.uint8], full: tuple[int, int], min_face: int, refine: bool) -> list[Face]:
    boxes = _propose(pixels, min_face)
    boxes = _check(pixels, boxes)
    boxes, points = _land(pixels, boxes)
    if refine and len(boxes):
        points = _steady(pixels, boxes, points)
    scale = np.array([full[0] / pixels.shape[1], full[1] / pixels.shape[0]])
    corners = boxes[:, :4].reshape(-1, 2, 2) * scale
    return [
        Face(tuple(corner.reshape(-1).tolist()), float(box[4]), np.asarray(point * scale, dtype=np.float64))
        for corner, box, point in zip(corners, boxes, points, strict=True)
    ]


@cache
def _networks() -> dict[str, Any]:
    import cv2

    from oodgan.weights import fetch

    folder = Path(fetch("mtcnn"))
    networks = {}
    for name in ("pnet", "rnet", "onet"):
        files = sorted(folder.rglob(f"{name}.onnx"))
        if not files:
            raise UserError(f"the face detector lacks {name}.onnx in {folder}; run: oodgan weights verify")
        networks[name] = cv2.dnn.readNetFromONNX(str(files[0]))
    return networks


def _forward(name: str, batch: Array, outputs: list[str]) -> list[Array]:
    """Run one network on (N, H, W, 3) pixels 0..255. Its graph wants (N, W, H, 3) in [-1, 1)."""
    blob = np.ascontiguousarray(((batch - 127.5) / 128).transpose(0, 2, 1, 3))
    with _LOCK:
        network = _networks()[name]
        network.setInput(blob)
        return [np.array(out, dtype=np.float32) for out in network.forward(outputs)]


def _propose(pixels: NDArray[np.uint8], min_face: int) -> Array:
    """P-Net over an image pyramid: (N, 5) square boxes with scores."""
    import cv2

    height, width = pixels.shape[:2]
    proposals = []
    scale = CELL / min_face
    while min(height, width) * scale >= CELL:
        size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
        level = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        shift, score = _forward("pnet", level[None], ["conv2d_4", "softmax"])
        xs, ys = np.nonzero(score[0, :, :, 1] >= THRESHOLDS[0])
        corner = np.stack([xs, ys, xs, ys], axis=1) * STRIDE + np.array([0, 0, CELL, CELL])
        boxes = np.column_stack([corner / scale, score[0, xs, ys, 1], shift[0, xs, ys]])
        proposals.append(boxes[suppress(boxes[:, :4], boxes[:, 4], 0.5)])
        scale *= 0.709
    boxes = np.concatenate(proposals) if proposals else np.zeros((0, 9))
    boxes = boxes[suppress(boxes[:, :4], boxes[:, 4], 0.7)]
    return _square(_shifted(boxes[:, :5], boxes[:, 5:]))


def _check(pixels: NDArray[np.uint8], boxes: Array) -> Array:
    """R-Net: refined (N, 5) square boxes."""
    if not len(boxes):
        return boxes
    shift, score = _forward("rnet", _crops(pixels, boxes, 24), ["dense_2", "softmax_1"])
    good = score[:, 1] > THRESHOLDS[1]
    boxes, shift = np.column_stack([boxes[good, :4], score[good, 1]]), shift[good]
    keep = suppress(boxes[:, :4], boxes[:, 4], 0.7)
    return _square(_shifted(boxes[keep], shift[keep]))


def _land(pixels: NDArray[np.uint8], boxes: Array) -> tuple[Array, Array]:
    """O-Net: final (N, 5) boxes and (N, 5, 2) landmarks."""
    if not len(boxes):
        return np.zeros((0, 5), np.float32), np.zeros((0, 5, 2), np.float32)
    shift, points, score = _onet(pixels, boxes)
    good = score > THRESHOLDS[2]
    boxes, shift, points = np.column_stack([boxes[good, :4], score[good]]), shift[good], points[good]
    boxes = _shifted(boxes, shift)
    keep = suppress(boxes[:, :4], boxes[:, 4], 0.7, by_smaller=True)
    return boxes[keep], points[keep]


def _onet(pixels: NDArray[np.uint8], boxes: Array) -> tuple[Array, Array, Array]:
    shift, flat, score = _forward("onet", _crops(pixels, boxes, 48), ["dense_5", "dense_6", "softmax_2"])
    relative = flat.reshape(-1, 2, 5).transpose(0, 2, 1)
    sides = (boxes[:, 2:4] - boxes[:, :2])[:, None]
    return shift, relative * sides + boxes[:, None, :2], score[:, 1]


_VIEWS = [(dx, dy, zoom) for zoom in (0.95, 1.05, 1.15) for dx in (-0.04, 0.04) for dy in (-0.04, 0.04)]
_MIRRORED = [1, 0, 2, 4, 3]


def _steady(pixels: NDArray[np.uint8], boxes: Array, points: Array) -> Array:
    """Mean landmarks of O-Net over shifted and zoomed boxes, in the picture and in its mirror image."""
    width = pixels.shape[1]
    steady = points.copy()
    for i, box in enumerate(_square(boxes)):
        centre, side = (box[:2] + box[2:4]) / 2, box[2] - box[0]
        views = np.array([np.hstack([_around(centre, side, *view), 1]) for view in _VIEWS], dtype=np.float32)
        _, plain, _ = _onet(pixels, views)
        mirrored = views.copy()
        mirrored[:, [0, 2]] = width - views[:, [2, 0]]
        _, turned, _ = _onet(np.ascontiguousarray(pixels[:, ::-1]), mirrored)
        turned = turned[:, _MIRRORED]
        turned[..., 0] = width - turned[..., 0]
        steady[i] = np.concatenate([plain, turned]).mean(axis=0)
    return steady


def _around(centre: Array, side: float, dx: float, dy: float, zoom: float) -> Array:
    middle = centre + side * np.array([dx, dy])
    return np.hstack([middle - side * zoom / 2, middle + side * zoom / 2])


def _crops(pixels: NDArray[np.uint8], boxes: Array, side: int) -> Array:
    """(N, side, side, 3) views of the boxes; outside the picture is black, as in training."""
    import cv2

    height, width = pixels.shape[:2]
    crops = np.zeros((len(boxes), side, side, 3), dtype=np.float32)
    for crop, box in zip(crops, np.rint(boxes[:, :4]).astype(int), strict=True):
        left, top, right, bottom = box
        view = np.zeros((max(1, bottom - top), max(1, right - left), 3), dtype=np.uint8)
        x0, y0, x1, y1 = max(0, left), max(0, top), min(width, right), min(height, bottom)
        if x1 > x0 and y1 > y0:
            view[y0 - top : y1 - top, x0 - left : x1 - left] = pixels[y0:y1, x0:x1]
        crop[:] = cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA)
    return crops


def _shifted(boxes: Array, shift: Array) -> Array:
    """Move each edge by its offset, which is relative to the box's sides."""
    sides = boxes[:, 2:4] - boxes[:, :2]
    return np.column_stack([boxes[:, :4] + shift * np.tile(sides, 2), boxes[:, 4]])


def _square(boxes: Array) -> Array:
    """Smallest squares with the same centres."""
    centre = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = (boxes[:, 2:4] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.column_stack([centre - half, centre + half, boxes[:, 4]])


def suppress(boxes: Array, scores: Array, threshold: float, by_smaller: bool = False) -> NDArray[np.intp]:
    """Non-maximum suppression: indices of the kept (N, 4) boxes, best first.

    A box is dropped if it overlaps a better one by more than `threshold`: intersection over union or, with
    `by_smaller`, intersection over the smaller area.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        whole = np.minimum(area[best], area[order]) if by_smaller else area[best] + area[order] - shared
        order = order[shared <= threshold * whole]
    return np.array(kept, dtype=np.intp)
