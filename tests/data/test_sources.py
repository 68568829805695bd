"""Folders, archives, generated samples, mixtures and splits."""

from __future__ import annotations

import gzip
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.data import images
from oodgan.data.sources import Folder, Generated, Mix, Zip
from oodgan.data.splits import CelebAHQSplit, FFHQSplit, HashSplit, OnePart
from oodgan.errors import UserError
from oodgan.generators.stylegan2 import StyleGAN2


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return StyleGAN2(resolution=16, max_channels=8, n_mlp=2).eval().requires_grad_(False)


def test_a_folder_is_read_recursively_in_order_without_hidden_files(
    tiny_faces: Path, draw_face: Callable[..., Image.Image]
) -> None:
    draw_face(50).save(tiny_faces / "later.JPG", format="JPEG")
    (tiny_faces / ".thumbs").mkdir()
    draw_face(51).save(tiny_faces / ".thumbs" / "00000.png")
    (tiny_faces / "notes.txt").write_text("not an image")
    source = Folder(tiny_faces, size=48)
    assert [source.name(i) for i in range(len(source))] == [f"00000/{i:05d}.png" for i in range(12)] + ["later.JPG"]
    sample = source[3]
    assert sample["name"] == "00000/00003.png" and sample["image"].dtype == torch.float32
    assert images.to_pil(sample["image"]).tobytes() == draw_face(3).tobytes()
    source.set_size(16)
    assert torch.equal(source[3]["image"], images.resize(sample["image"], 16))


def test_pictures_that_are_not_square_are_cropped_at_the_centre(tmp_path: Path) -> None:
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 10:20] = 255
    Image.fromarray(stripes).save(tmp_path / "wide.png")
    assert (Folder(tmp_path, size=10)[0]["image"] == 1).all()


