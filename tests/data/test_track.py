"""Faces tracked over frames: assignment to tracks, and smoothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oodgan.data.detect import Face
from oodgan.data.track import Track, by_frame, choose_tracks, follow, smooth
from oodgan.errors import UserError

SHAPE = np.array([[-10, -10], [10, -10], [0, 0], [-8, 12], [8, 12]], dtype=np.float64)


def face(x: float, y: float, size: float = 60.0) -> Face:
    half = size / 2
    return Face((x - half, y - half, x + half, y + half), 0.99, SHAPE * size / 60 + [x, y])


def centres(track: Track) -> np.ndarray:
    return np.array([track.faces[t].landmarks.mean(axis=0) for t in sorted(track.faces)])


def test_two_faces_keep_their_tracks_in_any_order_of_detection() -> None:
    frames = [[face(100 + 4 * t, 100), face(300 - 4 * t, 110, 80)][:: 1 if t % 2 else -1] for t in range(20)]
    tracks = follow(frames)
    assert len(tracks) == 2 and all(len(track.faces) == 20 for track in tracks)
    assert np.allclose(np.diff(centres(tracks[0])[:, 0]), -4) and np.allclose(np.diff(centres(tracks[1])[:, 0]), 4)


def test_gaps_up_to_the_limit_are_bridged_and_interpolated() -> None:
    frames = [[] if t in (5, 6) else [face(100 + 3 * t, 90)] for t in range(12)]
    assert [len(track.faces) for track in follow(frames, gap=1)] == [5, 5]
    (track,) = follow(frames, gap=2)
    whole = smooth(track, 5)
    assert sorted(whole.faces) == list(range(12))
    assert np.allclose(whole.faces[5].landmarks, face(115, 90).landmarks)


def test_a_cut_starts_a_new_track() -> None:
    tracks = follow([[face(100, 100)]] * 6 + [[face(400, 300)]] * 4, gap=3)
    assert [sorted(track.faces) for track in tracks] == [list(range(6)), [6, 7, 8, 9]]
    assert [list(result) for result in by_frame(dict(enumerate(tracks)), 11)] == [[0]] * 6 + [[1]] * 4 + [[]]


@given(window=st.integers(1, 15), speed=st.floats(-8, 8), count=st.integers(1, 25))
def test_smoothing_does_not_change_uniform_motion(window: int, speed: float, count: int) -> None:
    track = Track({t: face(200 + speed * t, 50, 60 + t) for t in range(count)})
    whole = smooth(track, window)
    for t in range(count):
        assert np.allclose(whole.faces[t].landmarks, track.faces[t].landmarks, atol=1e-6)
        assert np.allclose(whole.faces[t].box, track.faces[t].box, atol=1e-6)


def test_smoothing_with_a_larger_window_reduces_jitter() -> None:
    rng = np.random.default_rng(0)
    track = Track({t: face(100 + 2 * t + rng.normal(0, 2), 80 + rng.normal(0, 2)) for t in range(60)})
    path = np.stack([100 + 2 * np.arange(60), np.full(60, 80)], axis=1) + SHAPE.mean(axis=0)
    errors = [np.abs(centres(smooth(track, window)) - path).mean() for window in (1, 5, 15)]
    assert np.array_equal(centres(smooth(track, 1)), centres(track))
    assert errors[1] < 0.75 * errors[0] and errors[2] < 0.5 * errors[0]


def test_tracks_are_selected_by_size_or_number() -> None:
    tracks = follow([[face(100, 100, 90), face(300, 100)]] * 3)
    assert choose_tracks(tracks, "largest") == {0: tracks[0]} and tracks[0].weight == 270
    assert choose_tracks(tracks, "all") == {0: tracks[0], 1: tracks[1]} and choose_tracks(tracks, "1") == {1: tracks[1]}
    for wrong, message in (("2", "show 2 face"), ("big", "largest, all, or a number")):
        with pytest.raises(UserError, match=message):
            choose_tracks(tracks, wrong)
    with pytest.raises(UserError, match="no face found in any frame"):
        choose_tracks([], "largest")
    with pytest.raises(UserError, match="window=0"):
        smooth(tracks[0], 0)
