"""Frames of a video: the faces in all of them are found, followed and smoothed before the first frame is edited."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from oodgan.data.detect import Face, detect_faces
from oodgan.data.images import read_rgb
from oodgan.data.track import by_frame, choose_tracks, follow, smooth
from oodgan.errors import UserError
from oodgan.stages._photos import Job


def natural(jobs: Sequence[Job]) -> list[Job]:
    """The jobs by folder and name, numbers in names by their value: frame2 before frame10."""

    def key(job: Job) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", job.path.as_posix())
        return [(1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts]

    return sorted(jobs, key=key)


def place(jobs: Sequence[Job], face: str, window: int, say: Callable[[str], None]) -> dict[Path, dict[int, Face]]:
    """Where the chosen faces are in each frame, smoothed over `window` frames: {path: {track's number: face}}.

    Frames that cannot be read, or show no face, are bridged where the face is there on both sides within `window`
    frames. Raises UserError when no frame shows a face, or there is no such one.
    """
    found: list[list[Face]] = []
    say(f"finding faces in {len(jobs)} frames")
    for job in jobs:
        try:
            found.append(detect_faces(read_rgb(job.path)))
        except UserError:  # said when it is this frame's turn to be edited
            found.append([])
    tracks = choose_tracks(follow(found, gap=window), face)
    steady = {number: smooth(track, window) for number, track in tracks.items()}
    without = sum(not faces for faces in by_frame(steady, len(jobs)))
    if without:
        say(f"the face was not detected in {without} of {len(jobs)} frames: they are copied unchanged")
    return dict(zip((job.path for job in jobs), by_frame(steady, len(jobs)), strict=True))
