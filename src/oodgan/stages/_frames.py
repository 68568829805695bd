"""Frames of a video: faces are detected, tracked and smoothed in all frames before the first one is edited.

The inversions of a face are smoothed as well, over neighbouring frames, so that the edit does not flicker.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oodgan.data import video
from oodgan.data.detect import Face, detect_faces
from oodgan.data.images import read_rgb
from oodgan.data.track import by_frame, choose_tracks, follow, smooth
from oodgan.errors import UserError
from oodgan.stages._photos import Job

if TYPE_CHECKING:
    from oodgan.editing import Editor
    from oodgan.editing.subject import Subject
    from oodgan.inversion.value import Inversion
    from oodgan.stages._plan import Plan


def natural(jobs: Sequence[Job]) -> list[Job]:
    """Sort jobs by folder and name, with numbers by value: frame2 before frame10."""

    def key(job: Job) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", job.path.as_posix())
        return [(1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts]

    return sorted(jobs, key=key)


def place(jobs: Sequence[Job], face: str, window: int, report: Callable[[str], None]) -> dict[Path, dict[int, Face]]:
    """Track the chosen faces over all frames, smoothed over `window` frames: {path: {number of the track: face}}.

    Frames that are unreadable or show no face are interpolated if the face is detected before and after, within
    `window` frames. Raises UserError if no frame shows a face, or the chosen face does not exist.
    """
    detections: list[list[Face]] = []
    report(f"finding faces in {len(jobs)} frames")
    for job in jobs:
        try:
            detections.append(detect_faces(read_rgb(job.path)))
        except UserError:  # reported when this frame is edited
            detections.append([])
    tracks = choose_tracks(follow(detections, gap=window), face)
    steady = {number: smooth(track, window) for number, track in tracks.items()}
    without = sum(not faces for faces in by_frame(steady, len(jobs)))
    if without:
        report(f"the face was not detected in {without} of {len(jobs)} frames: they are copied unchanged")
    return dict(zip((job.path for job in jobs), by_frame(steady, len(jobs)), strict=True))


class SmoothInversions:
    """The inversion of a face in each frame, averaged over neighbouring frames: codes and residuals.

    The crops follow the face, so neighbouring inversions are of the same face in nearly the same place. The weights are
    Gaussian; three standard deviations reach the ends of the window.

    Args:
        editor: aligns and inverts.
        jobs: the frames in order.
        faces: where each tracked face is in each frame, as `place` returns it.
        window: number of frames to average over; 1: no averaging.
    """

    def __init__(
        self, editor: Editor, jobs: Sequence[Job], faces: Mapping[Path, Mapping[int, Face]], window: int
    ) -> None:
        self.editor, self.faces, self.window = editor, faces, window
        self.order = [job.path for job in jobs]
        self.number = {path: i for i, path in enumerate(self.order)}
        self._known: dict[tuple[int, int], Inversion] = {}

    def apply(self, subject: Subject, path: Path, track: int) -> None:
        """Set the smoothed inversion and its image on a frame's face (`subject`). Unreadable neighbours are skipped."""
        if self.window == 1 or subject.inversion is not None:
            return
        here, half = self.number[path], self.window // 2
        self._known = {key: value for key, value in self._known.items() if key[0] >= here - half}
        near = range(max(0, here - half), min(len(self.order), here + half + 1))
        nearby = {i: value for i in near if (value := self._inversion(i, track)) is not None}
        subject.inversion = smoothed(nearby, here, self.window)
        subject.inverted = self.editor.decode(subject.inversion)

    def _inversion(self, number: int, track: int) -> Inversion | None:
        path, key = self.order[number], (number, track)
        if key not in self._known and track in self.faces.get(path, {}):
            try:
                (subject,) = self.editor.subjects.find(path, face=self.faces[path][track])
            except UserError:  # reported when this frame is edited
                return None
            self._known[key] = self.editor.inverter.invert(subject.photo)
        return self._known.get(key)


def smoothed(near: Mapping[int, Inversion], here: int, window: int) -> Inversion:
    """The Gaussian mean around frame `here` of inversions by frame, with residuals at the same resolutions."""
    import torch

    from oodgan.inversion.value import Inversion

    weights = {i: math.exp(-0.5 * ((i - here) / (window / 6)) ** 2) for i in near}
    total = sum(weights.values())
    codes = torch.stack([near[i].w_plus * (weights[i] / total) for i in near]).sum(dim=0)
    sizes = next(iter(near.values())).residuals
    parts = {r: [near[i].residuals[r] * (weights[i] / total) for i in near] for r in sizes}
    return Inversion(codes, {r: torch.stack(part).sum(dim=0) for r, part in parts.items()})


def clip_of(inputs: Sequence[str]) -> Path | None:
    """The video clip among the inputs, if there is one. Raises UserError for a clip beside other inputs."""
    clips = [path for text in inputs if (path := Path(text).expanduser()).is_file() and video.is_clip(path)]
    if clips and len(inputs) > 1:
        raise UserError(f"{clips[0]} is a video: edit it alone, without other photos or videos")
    return clips[0] if clips else None


def encode_clip(clip: Path, jobs: Sequence[Job], plan: Plan, report: Callable[[str], None]) -> None:
    """Write the edited clip, one for each combination of strengths."""
    for strengths in plan.edits:
        frames = [plan.file("pasted", job, None, strengths) for job in jobs]
        ending = plan.file("pasted", jobs[0], None, strengths).stem.removeprefix(jobs[0].name)
        target = plan.output / f"{clip.stem}{ending}{clip.suffix}"
        video.encode(clip, frames, target)
        report(f"written: {target}")
