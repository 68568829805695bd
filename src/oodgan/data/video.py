"""Video clips: decoded into frames, and encoded again with the same size, timing and sound (PyAV; GIF by Pillow)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence

from oodgan.errors import UserError
from oodgan.files import hash_of, replacing, writing
from oodgan.foreign import reading

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Clips that PyAV reads and writes, by extension. An animated GIF is a clip too."""


def is_clip(path: Path) -> bool:
    """Whether a file is a video by its extension, or a GIF with several frames."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in CONTAINERS
    try:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except OSError:  # no image at all: reported when it is read as a photo
        return False


def decode(clip: Path, folder: Path) -> Path:
    """Write the frames of a clip, upright, as `folder/<hash of the clip>/000000.png` ...; an existing folder is reused.

    Raises:
        UserError: the file is damaged or has no video, or the extra `video` is not installed.
    """
    frames = folder / hash_of(clip)[:16]
    if not frames.is_dir():
        with writing(frames) as temporary, reading(str(clip)):
            count = 0
            for count, picture in enumerate(_pictures(clip), 1):
                picture.save(temporary / f"{count - 1:06}.png", compress_level=1)
            if not count:
                raise UserError("it contains no video frames")
    return frames


def _pictures(clip: Path) -> Any:
    if clip.suffix.lower() == ".gif":
        with Image.open(clip) as animation:
            yield from (frame.convert("RGB") for frame in ImageSequence.Iterator(animation))
        return
    with _av().open(str(clip)) as source:
        for frame in source.decode(_video_of(source)):
            picture = frame.to_image()
            yield picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def encode(clip: Path, frames: Sequence[Path], target: Path) -> None:
    """Write `frames`, one for each frame of `clip`, as `target`, with the clip's timing and its sound unchanged.

    Raises:
        UserError: another number of frames than the clip has, or a target that cannot be written.
    """
    with replacing(target) as temporary:
        write = _write_gif if clip.suffix.lower() == ".gif" else _write_video
        count = write(clip, frames, temporary)
        if count != len(frames):
            raise UserError(f"{clip} has {count} frames, but {len(frames)} were edited")


def _write_gif(clip: Path, frames: Sequence[Path], target: Path) -> int:
    with Image.open(clip) as source:
        times = [frame.info.get("duration", 100) for frame in ImageSequence.Iterator(source)]
        loop = {"loop": source.info["loop"]} if "loop" in source.info else {}
    first, *others = [Image.open(path).convert("RGB") for path in frames]
    first.save(target, "GIF", save_all=True, append_images=others, duration=times[: len(frames)], **loop)
    return len(times)


def _write_video(clip: Path, frames: Sequence[Path], target: Path) -> int:
    av = _av()
    container = CONTAINERS[clip.suffix.lower()]
    with av.open(str(clip)) as source, av.open(str(target), "w", format=container) as output:
        video, sounds = _video_of(source), list(source.streams.audio)
        stream = output.add_stream("libvpx-vp9" if container == "webm" else "libx264", rate=video.average_rate)
        with Image.open(frames[0]) as first:
            stream.width, stream.height = first.size
        stream.pix_fmt = "yuv444p" if stream.width % 2 or stream.height % 2 else "yuv420p"  # 420 needs even sides
        stream.codec_context.time_base, stream.options = video.time_base, {"crf": "18"}  # keeps uneven timing
        copies = {sound.index: output.add_stream_from_template(sound) for sound in sounds}
        count = 0
        for packet in source.demux([video, *sounds]):
            if packet.stream.index in copies:
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    output.mux(packet)
                continue
            for frame in packet.decode():
                if count < len(frames):
                    output.mux(stream.encode(_frame(av, frames[count], frame)))
                count += 1
        output.mux(stream.encode(None))
    return count


def _frame(av: Any, path: Path, original: Any) -> Any:
    with Image.open(path) as picture:
        frame = av.VideoFrame.from_image(picture.convert("RGB"))
    frame.pts, frame.time_base = original.pts, original.time_base
    return frame


def _video_of(source: Any) -> Any:
    if not source.streams.video:
        raise UserError("it contains no video")
    return source.streams.video[0]


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("editing a video needs PyAV: pip install 'oodgan[video]'") from None
    return av
