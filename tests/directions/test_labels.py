"""Label files in their usual formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodgan.data.labels import read_labels
from oodgan.directions.geometry import measure
from oodgan.directions.labels import labels_of
from oodgan.errors import UserError

FFHQ = {
    "smile": 0.9, "age": 30.0, "gender": "male", "glasses": "ReadingGlasses", "beard": 0.4, "moustache": 0.2,
    "hair": {"blond": 0.9, "black": 0.1}, "yaw": 5.0, "lip_makeup": False, "accessories": [],
}  # fmt: skip


def test_long_and_wide_csv_give_the_same_labels(tmp_path: Path):
    (tmp_path / "long.csv").write_text("file,attribute,value\na.jpg,Smile,0.5\nb.jpg,Smile,1\na.jpg,Hat,yes\n")
    (tmp_path / "wide.csv").write_text("image,Smile,Hat\na.jpg,0.5,yes\nb.jpg,1,\n")
    wanted = {"smile": {"a.jpg": 0.5, "b.jpg": 1.0}, "hat": {"a.jpg": 1.0}}
    assert read_labels(tmp_path / "long.csv") == read_labels(tmp_path / "wide.csv") == wanted


def test_ffhq_features_are_read_in_compact_and_published_form(tmp_path: Path):
    published = {
        "smile": 0.9, "age": 30.0, "gender": "male", "glasses": "ReadingGlasses", "headPose": {"yaw": 5.0},
        "facialHair": {"beard": 0.4, "moustache": 0.2}, "makeup": {"lipMakeup": False},
        "hair": {"hairColor": [{"color": "blond", "confidence": 0.9}, {"color": "black", "confidence": 0.1}]},
    }  # fmt: skip
    (tmp_path / "compact.json").write_text(json.dumps({"00000": FFHQ, "00001": {**FFHQ, "glasses": "Sunglasses"}}))
    (tmp_path / "published.json").write_text(json.dumps({"00000": [{"faceAttributes": published}], "00001": []}))
    compact, theirs = read_labels(tmp_path / "compact.json"), read_labels(tmp_path / "published.json")
    for name, value in {"smile": 0.9, "gender": 1, "eyeglasses": 1, "beard": 0.3, "blond": 0.8, "yaw": 5}.items():
        assert compact[name]["00000"] == theirs[name]["00000"] == pytest.approx(value), name
    assert "00001" not in compact["eyeglasses"], "sunglasses get no label"


def test_celeba_attributes_are_read_with_the_right_sign(tmp_path: Path):
    text = "2\nSmiling Young No_Beard\n1.jpg  1 -1  1\n2.jpg -1  1 -1\n"
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(text.encode()))
    labels = read_labels(tmp_path / "list.txt.gz")
    first, second = "1.jpg", "2.jpg"
    assert labels == {
        "smile": {first: 1, second: -1}, "age": {first: 1, second: -1}, "beard": {first: -1, second: 1}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.csv", "", "is empty"),
        ("head.csv", "file,attribute,value\n", "no rows"),
        ("words.csv", "file,attribute,value\na,smile,much\n", "holds no labels"),
        ("holes.csv", "file,attribute,value\na,,1\n", "every row needs"),
        ("bad.json", "{", "not JSON"),
        ("none.json", "{}", "holds no labels"),
        ("bad.txt", "Smiling\n1 2\n3 4\n", "CelebA's attribute format"),
        ("short.txt", "1\nA B\nx.jpg 1\n", "the row of x.jpg has 1 values for 2 names"),
        ("labels.xls", "x", "expected"),
    ],
)
def test_invalid_label_files_are_one_line_errors(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_labels(tmp_path / name)
    assert message in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def _mask(mouth: int = 0, eye: int = 8, bangs: bool = False) -> np.ndarray:
    mask = np.zeros((256, 256), np.uint8)
    mask[50:220, 60:196] = 1
    mask[10:60, 60:196] = 13
    if bangs:
        mask[10:105, 60:196] = 13
    for label, left in ((4, 85), (5, 145)):
        mask[120 - eye // 2 : 120 + eye // 2, left : left + 26] = label
        mask[102:109, left : left + 26] = label + 2
    mask[175:180, 100:156] = 11
    mask[180 : 180 + mouth, 100:156] = 10
    mask[180 + mouth : 186 + mouth, 100:156] = 12
    return mask


def test_labels_measured_from_masks_change_with_the_face():
    image = np.full((256, 256, 3), 128, np.uint8)
    plain = measure(_mask(), image)
    assert measure(_mask(mouth=20), image)["mouth_open"] > plain["mouth_open"] == 0
    assert measure(_mask(eye=4), image)["narrow_eyes"] > plain["narrow_eyes"]
    assert measure(_mask(bangs=True), image)["bangs"] > plain["bangs"]
    dark = image.copy()
    dark[102:109] = 30
    assert measure(_mask(), dark)["bushy_eyebrows"] > plain["bushy_eyebrows"]
    light = image.copy()
    light[10:60] = 220
    assert measure(_mask(), light)["blond"] > plain["blond"]


def test_parts_hidden_by_glasses_or_a_hat_are_not_measured():
    image, mask = np.full((256, 256, 3), 128, np.uint8), _mask()
    mask[110:130, 80:176] = 3
    result = measure(mask, image)
    assert result["eyeglasses"] == 1 and "narrow_eyes" not in result and "bushy_eyebrows" not in result
    mask = _mask()
    mask[0:60] = 14
    assert not {"bald", "bangs", "blond"} & measure(mask, image).keys()


def test_masks_are_matched_to_images_by_name(tmp_path: Path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(_mask(mouth=10)).save(tmp_path / "masks" / "a.png")
    Image.new("RGB", (128, 128), "grey").save(tmp_path / "a.jpg")
    labels = labels_of(tmp_path / "masks", {"a.jpg": tmp_path / "a.jpg"})
    assert labels["mouth_open"]["a.jpg"] > 0
    with pytest.raises(UserError, match="none of the masks has the name of one of the images"):
        labels_of(tmp_path / "masks", {"b.jpg": tmp_path / "a.jpg"})
