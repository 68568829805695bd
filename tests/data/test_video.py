"""Clips keep frames, timing, size and sound when they are decoded and encoded."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodgan.data import video
from oodgan.errors import UserError

av = pytest.importorskip("av", reason="the video extra is not installed")
COUNT = 6


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    """A bar that moves over a uniform background."""
    pixels = np.full((size[1], size[0], 3), (200, 120, 60), np.uint8)
    pixels[:, 8 * number : 8 * number + 16] = (20, 200, 40)
    return Image.fromarray(pixels)


def clip(path: Path, size: tuple[int, int] = (96, 64), steps: tuple[int, ...] = (0, 1, 2, 4, 5, 9)) -> Path:
    """Write a clip at 10 frames per second with uneven timing, and a tone."""
    codec, sound = ("libvpx-vp9", "libopus") if path.suffix == ".webm" else ("libx264", "aac")
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 else "yuv420p"
        tone = output.add_stream(sound, rate=48000, layout="mono")
        for number, step in enumerate(steps):
            frame = av.VideoFrame.from_image(picture(number, size))
            frame.pts, frame.time_base = step, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        for start in range(0, 48000, 960):
            wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(start, start + 960) / 48000)
            part = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
            part.sample_rate, part.pts = 48000, start
            output.mux(tone.encode(part))
        output.mux(tone.encode(None))
    return path


def seconds(path: Path) -> list[float]:
    with av.open(str(path)) as source:
        return [round(float(frame.time), 3) for frame in source.decode(video=0)]


def sound(path: Path) -> bytes:
    with av.open(str(path)) as source:
        return b"".join(bytes(packet) for packet in source.demux(audio=0))


@pytest.mark.parametrize(
    ("name", "size"), [("a.mp4", (96, 64)), ("b.mov", (95, 63)), ("c.mkv", (96, 64)), ("d.webm", (96, 64))]
)
def test_timing_size_and_sound_are_kept(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    source = clip(tmp_path / name, size)
    folder = video.decode(source, tmp_path / "frames")
    frames = sorted(folder.iterdir())
    assert [frame.name for frame in frames] == [f"{i:06}.png" for i in range(COUNT)]
    shown = np.asarray(Image.open(frames[2])).astype(int)
    assert shown.shape == (size[1], size[0], 3)
    assert np.abs(shown - np.asarray(picture(2, size)).astype(int)).mean() < 4
    Image.open(frames[2]).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(frames[2])
    stamp = frames[0].stat().st_mtime_ns
    assert video.decode(source, tmp_path / "frames") == folder and frames[0].stat().st_mtime_ns == stamp
    video.encode(source, frames, tmp_path / f"out{source.suffix}")
    assert seconds(tmp_path / f"out{source.suffix}") == pytest.approx(seconds(source), abs=0.002)
    assert sound(tmp_path / f"out{source.suffix}") == sound(source)
    again = sorted(video.decode(tmp_path / f"out{source.suffix}", tmp_path / "again").iterdir())
    assert (
        np.abs(np.asarray(Image.open(again[5])).astype(int) - np.asarray(Image.open(frames[5])).astype(int)).mean() < 4
    )


def test_an_animated_gif_keeps_its_frame_durations(tmp_path: Path) -> None:
    first, *others = [picture(i, (48, 32)) for i in range(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[40, 80, 120, 200], loop=0)
    first.save(tmp_path / "still.gif")
    assert video.is_clip(tmp_path / "a.gif") and not video.is_clip(tmp_path / "still.gif")
    frames = sorted(video.decode(tmp_path / "a.gif", tmp_path / "frames").iterdir())
    video.encode(tmp_path / "a.gif", frames, tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as result:
        times = []
        for number in range(result.n_frames):
            result.seek(number)
            times.append(result.info["duration"])
    assert times == [40, 80, 120, 200]


def test_damaged_videos_and_wrong_numbers_of_frames_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video at all")
    with pytest.raises(UserError, match=r"broken\.mp4"):
        video.decode(tmp_path / "broken.mp4", tmp_path / "frames")
    assert not any((tmp_path / "frames").glob("*"))
    source = clip(tmp_path / "a.mp4")
    frames = sorted(video.decode(source, tmp_path / "frames").iterdir())
    with pytest.raises(UserError, match="has 6 frames, but 4 were edited"):
        video.encode(source, frames[:4], tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
