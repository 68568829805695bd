"""Photos of every kind in an evaluation: EXIF rotation, 16 bit, one folder per person, invalid masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.errors import UserError
from oodgan.evaluation import report
from oodgan.evaluation.pairs import Photos, match
from oodgan.evaluation.protocol import Protocol
from oodgan.evaluation.score import PairDataset, read_mask
from oodgan.evaluation.summary import _mean

Draw = Callable[..., Image.Image]
SMALL = {"resolution": 32, "metrics": ["psnr"]}


def save_rotated(picture: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.rotate(90, expand=True).save(path, exif=exif)


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def test_sheets_show_exif_rotated_photos_upright_and_16_bit_photos_unchanged(tmp_path: Path, draw_face: Draw) -> None:
    face = draw_face(3, 64)
    save_rotated(face, tmp_path / "turned.png")
    assert mean_difference(report.thumbnail(tmp_path / "turned.png", 64), face) == 0
    grey = np.asarray(face.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    assert mean_difference(report.thumbnail(tmp_path / "grey.png", 64), face.convert("L").convert("RGB")) == 0
    assert torch.equal(read_mask(tmp_path / "grey.png", 64), torch.from_numpy(grey.astype(np.float32))[None] / 255)


def test_rotated_photos_are_matched_with_their_results(tmp_path: Path, draw_face: Draw) -> None:
    for i in range(3):
        save_rotated(draw_face(i, 32), tmp_path / "photos" / f"{i}.png")
        (tmp_path / "ours").mkdir(exist_ok=True)
        draw_face(i, 32).save(tmp_path / "ours" / f"{i}.webp", lossless=True)
    pairs = match(tmp_path / "photos", {"ours": str(tmp_path / "ours")}, Protocol(**SMALL), tmp_path / "made")
    for item in (PairDataset(pairs, Protocol(**SMALL))[i] for i in range(3)):
        assert torch.equal(item["photo"], item["results"]["ours"])


def test_photos_of_several_people_with_the_same_file_names_are_matched_by_folder(
    tmp_path: Path, draw_face: Draw
) -> None:
    for seed, person in enumerate(("anna", "ben")):
        for folder in ("photos", "ours"):
            (tmp_path / folder / person).mkdir(parents=True)
            draw_face(seed, 32).save(tmp_path / folder / person / "0.png")
    methods = {"ours": str(tmp_path / "ours"), "again": "inversion"}
    pairs = match(tmp_path / "photos", methods, Protocol(**SMALL), tmp_path / "made")
    assert [pair.name for pair in pairs] == ["anna/0", "ben/0"]
    assert [pair.results["ours"].parent.name for pair in pairs] == ["anna", "ben"]
    assert pairs[1].results["again"] == tmp_path / "made" / "again" / "ben" / "0.png"
    draw_face(5, 32).save(tmp_path / "ours" / "0.png")
    with pytest.raises(UserError, match=r"'0\.png' matches 'anna/0\.png' and 'ben/0\.png' of the photos"):
        match(tmp_path / "photos", methods, Protocol(**SMALL), tmp_path / "made")
    draw_face(6, 32).save(tmp_path / "photos" / "ben" / "0.jpg")
    with pytest.raises(UserError, match="differ by their endings only"):
        Photos.of(tmp_path / "photos")


@pytest.mark.parametrize(("value", "mode"), [(255, "L"), (19, "L"), (0, "RGB")])
def test_masks_that_are_not_parsing_masks_are_refused_before_scoring(
    value: int, mode: str, tmp_path: Path, draw_face: Draw
) -> None:
    for folder in ("photos", "ours", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        draw_face(i, 32).save(tmp_path / "photos" / f"{i}.png")
        draw_face(i, 32).save(tmp_path / "ours" / f"{i}.png")
        Image.new(mode, (16, 16), value if i and mode == "L" else 0).save(tmp_path / "masks" / f"{i}.png")
    message = "mode RGB" if mode == "RGB" else f"value {value}, and classes are 0 to 18"
    with pytest.raises(UserError, match=rf"[01]\.png is not a parsing mask: {message}"):
        match(
            tmp_path / "photos", {"ours": str(tmp_path / "ours")}, Protocol(**SMALL), tmp_path / "m", tmp_path / "masks"
        )


def test_nan_is_omitted_in_json_and_shown_as_not_available() -> None:
    entry = _mean(float("nan"), 1)
    assert entry == {"count": 1} and report.number(entry) == "n/a"
    assert report.number(json.loads('{"mean": null, "count": 2}')) == "n/a"
