"""Face detection, the FFHQ crop, and pasting the crop back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from oodgan.data import align as alignment
from oodgan.data import images
from oodgan.data.align import Aligned, align, align_photo, choose, ffhq_quad, paste_back
from oodgan.data.detect import Face, detect_faces, suppress
from oodgan.errors import UserError

LANDMARKS = np.array([[80, 90], [120, 90], [100, 110], [84, 130], [116, 130]], dtype=np.float64)


def smooth_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def square(centre: tuple[float, float], side: float, degrees: float) -> np.ndarray:
    turn = np.radians(degrees)
    x = np.array([np.cos(turn), np.sin(turn)]) * side / 2
    y = np.array([-x[1], x[0]])
    return np.array([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def test_suppress_keeps_the_best_box_of_each_cluster() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60], [52, 52, 56, 56]], dtype=np.float32)
    scores = np.array([0.5, 0.9, 0.8, 0.7], dtype=np.float32)
    assert suppress(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert suppress(boxes, scores, 0.5, by_smaller=True).tolist() == [1, 2]


def test_the_face_and_landmarks_of_the_astronaut_are_detected(astronaut: Image.Image) -> None:
    faces = detect_faces(astronaut)
    assert len(faces) == 1 and faces[0].score > 0.99
    expected = [[204, 104], [247, 106], [224, 131], [202, 142], [246, 144]]
    assert np.abs(faces[0].landmarks - expected).max() < 3


def test_a_mirrored_photo_has_mirrored_landmarks(astronaut: Image.Image) -> None:
    plain = detect_faces(astronaut)[0].landmarks
    turned = detect_faces(astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[0].landmarks[[1, 0, 2, 4, 3]]
    assert np.abs(plain[:, 0] - (512 - turned[:, 0])).max() < 1.5
    assert np.abs(plain[:, 1] - turned[:, 1]).max() < 1.5


def test_several_faces_are_sorted_by_size_and_selected(astronaut: Image.Image) -> None:
    wide = Image.new("RGB", (900, 512))
    wide.paste(astronaut.resize((300, 300)), (0, 0))
    wide.paste(astronaut, (388, 0))
    faces = detect_faces(wide)
    assert len(faces) == 2 and faces[0].size > faces[1].size and faces[0].box[0] > 388
    with pytest.warns(UserWarning, match="2 faces in wide.jpg"):
        assert choose(faces, "largest", "wide.jpg") == faces[:1]
    assert choose(faces, "all") == faces and choose(faces, "1") == choose(faces, 1) == faces[1:]
    for wrong in (2, -1, "biggest"):
        with pytest.raises(UserError, match=f"face={wrong}"):
            choose(faces, wrong)


def test_a_photo_without_a_face_is_an_error() -> None:
    for photo in (smooth_photo(200, 160), Image.new("RGB", (4, 4))):
        with pytest.raises(UserError, match=r"no face found in blank\.jpg"):
            align_photo(photo, 64, name="blank.jpg")


def test_a_tiny_face_gives_a_warning(astronaut: Image.Image) -> None:
    with pytest.warns(UserWarning, match="only 4[0-9] px"):
        assert align_photo(astronaut.resize((256, 256)), 64)[0].photo.shape == (3, 64, 64)


def test_the_quad_follows_the_published_formula() -> None:
    # Level eyes 40 px apart, mouth 40 px below: half side = max(40 x 2, 40 x 1.8) = 80, centre = eyes + 4 px down.
    quad = ffhq_quad(LANDMARKS)
    assert np.ptp(quad[:, 0]) == pytest.approx(160 * alignment.SCALE) == pytest.approx(np.ptp(quad[:, 1]))
    assert quad.mean(axis=0) == pytest.approx([100, 94 + 160 * alignment.OFFSET[1]])
    assert quad[0] == pytest.approx(quad.min(axis=0)) and quad[2] == pytest.approx(quad.max(axis=0))
    with pytest.raises(UserError, match="coincide"):
        ffhq_quad(np.ones((5, 2)))


@given(angle=st.floats(-180, 180), scale=st.floats(0.1, 10), dx=st.floats(-500, 500), dy=st.floats(-500, 500))
def test_the_quad_moves_turns_and_scales_with_the_face(angle: float, scale: float, dx: float, dy: float) -> None:
    turn = np.radians(angle)
    matrix = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    moved = ffhq_quad(LANDMARKS @ matrix + [dx, dy])
    assert np.allclose(moved, ffhq_quad(LANDMARKS) @ matrix + [dx, dy], atol=1e-6 * max(1, scale))


def test_an_upright_crop_at_whole_pixels_equals_the_photo() -> None:
    photo = smooth_photo(96, 80)
    crop = align(photo, square((48, 40), 32, 0), 32)
    assert images.to_pil(crop.photo).tobytes() == photo.crop((32, 24, 64, 56)).tobytes()
    assert np.allclose(crop.matrix, [[1, 0, 32], [0, 1, 24]])


def test_a_crop_turned_by_90_degrees_is_exact() -> None:
    photo = smooth_photo(64, 64)
    crop = align(photo, square((32, 32), 32, 90), 32)
    turned = photo.crop((16, 16, 48, 48)).transpose(Image.Transpose.ROTATE_90)
    assert np.abs(np.asarray(images.to_pil(crop.photo)).astype(int) - np.asarray(turned)).max() <= 1


def test_downscaling_is_antialiased() -> None:
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    crop = align(Image.fromarray(stripes), square((256, 256), 400, 10), 64).photo
    assert crop[:, 2:-2, 2:-2].abs().max() < 0.1


def test_outside_the_photo_a_crop_is_mirrored_and_fades_to_the_median() -> None:
    photo = smooth_photo(100, 100)
    crop = align(photo, square((10, 50), 60, 0), 60).photo  # columns 0 to 19 are outside the photo
    inner = align(photo, square((40, 50), 60, 0), 60).photo  # starts at column 10 of the photo
    assert (crop[:, :, 40:] - inner[:, :, 10:30]).abs().mean() < 0.05
    near, image = crop[:, :, 18:20], crop[:, :, 20:22].flip(2)
    assert (near - image).abs().mean() < 0.1
    median = torch.from_numpy(np.median(np.asarray(photo)[:, :50], axis=(0, 1)) / 127.5 - 1).float()
    far = (crop[:, :, 0] - median[:, None]).abs().mean()
    mirrored = (crop[:, :, 39] - median[:, None]).abs().mean()
    assert far < 0.6 * mirrored
    with pytest.raises(UserError, match="outside"):
        align(photo, square((-500, -500), 40, 0), 32)


def test_aligned_photos_are_only_resized(draw_face: Callable[..., Image.Image]) -> None:
    face = draw_face(3, 64)
    (crop,) = align_photo(face, 64, aligned=True)
    assert images.to_pil(crop.photo).tobytes() == face.tobytes() and crop.side == 64
    (wide,) = align_photo(smooth_photo(90, 60), 30, aligned=True)
    assert wide.quad[0].tolist() == [15, 0] and wide.quad[2].tolist() == [75, 60]


QUADS = st.builds(
    square,
    st.tuples(st.floats(10, 130), st.floats(10, 90)).map(np.array),
    st.floats(24, 90),
    st.floats(-60, 60),
)
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outside(quad: np.ndarray, width: int, height: int) -> np.ndarray:
    """Returns the pixels whose centre is outside the square, with a small tolerance."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = np.stack([x, y], axis=-1) - quad[0]
    a, b = quad[3] - quad[0], quad[1] - quad[0]
    u, v = points @ a / (a @ a), points @ b / (b @ b)
    return np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) < -1e-4


