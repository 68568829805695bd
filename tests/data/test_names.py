"""File names of masks, labels and results are matched to the right images."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodgan.data.files import Folder
from oodgan.data.names import Lookup, bare, clean, matched, short
from oodgan.data.splits import CelebAHQSplit, FFHQSplit, HashSplit, OnePart, assign
from oodgan.errors import UserError

PEOPLE = [f"{person}/{i}.png" for person in ("anna", "ben") for i in range(3)]


@pytest.mark.parametrize(
    ("names", "other", "image"),
    [
        (PEOPLE, "ben/1.png", "ben/1.png"),
        (PEOPLE, "ben/1", "ben/1.png"),
        (PEOPLE, "faces/ben/1.jpg", "ben/1.png"),
        (PEOPLE, "./ben/1.png", "ben/1.png"),
        (PEOPLE, "ben\\1.png", "ben/1.png"),
        (PEOPLE, "/data/set/ben/1.png", "ben/1.png"),
        (PEOPLE, "carl/1.png", None),
        (PEOPLE, "enben/1.png", None),
        (["00000/00012.png"], "00012.png", "00000/00012.png"),
        (["00000/00012.png"], "00012", "00000/00012.png"),
        (["00000/00012.png"], "1/00012.png", None),
        (["0.png"], "masks/0.png", "0.png"),
        (["0.png", "anna/0.png"], "0.png", "0.png"),
        (["0.png", "anna/0.png"], "anna/0.png", "anna/0.png"),
        (["a.png", "a.jpg"], "a.jpg", "a.jpg"),
        (["v1.0.png", "v1.1.png"], "v1.1", "v1.1.png"),
    ],
)
def test_a_name_is_matched_to_its_image(names: list[str], other: str, image: str | None) -> None:
    assert Lookup(names).find(other) == image


@pytest.mark.parametrize(
    ("names", "other"),
    [(PEOPLE, "1.png"), (["a.png", "a.jpg"], "a"), (["x/anna/0.png", "y/anna/0.png"], "anna/0.png")],
)
def test_a_name_that_matches_several_images_is_refused(names: list[str], other: str) -> None:
    with pytest.raises(UserError, match=rf"'{other}' matches '.*' and '.*' of the images"):
        Lookup(names).find(other)


def test_two_names_that_match_one_image_are_refused() -> None:
    with pytest.raises(UserError, match=r"'0\.png' and 'anna/0\.png' of the masks both belong to 'anna/0\.png'"):
        matched(["anna/0.png"], {"0.png": 1, "anna/0.png": 2}, kind="masks")


def test_the_error_without_any_match_shows_a_name_of_each_side() -> None:
    assert matched(PEOPLE, {"ben/2.png": 5, "other.png": 6}) == {"ben/2.png": 5}
    with pytest.raises(UserError, match=r"images are named like 'anna/0\.png', masks like 'x\.png'"):
        matched(PEOPLE, {"x.png": 1}, kind="masks")


def test_short_names_contain_folders_only_where_needed() -> None:
    assert short(["00000/1.png", "anna/0.png", "ben/0.jpg"]) == {
        "00000/1.png": "1", "anna/0.png": "anna/0", "ben/0.jpg": "ben/0"
    }  # fmt: skip
    assert bare("a.b/c") == "a.b/c" and bare("c.tar.PNG") == "c.tar" and clean(" a//b/./c ") == "a/b/c"


def test_the_hash_split_separates_people_and_ignores_moved_files() -> None:
    flat = [f"{i:05d}.png" for i in range(400)]
    assert assign(HashSplit(), [f"a/b/{name}" for name in flat]) == [HashSplit()(name) for name in flat]
    one_each = [f"person{i}/face.jpg" for i in range(400)]
    parts = assign(HashSplit(0.2, 0.2), one_each)
    assert 50 < parts.count("test") < 110 and 50 < parts.count("val") < 110
    assert assign(HashSplit(0.5, 0), [*flat, *PEOPLE])[:400] == assign(HashSplit(0.5, 0), flat)


def test_splits_by_number_refuse_duplicate_numbers(tmp_path: Path) -> None:
    (tmp_path / "map").write_text("0 1 a.jpg\n1 2 b.jpg\n")
    (tmp_path / "part").write_text("a.jpg 0\nb.jpg 2\n")
    celeba = CelebAHQSplit(tmp_path / "map", tmp_path / "part")
    assert assign(celeba, ["x/0.jpg", "y/1.jpg"]) == ["train", "test"]
    for split, dataset in ((celeba, "CelebA-HQ"), (FFHQSplit(), "FFHQ")):
        with pytest.raises(UserError, match=rf"'anna/0\.png' and 'ben/00\.png' have one {dataset} number"):
            assign(split, ["anna/0.png", "ben/00.png"])
    assert assign(OnePart("val"), PEOPLE) == ["val"] * 6


def test_masks_are_matched_to_the_faces_of_their_person(tmp_path: Path, draw_face) -> None:
    import numpy as np
    from PIL import Image

    for value, name in enumerate(PEOPLE, 1):
        for folder, picture in (
            ("faces", draw_face(value)),
            ("masks", Image.fromarray(np.full((8, 8), value, "uint8"))),
        ):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / folder / name)
    source = Folder(tmp_path / "faces", 16, parsing=tmp_path / "masks")
    assert [int(source[i]["parsing"].unique()) for i in range(6)] == [1, 2, 3, 4, 5, 6]
    (tmp_path / "masks" / "anna" / "0.png").rename(tmp_path / "masks" / "0.png")
    with pytest.raises(UserError, match=r"'0\.png' matches"):
        Folder(tmp_path / "faces", 16, parsing=tmp_path / "masks")
