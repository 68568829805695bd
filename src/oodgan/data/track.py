"""Tracking of faces through the frames of a video by overlap, with landmarks smoothed over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oodgan.data.detect import Face
from oodgan.errors import UserError

Floats = NDArray[np.float64]
OVERLAP = 0.3
"""Boxes of one face in neighbouring frames overlap at least by this (intersection over union)."""


@dataclass
class Track:
    """The same face in several frames: `faces` maps the frame's number, from 0, to where it is there."""

    faces: dict[int, Face] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """The sum of the face's sizes over the frames, by which tracks are sorted."""
        return sum(face.size for face in self.faces.values())


def follow(frames: Sequence[Sequence[Face]], gap: int = 0) -> list[Track]:
    """Link the faces of consecutive frames, the best overlaps first; the most prominent track comes first.

    `frames` contains the faces detected in each frame. A track survives `gap` frames without its face.
    """
    tracks: list[Track] = []
    for number, faces in enumerate(frames):
        live = [track for track in tracks if number - max(track.faces) <= gap + 1]
        last = [track.faces[max(track.faces)] for track in live]
        pairs = [(_overlap(old, new), i, j) for i, old in enumerate(last) for j, new in enumerate(faces)]
        taken: dict[int, int] = {}  # face of this frame -> track
        for share, i, j in sorted(pairs, key=lambda pair: -pair[0]):
            if share >= OVERLAP and j not in taken and i not in taken.values():
                taken[j] = i
        for j, face in enumerate(faces):
            if j in taken:
                live[taken[j]].faces[number] = face
            else:
                tracks.append(Track({number: face}))
    return sorted(tracks, key=lambda track: -track.weight)


def _overlap(one: Face, other: Face) -> float:
    a, b = np.array(one.box), np.array(other.box)
    sides = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0)
    shared = float(sides.prod())
    return shared / max(float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared, 1e-9)


def choose_tracks(tracks: Sequence[Track], face: str) -> dict[int, Track]:
    """Return the tracks selected by `face` (largest, all, or a number from 0), by number; errors as `align.choose`."""
    if not tracks:
        raise UserError("no face found in any frame")
    if face == "all":
        return dict(enumerate(tracks))
    if face != "largest" and not face.isdigit():
        raise UserError(f"face={face} is not known: largest, all, or a number from 0")
    index = 0 if face == "largest" else int(face)
    if index >= len(tracks):
        raise UserError(f"face={face}: the frames show {len(tracks)} face(s), numbered from 0, most prominent first")
    return {index: tracks[index]}


def smooth(track: Track, window: int) -> Track:
    """Return a track with landmarks and boxes smoothed over `window` frames, and gaps filled.

    Each point is replaced by a local linear fit over the frames around it, weighted by a Gaussian whose three standard
    deviations reach the ends of the window. A face in uniform motion is therefore not shifted, even in the first and
    last frames. Gaps are interpolated.

    Raises:
        UserError: a window below 1 frame.
    """
    if window < 1:
        raise UserError(f"window={window}: at least 1 frame (1: not smoothed)")
    times = np.array(sorted(track.faces))
    values = np.stack([_vector(track.faces[t]) for t in times])
    lines = np.stack([_line(times - t, values, window) for t in times])
    every = np.arange(times[0], times[-1] + 1)
    filled = np.stack([np.interp(every, times, column) for column in lines.T], axis=1)
    scores = np.interp(every, times, [track.faces[t].score for t in times])
    return Track({int(t): _face(row, score) for t, row, score in zip(every, filled, scores, strict=True)})


def _line(distance: NDArray[np.int_], values: Floats, window: int) -> Floats:
    """The value at distance 0 of the weighted line through `values` (N, D)."""
    near = np.abs(distance) <= window // 2
    x, rows = distance[near].astype(np.float64), values[near]
    weights = np.exp(-0.5 * (x / max(window / 6, 1e-6)) ** 2)
    s0, s1, s2 = (float((weights * x**power).sum()) for power in range(3))
    spread = s0 * s2 - s1 * s1
    weights = weights * (s2 - s1 * x) / spread if spread > 1e-9 * s0 * s0 else weights / s0
    return np.asarray(weights @ rows)


def _vector(face: Face) -> Floats:
    return np.concatenate([np.array(face.box), face.landmarks.reshape(-1)])


def _face(row: Floats, score: float) -> Face:
    left, top, right, bottom = (float(v) for v in row[:4])
    return Face((left, top, right, bottom), float(score), row[4:].reshape(5, 2))


def by_frame(tracks: Mapping[int, Track], count: int) -> list[dict[int, Face]]:
    """Return, for each of `count` frames, its faces by track number."""
    return [{i: track.faces[n] for i, track in tracks.items() if n in track.faces} for n in range(count)]