def damage(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def test_damaged_files_are_skipped_with_a_warning(tiny_faces: Path, draw_face: Callable[..., Image.Image]) -> None:
    inside = tiny_faces / "00000"
    damage(inside / "00001.png", 0.5)
    damage(inside / "00004.png", 0)
    draw_face(1).save(inside / "a.jpg")
    damage(inside / "a.jpg", 0.7)
    (inside / "b.jpg").write_text("no image")
    draw_face(2).save(inside / "c.jpg")
    (inside / "c.jpg").write_bytes((inside / "c.jpg").read_bytes() + b"\0" * 5000)
    with pytest.warns(UserWarning, match=r"4 damaged image\(s\) skipped: 00000/00001.png"):
        source = Folder(tiny_faces)
    assert set(source.skipped) == {f"00000/{name}" for name in ("00001.png", "00004.png", "a.jpg", "b.jpg")}
    assert len(source) == 11 and "00000/c.jpg" in source.names


def test_empty_or_missing_folders_and_invalid_sizes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        Folder(tmp_path / "none")
    with pytest.raises(UserError, match="no readable images"):
        Folder(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for size in (0, -4):
        with pytest.raises(UserError, match=f"size={size}"):
            Folder(tmp_path, size=size)
    with pytest.raises(UserError, match="parsing"):
        Folder(tmp_path, parsing=tmp_path / "none")


def test_parsing_masks_keep_their_classes(tiny_faces: Path, tmp_path: Path) -> None:
    classes = np.zeros((24, 24), dtype=np.uint8)
    classes[:, 12:], classes[:12, :4] = 18, 5
    (tmp_path / "masks").mkdir()
    Image.fromarray(classes).save(tmp_path / "masks" / "00002.png")
    source = Folder(tiny_faces, size=48, parsing=tmp_path / "masks")
    assert "parsing" not in source[0]
    parsing = source[2]["parsing"]
    assert parsing.shape == (48, 48) and parsing.dtype == torch.int64
    assert parsing.unique().tolist() == [0, 5, 18] and (parsing[:, 24:] == 18).all() and (parsing[:24, :8] == 5).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty contains no images"):
        Folder(tiny_faces, parsing=tmp_path / "empty")


def test_palette_masks_of_celebamask_are_read_as_classes(shared: Path) -> None:
    folder = shared / "data" / "celebahq512"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = Folder(folder / "images", size=128, parsing=folder / "masks")
    assert len(source) == 800
    sample = source[0]
    assert sample["image"].shape == (3, 128, 128)
    share = (sample["parsing"] == 1).float().mean()
    assert sample["parsing"].max() <= 18 and 0.05 < share < 0.7


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/00000/._00001.png", b"resource fork")
        archive.writestr("../outside.txt", b"nothing is unpacked")
    return path


def test_a_zip_gives_the_same_images_as_the_folder(tiny_faces: Path, tmp_path: Path) -> None:
    folder, archive = Folder(tiny_faces, 32), Zip(pack(tiny_faces, tmp_path / "a.zip"), 32)
    assert [archive.name(i) for i in range(len(archive))] == folder.names
    assert all(torch.equal(folder[i]["image"], archive[i]["image"]) for i in range(len(folder)))
    copy = pickle.loads(pickle.dumps(archive))
    assert torch.equal(copy[5]["image"], folder[5]["image"])
    assert not (tmp_path / "outside.txt").exists()


def test_damaged_images_in_a_zip_are_skipped_and_damaged_zips_are_errors(tiny_faces: Path, tmp_path: Path) -> None:
    damage(tiny_faces / "00000" / "00003.png", 0.0)
    with pytest.warns(UserWarning, match="00003.png"):
        assert len(Zip(pack(tiny_faces, tmp_path / "a.zip"))) == 11
    (tmp_path / "b.zip").write_text("no archive")
    for name, words in (("b.zip", "is damaged or has another format"), ("c.zip", "no such file")):
        with pytest.raises(UserError, match=words):
            Zip(tmp_path / name)


def test_generated_samples_depend_only_on_seed_and_index(generator: StyleGAN2) -> None:
    def make(**more: Any) -> Generated:
        return Generated(generator, **{"length": 6, "size": 16, "seed": 3, "truncation": (0.5, 1), **more})

    source, again = make(mixing=0.5), make(mixing=0.5)
    later = again[4]
    assert torch.equal(source[4]["w_plus"], later["w_plus"]) and torch.equal(source[4]["image"], later["image"])
    assert later["w_plus"].shape == (generator.num_ws, 512)
    exact = generator.synthesis(later["w_plus"][None])[0].clamp(-1, 1)
    assert torch.allclose(later["image"], exact, atol=1e-6)
    assert not torch.equal(source[3]["w_plus"], later["w_plus"])
    assert not torch.equal(make(seed=4, mixing=0.5)[4]["w_plus"], later["w_plus"])
    mixed = [(source[i]["w_plus"] != source[i]["w_plus"][:1]).any().item() for i in range(6)]
    assert any(mixed) and not all(mixed)
    with pytest.raises(IndexError):
        source[6]
    for wrong in ({"truncation": -1}, {"truncation": (1, 0.5)}, {"size": 0}):
        with pytest.raises(UserError):
            make(**wrong)


def test_cached_generated_samples_are_read_back_unchanged(generator: StyleGAN2, tmp_path: Path) -> None:
    cached = Generated(generator, length=3, size=8, cache=tmp_path)
    first, second = cached[1], cached[1]
    assert torch.equal(first["image"], second["image"]) and torch.equal(first["w_plus"], second["w_plus"])
    (file,) = tmp_path.rglob("*.png")
    assert generator.id in file.parent.name
    assert (first["image"] - Generated(generator, length=3, size=8)[1]["image"]).abs().max() <= 0.5 / 127.5 + 1e-6
    images.write_image(torch.ones(3, 8, 8), file)
    assert (cached[1]["image"] == 1).all()


def test_a_mix_keeps_its_ratio_and_repeats_the_shorter_source(tiny_faces: Path, generator: StyleGAN2) -> None:
    parts = {"real": Folder(tiny_faces), "generated": Generated(generator, length=400, size=16)}
    mix = Mix(parts, {"real": 1, "generated": 3}, length=400, size=16, seed=1)
    names = [mix.name(i) for i in range(len(mix))]
    real = [name for name in names if name.startswith("real/")]
    assert len(names) == 400 and 75 < len(real) < 125
    faces = [f"real/00000/{i:05d}.png" for i in range(12)]
    assert sorted(real[:12]) == faces and real[:12] != faces and real[12:24] == real[:12]
    i, j = names.index(real[0]), next(k for k, name in enumerate(names) if name.startswith("generated/"))
    assert "w_plus" not in mix[i] and mix[i]["name"] == real[0] and mix[i]["image"].shape == (3, 16, 16)
    assert mix[j]["w_plus"].shape == (generator.num_ws, 512)
    assert [Mix(parts, {"real": 1, "generated": 3}, 400, 16, 1).name(i) for i in range(400)] == names
    assert len(Mix(parts, {"real": 1, "generated": 0})) == 412
    for ratios in ({"real": 1}, {"real": 0, "generated": 0}, {"real": -1, "generated": 2}):
        with pytest.raises(UserError, match="ratios"):
            Mix(parts, ratios)


def test_the_hash_split_is_stable_and_ignores_folder_and_ending() -> None:
    split = HashSplit(val=0.1, test=0.2)
    parts = [split(f"{i:05d}.png") for i in range(4000)]
    assert abs(parts.count("test") / 4000 - 0.2) < 0.03 and abs(parts.count("val") / 4000 - 0.1) < 0.02
    assert all(split(f"a/b/{i:05d}.jpg") == part for i, part in enumerate(parts[:50]))
    # Fixed numbers, so that a change of the hash, which would change every user's test set, is noticed.
    assert [i for i in range(60) if HashSplit()(f"{i:05d}.png") == "test"] == [15, 44, 51]
    with pytest.raises(UserError, match=r"val=0\.9"):
        HashSplit(val=0.9, test=0.2)


def test_the_ffhq_split_uses_the_last_10000_images_for_testing() -> None:
    split = FFHQSplit(val=0.1)
    parts = {split(f"{i // 1000 * 1000:05d}/{i:05d}.png") for i in range(0, 60_000, 97)}
    assert parts == {"train", "val"}
    assert {split(f"{i:05d}.png") for i in range(60_000, 70_000, 501)} == {"test"}
    with pytest.raises(UserError, match="portrait"):
        split("portrait.png")


def test_one_part_assigns_every_image_to_that_part() -> None:
    assert OnePart("val")("x.png") == "val"
    with pytest.raises(UserError, match="did you mean 'train'"):
        OnePart("trian")


def test_the_celebahq_split_is_the_official_one(shared: Path) -> None:
    labels = shared / "data" / "celebahq_labels"
    split = CelebAHQSplit(labels / "CelebA-HQ-to-CelebA-mapping.txt.gz", labels / "list_eval_partition.txt.gz")
    parts = [split(f"{i}.jpg") for i in range(30_000)]
    assert [parts.count(name) for name in ("train", "val", "test")] == [24_183, 2_993, 2_824]
    with pytest.raises(UserError, match=r"30000\.jpg"):
        split("30000.jpg")


def test_celebahq_tables_are_read_as_text_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text(
        "idx orig_idx orig_file\n0 119613 119614.jpg\n1 99094 099095.jpg\n2 5 000006.jpg\n"
    )
    (tmp_path / "part.gz").write_bytes(gzip.compress(b"119614.jpg 0\n099095.jpg 2\n000006.jpg 1\n"))
    split = CelebAHQSplit(tmp_path / "map.txt", tmp_path / "part.gz")
    assert [split(name) for name in ("0.jpg", "00001.png", "x/2.jpg")] == ["train", "test", "val"]
    (tmp_path / "part.txt").write_text("119614.jpg 0\n")
    with pytest.raises(UserError, match=r"099095\.jpg"):
        CelebAHQSplit(tmp_path / "map.txt", tmp_path / "part.txt")
    for wrong in ("none.txt", "map.txt"):
        with pytest.raises(UserError, match=wrong):
            CelebAHQSplit(tmp_path / "map.txt", tmp_path / wrong)
