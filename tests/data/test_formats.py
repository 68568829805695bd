"""One data set in every format: the same names, pixels, labels, masks, splits and order as in the folder."""

from __future__ import annotations

import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodgan.cli import main
from oodgan.data import images
from oodgan.data.celebamask import ATTRIBUTES, PARTS, PHOTOS, CelebAMaskHQ
from oodgan.data.checking import check
from oodgan.data.conversion import KINDS, convert
from oodgan.data.datamodule import ImageDataModule
from oodgan.data.encoded import Encoded
from oodgan.data.known import Known
from oodgan.data.opening import open_source
from oodgan.data.sources import Folder, Lmdb, Parquet, WebDataset, Zip
from oodgan.data.splits import HashSplit, OnePart
from oodgan.errors import UserError

COUNT = 12
PLACES = {"webdataset": "shards", "folder": "written", "zip": "a.zip", "lmdb": "a.lmdb", "parquet": "a.parquet"}


@pytest.fixture(autouse=True)
def separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODGAN_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path, draw_face: Callable[..., Image.Image]) -> Folder:
    """Faces of two people with the same file names, labels for most of them, masks for some."""
    labels = {}
    for i in range(COUNT):
        name = f"{'anna' if i % 2 else 'ben'}/{i // 2:03d}"
        for kind, picture in (("faces", draw_face(i)), ("masks", Image.fromarray(np.full((24, 24), i, np.uint8)))):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
            if kind == "faces" or i < 9:
                picture.save(tmp_path / kind / f"{name}.png")
        if i != 5:
            labels[f"{name}.png"] = {"smile": i / 10, **({"yaw": float(i)} if i > 6 else {})}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    return Folder(tmp_path / "faces", 48, tmp_path / "masks", labels=tmp_path / "labels.json")


