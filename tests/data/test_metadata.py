"""Photos with damaged metadata: the pixels are read in the recorded orientation, and invalid entries are dropped."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from oodgan.data import images, metadata
from oodgan.editing.subject import read_picture
from oodgan.errors import UserError

MAKE, MODEL, DATE, COPYRIGHT, DESCRIPTION, ORIENTATION = 0x010F, 0x0110, 0x0132, 0x8298, 0x010E, 0x0112
_WHOLE: dict[str, bytes] = {}
FORMS = ("jpg", "png", "webp", "tif", "avif")


def picture() -> Image.Image:
    y, x = np.mgrid[:24, :40]
    return Image.fromarray(np.stack([x * 6, y * 10, 255 - x * 6], -1).astype(np.uint8))


def camera_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[MAKE], exif[MODEL], exif[DATE], exif[COPYRIGHT] = "ACME", "One", "2020:01:02 03:04:05", "(c) someone"
    exif[ORIENTATION] = orientation
    exif[0x8769] = {0x829A: 0.01, 0x9003: "2020:01:02 03:04:05", 0x927C: b"maker's own" * 9}
    exif[0x8825] = {1: "N", 2: (52.0, 30.0, 0.0)}
    return exif


def saved(form: str, exif: Image.Exif | bytes) -> bytes:
    data = io.BytesIO()
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}, "avif": {"quality": 98}}
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(form, form.upper())
    picture().save(data, kind, exif=exif if isinstance(exif, bytes) else exif.tobytes(), **options.get(form, {}))
    return data.getvalue()


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).mean())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("to", ["jpg", "png", "webp"])
def test_camera_metadata_is_kept_from_every_format(form: str, to: str, tmp_path: Path) -> None:
    photo = images.open_photo(io.BytesIO(saved(form, camera_exif(6))))
    assert (
        photo.image.size == (24, 40)
        and mean_difference(photo.image, picture().transpose(Image.Transpose.ROTATE_270)) < 4
    )
    path = images.write_image(photo.image, tmp_path / f"a.{to}", exif=photo.exif)
    with Image.open(path) as copy:
        exif = copy.getexif()
    assert {exif[MAKE], exif[DATE], exif[COPYRIGHT]} == {"ACME", "2020:01:02 03:04:05", "(c) someone"}
    assert ORIENTATION not in exif and not {256, 257, 258, 259, 273, 277, 279} & set(exif), (
        "no entry about the old file"
    )
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05" and exif.get_ifd(0x8825)[1] == "N"
    assert images.read_size(path) == (24, 40) and images.read_size(io.BytesIO(saved(form, camera_exif(6)))) == (24, 40)


WRONG = {
    "rational too large": (MAKE, 5, (-1, 0)),
    "text as orientation": (ORIENTATION, 2, b"6\0"),
    "orientation 9": (ORIENTATION, 3, 9),
    "resolution unit": (0x0128, 4, 99999),
    "pointer to nowhere": (0x8769, 4, 10**6),
    "pointer to itself": (0x8769, 4, 8),
    "gps is text": (0x8825, 2, b"no\0\0"),
    "unknown type": (MAKE, 99, 7),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_invalid_metadata_entries_are_dropped_and_others_kept(wrong: tuple, tmp_path: Path) -> None:
    tag, kind, value = wrong
    cell = struct.pack("<i", value) if isinstance(value, int) else value if isinstance(value, bytes) else b"\x26\0\0\0"
    entries = sorted([(tag, kind, 1, cell.ljust(4, b"\0")), (DESCRIPTION, 2, 4, b"abc\0")])
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in entries) + bytes(4) + struct.pack("<ii", -1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        photo = images.open_photo(io.BytesIO(saved("jpg", b"Exif\0\0" + tiff)))
    assert photo.image.size == (40, 24), "an invalid orientation is ignored"
    images.write_image(photo.image, tmp_path / "a.jpg", exif=photo.exif)
    with Image.open(tmp_path / "a.jpg") as copy:
        assert copy.getexif()[DESCRIPTION] == "abc"


@pytest.mark.parametrize("exif", [b"b'Exif\\x00\\x00II*'", b"Exif\0\0", b"Exif\0\0not a tiff", b"Exif\0\0II*\0"])
def test_invalid_exif_does_not_affect_the_pixels(exif: bytes) -> None:
    for form in ("png", "jpg", "webp"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            photo = images.open_photo(io.BytesIO(saved(form, exif)))
        assert photo.exif is None and photo.image.size == (40, 24)


def test_a_png_with_invalid_text_or_checksum_is_read() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a face " * 400_000, zip=True)
    text.add_text("Raw profile type exif", "no hexadecimal")
    data = io.BytesIO()
    picture().save(data, "PNG", pnginfo=text)
    broken = bytearray(saved("png", camera_exif()))
    at = broken.index(b"eXIf")
    broken[at + 20] ^= 1
    for content in (data.getvalue(), bytes(broken)):
        with pytest.warns(UserWarning, match="metadata"):
            photo = images.open_photo(io.BytesIO(content), "a.png")
        assert mean_difference(photo.image, picture()) == 0


def test_dropped_metadata_is_reported_once_when_editing_and_not_in_training() -> None:
    data = io.BytesIO(saved("png", b"Exif\0\0not a tiff"))
    with pytest.warns(UserWarning, match=r"EXIF\) of a\.png are damaged"):
        images.open_photo(data, "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.read_image(data, "a.png").shape == (3, 24, 40)


@pytest.mark.parametrize("tag", [DESCRIPTION, 0x927C], ids=["in the main part", "maker note"])
def test_metadata_too_large_for_a_jpg_is_reported_and_dropped(tag: int, tmp_path: Path) -> None:
    exif = camera_exif()
    if tag == DESCRIPTION:
        exif[tag] = "prompt " * 12_000
    else:
        exif[0x8769] = {0x9003: "2020:01:02 03:04:05", tag: b"x" * 70_000}
    photo = images.open_photo(io.BytesIO(saved("png", exif)))
    assert photo.exif is not None and len(photo.exif) > metadata.MAX_JPEG
    with pytest.warns(UserWarning, match=r"64 kB.*(ImageDescription|MakerNote) left out"):
        images.write_image(photo.image, tmp_path / "a.jpg", exif=photo.exif)
    with Image.open(tmp_path / "a.jpg") as copy:
        kept = copy.getexif()
        assert kept[MAKE] == "ACME" and kept.get_ifd(0x8769)[0x9003] and tag not in {*kept, *kept.get_ifd(0x8769)}
    for form in ("png", "webp"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            images.write_image(photo.image, tmp_path / f"a.{form}", exif=photo.exif)


def _metadata_position(data: bytes, form: str) -> slice:
    """Returns the position of the metadata in a file."""
    start = data.index(b"ACME")
    at = data.rindex(b"II*\0" if b"II*\0" in data else b"MM\0*", 0, start) if form != "tif" else 0
    return slice(at, data.index(b"(c) someone") + 11) if form != "tif" else slice(start, len(data))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(FORMS),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_corrupted_metadata_never_affects_the_pixels(
    form: str, changes: list[tuple[float, int]], tmp_path: Path
) -> None:
    whole = _WHOLE.setdefault(form, saved(form, camera_exif(6)))
    data, place = bytearray(whole), _metadata_position(whole, form)
    for share, byte in changes:
        data[place.start + int(share * (place.stop - place.start - 1))] = byte
    if form == "png":  # half of them with a correct checksum
        at = data.index(b"eXIf")
        (size,) = struct.unpack_from(">I", data, at - 4)
        if changes[0][1] % 2:
            data[at + 4 + size : at + 8 + size] = struct.pack(">I", zlib.crc32(data[at : at + 4 + size]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        photo = images.open_photo(io.BytesIO(bytes(data)), "fuzzed")
        assert sorted(photo.image.size) == [24, 40]
        images.read_image(io.BytesIO(bytes(data)))
        _read_as_pillow_image(bytes(data))
        for to in ("jpg", "png", "webp"):
            images.write_image(photo.image, tmp_path / f"a.{to}", exif=photo.exif, icc=photo.icc)
            with Image.open(tmp_path / f"a.{to}") as copy:
                exif = copy.getexif()
                assert all(exif[tag] is not None for tag in exif)


def _read_as_pillow_image(data: bytes) -> None:
    """A photo that Pillow opens, as for `editor.edit(Image.open(...))`, is read or raises a one-line error."""
    try:
        opened = Image.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError):
        return
    try:
        assert sorted(read_picture(opened).image.size) == [24, 40]
    except UserError as error:
        assert "cannot be read" in str(error)


@settings(deadline=None, max_examples=300)
@given(form=st.sampled_from(FORMS), place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.floats(0, 1))
def test_a_damaged_file_is_read_or_a_one_line_error(form: str, place: float, byte: int, cut: float) -> None:
    data = bytearray(_WHOLE.setdefault(form, saved(form, camera_exif(6))))
    data[int(place * (len(data) - 1))] = byte
    if cut < 0.3:
        del data[int(place * len(data)) :]
    for read in (images.open_photo, images.read_image, images.read_size, images.read_mask):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(io.BytesIO(bytes(data)), "fuzzed")
            except UserError as error:
                assert str(error).startswith("fuzzed") and "\n" not in str(error)


def test_every_image_format_of_phones_and_cameras_is_read(
    tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    face = draw_face(1, 64)
    for ending in (".jpe", ".jfif", ".mpo", ".gif", ".ppm", ".avif", ".jp2", ".tga", ".bmp", ".apng"):
        kind = {".jpe": "JPEG", ".jfif": "JPEG", ".apng": "PNG", ".jp2": "JPEG2000"}.get(ending, ending[1:].upper())
        face.save(tmp_path / f"a{ending}", kind)
        assert mean_difference(images.open_photo(tmp_path / f"a{ending}").image, face) < 8, ending
        assert ending in images.SUFFIXES


def test_an_iphone_photo_is_read_upright_with_its_metadata(draw_face: Callable[..., Image.Image]) -> None:
    pytest.importorskip("pi_heif")
    photo = images.open_photo(Path(__file__).with_name("turned.heic"))
    assert mean_difference(photo.image, draw_face(3, 64)) < 5, "the photo is turned upright"
    assert photo.exif is not None and b"ACME" in photo.exif
