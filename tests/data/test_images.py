"""Reading and writing images: every mode, rotation and kind of damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.data import images
from oodgan.errors import UserError


def gradient(width: int = 20, height: int = 12) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).round().astype(np.uint8))


def test_every_pixel_value_is_unchanged_after_conversion_to_a_tensor_and_back() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([values, values.T, 255 - values], axis=-1))
    tensor = images.from_pil(picture)
    assert tensor.shape == (3, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    assert images.to_pil(tensor).tobytes() == picture.tobytes()


def test_to_uint8_rounds_and_clamps() -> None:
    x = torch.tensor([-1.2, -1.0, 0.0039, 1.0, 1.3, 127.6 / 127.5 - 1])
    assert images.to_uint8(x).tolist() == [0, 0, 128, 255, 255, 128]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_written_image_is_read_back(tmp_path: Path, suffix: str) -> None:
    tensor = images.from_pil(gradient(64, 48))
    path = images.write_image(tensor, tmp_path / "deep" / f"a{suffix}")
    back = images.read_image(path)
    assert back.shape == (3, 48, 64)
    assert (back - tensor).abs().mean() < (1e-7 if suffix == ".png" else 0.05)
    assert [p.name for p in path.parent.iterdir()] == [f"a{suffix}"]


def test_a_format_too_small_for_the_image_is_refused_before_writing(tmp_path: Path) -> None:
    wide = Image.new("RGB", (16400, 1))
    with pytest.raises(
        UserError, match=r"wide\.webp: WEBP holds at most 16383 pixels a side, not 16400 x 1; png holds"
    ):
        images.write_image(wide, tmp_path / "wide.webp")
    assert not list(tmp_path.iterdir()) and images.write_image(wide, tmp_path / "wide.jpg").is_file()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = images.write_image(gradient(), tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        images.write_image(torch.full((3, 4, 4), float("nan")), path)
    with pytest.raises(UserError, match="cannot write"):
        images.write_image(gradient(), path / "below_a_file.png")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_an_unknown_file_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean '\.jpeg'"):
        images.write_image(gradient(), tmp_path / "a.jpegg")


def test_metadata_is_kept_without_the_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    gradient(20, 12).save(tmp_path / "turned.jpg", exif=exif, icc_profile=b"profile", quality=100, subsampling=0)
    photo = images.open_photo(tmp_path / "turned.jpg")
    assert photo.image.size == (12, 20)
    expected = np.asarray(gradient(20, 12).transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(photo.image).astype(int) - expected).mean() < 4
    copy = Image.open(images.write_image(photo.image, tmp_path / "b.jpg", exif=photo.exif, icc=photo.icc))
    assert copy.getexif()[0x010F] == "Maker" and 0x0112 not in copy.getexif()
    assert copy.info["icc_profile"] == b"profile"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "YCbCr"])
def test_images_of_every_mode_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")
    gradient().convert(mode).save(tmp_path / f"a.{suffix}")
    tensor = images.read_image(tmp_path / f"a.{suffix}")
    reference = images.from_pil(gradient().convert("L").convert("RGB") if mode in ("L", "LA") else gradient())
    assert tensor.shape == (3, 12, 20) and tensor.dtype == torch.float32
    assert (tensor - reference).abs().mean() < {"P": 0.15, "YCbCr": 0.15}.get(mode, 0.02)


def test_transparent_pixels_are_blended_with_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = images.read_image(tmp_path / "a.png")
    assert (tensor[:, :2] == -1).all() and (tensor[:, 2:] == 1).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_values_are_scaled_instead_of_truncated(tmp_path: Path, suffix: str) -> None:
    wide = np.array([[0, 257 * 200, 65535, 257 * 10 + 200]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / f"a.{suffix}")
    tensor = images.read_image(tmp_path / f"a.{suffix}")
    assert images.to_uint8(tensor)[0].tolist() == [[0, 200, 255, 11]]


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_the_error_for_a_damaged_file_names_it(tmp_path: Path, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "webp"):
        path = tmp_path / f"broken.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        with pytest.raises(UserError, match=f"broken.{suffix}") as error:
            images.read_image(path)
        assert "\n" not in str(error.value)


def test_a_missing_file_a_folder_and_a_text_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "note.jpg").write_text("not a picture")
    for path, words in (
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "folder"),
        (tmp_path / "note.jpg", "not an"),
    ):
        with pytest.raises(UserError, match=words):
            images.read_image(path)


def test_50_megapixels_are_read_and_larger_bombs_refused(tmp_path: Path) -> None:
    Image.new("L", (10_000, 5_000), 200).save(tmp_path / "big.png")
    assert images.open_photo(tmp_path / "big.png").image.size == (10_000, 5_000)
    for side in (11_000, 20_000):
        Image.new("1", (side, side)).save(tmp_path / "bomb.png")
        with pytest.raises(UserError, match=r"bomb.png is too large.*100 million"):
            images.open_photo(tmp_path / "bomb.png")


def test_resize_is_antialiased_and_stays_in_range() -> None:
    stripes = torch.ones(2, 3, 64, 64)
    stripes[..., ::2] = -1
    for name in ("bicubic", "area"):
        small = images.resize(stripes, 21, name)
        assert small.shape == (2, 3, 21, 21) and small[..., 2:-2].abs().max() < 0.4
    edge = torch.ones(3, 8, 8)
    edge[..., :4] = -1
    large = images.resize(edge, (32, 16))
    assert large.shape == (3, 32, 16) and large.min() >= -1 and large.max() <= 1
    assert images.resize(edge, 8) is edge
    with pytest.raises(UserError, match="did you mean 'bicubic'"):
        images.resize(edge, 4, "bicubik")


def test_mask_to_pil_rounds() -> None:
    assert list(images.mask_to_pil(torch.tensor([[[0.0, 0.5, 1.0]]])).tobytes()) == [0, 128, 255]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_an_endless_file_is_not_read_completely(tmp_path: Path) -> None:
    assert images._bytes("/dev/zero") is None
    with pytest.raises(UserError, match="/dev/zero is not an image that can be read"):
        images.read_image("/dev/zero")
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(2**29)
    assert images._bytes(tmp_path / "large.jpg") is None