@QUICK
@given(quad=QUADS, size=st.sampled_from([16, 48, 96]), detail=st.booleans(), seed=st.integers(0, 5))
def test_pasting_changes_no_pixel_outside_the_crop(quad: np.ndarray, size: int, detail: bool, seed: int) -> None:
    photo = smooth_photo(140, 100, seed)
    crop = align(photo, quad, size)
    result = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    pasted = paste_back(photo, result, crop, keep_detail=detail)
    before, after = np.asarray(photo), np.asarray(pasted)
    away = outside(quad, 140, 100)
    assert (before[away] == after[away]).all()
    assert (before != after).any()


@QUICK
@given(quad=QUADS, size=st.sampled_from([16, 48, 96]), seed=st.integers(0, 5))
def test_pasting_the_unchanged_crop_returns_the_identical_photo(quad: np.ndarray, size: int, seed: int) -> None:
    photo = smooth_photo(140, 100, seed)
    crop = align(photo, quad, size)
    assert paste_back(photo, crop.photo, crop).tobytes() == photo.tobytes()


@QUICK
@given(quad=st.builds(square, st.just(np.array([70.0, 50.0])), st.floats(30, 60), st.floats(-45, 45)))
def test_resampling_the_whole_crop_changes_the_photo_only_slightly(quad: np.ndarray) -> None:
    photo = smooth_photo(140, 100)
    crop = align(photo, quad, 96)
    replaced = np.asarray(paste_back(photo, crop.photo, crop, keep_detail=False)).astype(int)
    assert np.abs(replaced - np.asarray(photo)).max() <= 6