def equal_samples(one: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = one.keys() | other.keys()
    return all(
        torch.equal(one[k], other[k]) if isinstance(one.get(k), torch.Tensor) else one.get(k) == other.get(k)
        for k in keys
    )


def open_converted(place: Path) -> Encoded:
    if place.name == "written":
        return Folder(place / "images", 48, place / "masks", labels=place / "labels.json")
    source = open_source(place)
    source.set_size(48)
    return source


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_is_the_same_in_every_format(kind: str, folder: Folder, tmp_path: Path) -> None:
    if kind in ("lmdb", "parquet"):
        pytest.importorskip({"lmdb": "lmdb", "parquet": "pyarrow"}[kind])
    place = tmp_path / PLACES[kind]
    assert convert(folder, place, kind if kind == "folder" else None, per_shard=5) == COUNT
    source = open_converted(place)
    assert source.names == folder.names
    assert all(equal_samples(folder[i], source[i]) for i in range(COUNT))
    assert equal_samples(folder[3], pickle.loads(pickle.dumps(source))[3]), "the same after pickling for a worker"
    ours, theirs = (batches(each) for each in (folder, source))
    assert len(ours) == len(theirs) > 2
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() and one["name"] == other["name"]
        for key in ("image", "parsing", "seed"):
            assert key not in one or torch.equal(one[key], other[key]), key
        for name, column in one["labels"].items():
            torch.testing.assert_close(column, other["labels"][name], equal_nan=True, rtol=0, atol=0)
    with pytest.raises(UserError, match="exists already"):
        convert(folder, place, kind)
    assert convert(folder, place, kind, replace=True) == COUNT


def batches(source: Encoded) -> list[dict[str, Any]]:
    module = ImageDataModule(source, 32, 4, split=HashSplit(0.2, 0.2), mirror=True)
    return [*module.train_dataloader(), *module.predict_dataloader()]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_are_not_utf8_are_converted_to_utf8(
    kind: str, tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    if kind in ("lmdb", "parquet"):
        pytest.importorskip({"lmdb": "lmdb", "parquet": "pyarrow"}[kind])
    (tmp_path / "faces").mkdir()
    for i, name in enumerate(["a.png", "caf\udce9.png"]):
        draw_face(i).save(tmp_path / "faces" / name)
    source = Folder(tmp_path / "faces", 48)
    assert convert(source, tmp_path / PLACES[kind], kind if kind == "folder" else None) == 2
    place = tmp_path / PLACES[kind]
    made = Folder(place / "images", 48) if kind == "folder" else open_converted(place)
    assert made.names == ["a.png", "café.png"]
    assert torch.equal(made[1]["image"], source[1]["image"])


def test_workers_read_the_same_images_as_a_single_process(folder: Folder, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    for place in ("shards", "a.lmdb"):
        convert(folder, tmp_path / place)
        source = open_converted(tmp_path / place)
        for workers in (0, 2):
            module = ImageDataModule(source, 16, 4, num_workers=workers, split=OnePart("test"))
            seen = torch.cat([batch["image"] for batch in module.test_dataloader()])
            assert torch.equal(seen, torch.stack([folder_at(folder, 16, i) for i in range(COUNT)]))


def folder_at(folder: Folder, size: int, index: int) -> torch.Tensor:
    folder.set_size(size)
    return folder[index]["image"]


def test_converted_images_have_the_given_size_and_masks_keep_their_classes(folder: Folder, tmp_path: Path) -> None:
    convert(folder, tmp_path / "small", size=20)
    source = WebDataset(tmp_path / "small", 20)
    assert source.names == folder.names
    for i in (0, 7):
        with Image.open(tmp_path / "faces" / folder.names[i]) as whole:
            wanted = images.resize(images.from_pil(whole.convert("RGB")), 20)
        assert (source[i]["image"] - wanted).abs().max() <= 0.5 / 127.5 + 1e-6
        assert source[i]["parsing"].unique().tolist() == folder[i]["parsing"].unique().tolist()
    convert(folder, tmp_path / "small.zip", size=20, form="jpg")
    assert all(name.endswith(".jpg") for name in Zip(tmp_path / "small.zip").names)


def test_labels_are_read_from_nvlabs_archives(folder: Folder, tmp_path: Path) -> None:
    def archive(labels: Any) -> Zip:
        with zipfile.ZipFile(tmp_path / "n.zip", "w") as packed:
            for i in range(2):
                packed.write(tmp_path / "faces" / folder.names[i], f"00000/img{i:08d}.png")
            packed.writestr("dataset.json", json.dumps({"labels": labels}))
        return Zip(tmp_path / "n.zip")

    assert archive([["00000/img00000000.png", 6], ["00000/img00000001.png", 0]]).labels(0) == {"class": 6.0}
    assert archive({"00000/img00000001.png": [0.5, 1]}).labels(1) == {"class_0": 0.5, "class_1": 1.0}
    assert archive(None).labels(0) == {} and len(archive(None)) == 2
    with pytest.raises(UserError, match=r"n\.zip.*dataset\.json"):
        archive([["00000/img00000000.png"]])


def test_rosinalitys_lmdb_is_read_at_its_largest_resolution(
    tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    lmdb = pytest.importorskip("lmdb")
    import io

    environment = lmdb.open(str(tmp_path / "r"), map_size=2**24)
    with environment.begin(write=True) as transaction:
        for i in range(3):
            for size in (32, 64):
                held = io.BytesIO()
                draw_face(i, size).save(held, "JPEG", quality=100)
                transaction.put(f"{size}-{i:05d}".encode(), held.getvalue())
        transaction.put(b"length", b"3")
    environment.close()
    source = Lmdb(tmp_path / "r", 64)
    assert source.names == ["00000", "00001", "00002"]
    assert (source[2]["image"] - images.from_pil(draw_face(2, 64))).abs().mean() < 0.05
    assert images.read_size(io.BytesIO(Lmdb(tmp_path / "r", resolution=32).encoded(0)[0])) == (32, 32)
    with pytest.raises(UserError, match=r"resolution=128: .* holds 32, 64"):
        Lmdb(tmp_path / "r", resolution=128)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "data.mdb").write_bytes(b"no environment")
    for wrong in (tmp_path / "none", tmp_path / "nowhere"):
        with pytest.raises(UserError, match=wrong.name):
            Lmdb(wrong)


def test_tables_saved_by_hugging_face_datasets_are_read(folder: Folder, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import ipc

    rows = [{"bytes": folder.encoded(i)[0], "path": None} for i in range(4)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"img": pa.array(rows, kind), "label": [0, 1, None, 3], "caption": list("abcd")})
    saved = tmp_path / "saved"
    saved.mkdir()
    with ipc.new_stream(str(saved / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    source = Parquet(saved, 48, image="img")
    assert source.names == [f"{i:08d}" for i in range(4)] and [source.labels(i) for i in (1, 2)] == [{"label": 1.0}, {}]
    assert all(torch.equal(source[i]["image"], folder[i]["image"]) for i in range(4))
    with pytest.raises(UserError, match="column of images 'image'"):
        Parquet(saved)
    (saved / "data-00000-of-00001.arrow").write_bytes(b"cut")
    with pytest.raises(UserError, match="arrow"):
        Parquet(saved, image="img")


def test_unusable_shards_are_errors(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(__file__, "a.txt")
    (tmp_path / "cut.tar").write_bytes(b"not a tar file at all" * 40)
    for name, message in (
        ("a.tar.gz", "decompress it"),
        ("cut.tar", "damaged or has another format"),
        ("no*.tar", "no tar shards"),
    ):
        with pytest.raises(UserError, match=message):
            WebDataset(tmp_path / name)


@pytest.fixture
def celebamask(tmp_path: Path, draw_face: Callable[..., Image.Image]) -> Path:
    root = tmp_path / "CelebAMask-HQ"
    for folder in (PHOTOS, f"{PARTS}/0"):
        (root / folder).mkdir(parents=True)
    for i in range(3):
        draw_face(i, 32).save(root / PHOTOS / f"{i}.jpg", quality=95)
        for part, rows in (("skin", slice(0, 16)), ("hair", slice(0, 4)), ("nose", slice(8, 10))):
            mask = np.zeros((16, 16, 3), np.uint8)
            mask[rows] = 255
            Image.fromarray(mask).save(root / PARTS / "0" / f"{i:05d}_{part}.png")
    rows = "\n".join(f"{i}.jpg  {1 if i else -1} -1" for i in range(3))
    (root / ATTRIBUTES).write_text(f"3\nSmiling Young\n{rows}\n")
    return root


def test_celebamask_is_read_as_distributed(celebamask: Path) -> None:
    source = CelebAMaskHQ(celebamask, 16)
    sample = source[1]
    assert sample["labels"] == {"smile": 1.0, "age": 1.0} and source.labels(0)["smile"] == -1
    parsing = sample["parsing"]
    assert parsing.unique().tolist() == [1, 2, 13]
    assert (parsing[:4] == 13).all() and (parsing[8:10] == 2).all() and (parsing[10:] == 1).all()
    assert isinstance(open_source(celebamask), CelebAMaskHQ)
    with pytest.raises(UserError, match="is not CelebAMask-HQ as it is distributed"):
        CelebAMaskHQ(celebamask.parent)


def test_checked_files_are_not_checked_again(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    whole = Folder._ends
    monkeypatch.setattr(Folder, "_ends", lambda self, name: (looked.append(name), whole(self, name))[1])
    Folder(tmp_path / "faces")
    assert not looked, "the fixture has already checked all files"
    (tmp_path / "faces" / folder.names[3]).write_bytes(b"\x89PNG\r\n\x1a\n cut")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"1 damaged image\(s\) skipped"):
            assert len(Folder(tmp_path / "faces")) == COUNT - 1
    assert looked == [folder.names[3]], "only the changed file is checked, once"
    Known.of(str(tmp_path / "faces")).file.write_text("[1, 2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(Folder(tmp_path / "faces")) == COUNT - 1


def test_check_counts_images_and_names_damaged_and_duplicate_files(
    folder: Folder, tmp_path: Path, draw_face: Callable[..., Image.Image]
) -> None:
    faces = tmp_path / "faces"
    (faces / "anna" / "cut.png").write_bytes((faces / folder.names[0]).read_bytes()[:300])
    for i in range(8):
        draw_face(1).save(faces / "ben" / f"again{i}.png")
    draw_face(0, 30).crop((0, 0, 30, 20)).save(faces / "wide.png")
    (tmp_path / "masks" / folder.names[2]).write_bytes(b"no mask")
    Image.new("L", (8, 8), 99).save(tmp_path / "masks" / folder.names[2])
    source = Folder(faces, 48, tmp_path / "masks", labels=tmp_path / "labels.json", check=False)
    result = check(source, HashSplit(0.3, 0.3))
    assert set(result.damaged) == {"anna/cut.png"} and set(result.masks_damaged) == {folder.names[2]}
    assert result.sizes == {(48, 48): COUNT + 8, (30, 20): 1} and result.masks == 8
    (group,) = result.duplicates
    assert len(group) == 9 and result.leaks == [group] and sum(result.parts.values()) == COUNT + 9
    assert result.labels == {"smile": 11, "yaw": 5}


def test_the_command_checks_and_converts(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def oodgan(*words: str) -> int:
        with pytest.raises(SystemExit) as stop:
            main(["data", *words])
        return int(stop.value.code or 0)

    faces = str(tmp_path / "faces")
    assert oodgan("check", faces, "faces=0", f"to={tmp_path / 'found.json'}") == 0
    assert "48x48 (12)" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["images"] == COUNT
    assert oodgan("convert", faces, f"to={tmp_path / 'out'}", "side=16", "per_shard=5") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000000.tar", "000001.tar", "000002.tar"]
    assert oodgan("convert", faces, f"to={tmp_path / 'out'}") == 2
    assert oodgan("check", str(tmp_path / "out"), "faces=0") == 0
    (tmp_path / "faces" / folder.names[0]).write_bytes(b"cut")
    assert oodgan("check", faces, "faces=0") == 1
    output = capsys.readouterr()
    assert f"damaged: {folder.names[0]}" in output.out and "exists already" in output.err
    for words in (
        ["chek", faces],
        ["check"],
        ["check", "nowhere"],
        ["convert", faces],
        ["convert", faces, "to=x", "kind=rar"],
    ):
        assert oodgan(*words) == 2, words
    assert "Traceback" not in capsys.readouterr().err