@pytest.mark.parametrize("size", [32, 64, 256])
def test_a_uniform_change_is_full_in_the_middle_and_fades_at_the_border(size: int) -> None:
    photo = Image.fromarray(np.full((120, 120, 3), 100, dtype=np.uint8))
    crop = align(photo, square((60, 60), 64, 20), size)
    pasted = np.asarray(paste_back(photo, crop.photo + 0.4, crop)).astype(int)
    assert (np.abs(pasted[50:70, 50:70] - 151) <= 1).all()
    steps = np.abs(np.diff(pasted[60, :, 0]))
    assert steps.max() < 25 and pasted.min() == 100


def test_a_mask_limits_the_pasted_change() -> None:
    photo = smooth_photo(120, 120)
    crop = align(photo, square((60, 60), 64, 0), 64)
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    pasted = np.asarray(paste_back(photo, torch.ones(3, 64, 64), crop, mask))
    assert (pasted[:, :58] == np.asarray(photo)[:, :58]).all()
    assert (pasted[40:80, 66:80] >= 254).all()


def test_paste_back_refuses_a_result_of_another_size() -> None:
    crop = Aligned(torch.zeros(3, 16, 16), square((8, 8), 16, 0))
    with pytest.raises(ValueError, match="16, 16"):
        paste_back(smooth_photo(16, 16), torch.zeros(3, 8, 8), crop)


def test_the_crop_of_an_ffhq_photo_is_nearly_the_whole_photo(shared: Path) -> None:
    """On photos aligned by FFHQ's authors, our crop is nearly the whole picture."""
    # The photos with even numbers were used for calibration.
    files = sorted((shared / "data" / "ffhq256" / "images").glob("*.jpg"))[1:60:3]
    quads = np.array([ffhq_quad(detect_faces(Image.open(f).convert("RGB"))[0].landmarks) / 256 for f in files])
    shift = np.hypot(*(quads.mean(axis=1) - 0.5).T)
    scale = np.hypot(*(quads[:, 3] - quads[:, 0]).T)
    assert np.median(shift) < 0.01 and np.percentile(shift, 90) < 0.03
    assert abs(np.median(scale) - 1) < 0.02 and np.percentile(np.abs(scale - 1), 90) < 0.1


def test_the_size_of_a_face_is_its_shorter_side() -> None:
    face = Face((10, 20, 50, 80), 0.9, LANDMARKS)
    assert face.size == 40
