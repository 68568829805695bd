"""Ghosts: random draws for an image depend only on its name and the seed; targets have the expected content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from oodgan.compose import compose
from oodgan.data.datamodule import ImageDataModule
from oodgan.data.sources import Generated
from oodgan.data.splits import HashSplit
from oodgan.deghost.ghosts import IMAGES, Ghosts, GhostWriter, name_seed, pack, safe_name
from oodgan.directions.bank import Bank
from oodgan.errors import UserError
from oodgan.files import save_tensors
from oodgan.generators.protocol import sample_codes
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion.inverter import OptimisationInverter
from oodgan.inversion.refine import Refinement


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny().requires_grad_(False)


@pytest.fixture(scope="module")
def bank(generator: StyleGAN2) -> Bank:
    vectors = torch.randn(3, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    return Bank(("a", "b", "c"), vectors, generator.id, generator.id)


def disc(inverted: Tensor, edited: Tensor, names: Sequence[str], photo: Tensor | None = None) -> Tensor:
    """A soft disc, larger for more names: 0 in the corners, 1 in the middle."""
    line = torch.linspace(-1, 1, inverted.shape[-1])
    radius = (line[:, None].square() + line.square()).sqrt()
    return (1.2 + 0.2 * len(names) - 2 * radius).clamp(0, 1).expand(len(inverted), 1, -1, -1)


def writer(generator: StyleGAN2, bank: Bank, folder: Path, **changes: object) -> GhostWriter:
    folder.mkdir(parents=True, exist_ok=True)
    inverter = OptimisationInverter(generator, Refinement(steps=2, losses={"lpips": 0.0, "identity": 0.0}))
    return GhostWriter(generator, inverter, bank, disc, folder, size=32, **changes)  # type: ignore[arg-type]


def write(generator: StyleGAN2, bank: Bank, folder: Path, batch: int, **changes: object) -> Ghosts:
    data = ImageDataModule(
        Generated(generator, 5, 32, truncation=(0.5, 1.0)), batch_size=batch, split=HashSplit(0.2, 0.2)
    )
    engine = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    engine.predict(writer(generator, bank, folder, **changes), datamodule=data, return_predictions=False)
    return Ghosts(folder)


@pytest.fixture(scope="module")
def ghosts(generator: StyleGAN2, bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Ghosts:
    return write(generator, bank, tmp_path_factory.mktemp("ghosts"), batch=1)


def test_ghosts_do_not_depend_on_the_batch_size(
    generator: StyleGAN2, bank: Bank, ghosts: Ghosts, tmp_path: Path
) -> None:
    other = write(generator, bank, tmp_path, batch=3)
    assert [row[0] for row in other.rows] == [row[0] for row in ghosts.rows] and len(ghosts) == 5
    for one, two in zip(ghosts, other, strict=True):
        for key in (*IMAGES, "mask", "code"):
            assert torch.equal(one[key], two[key]), (one["name"], key)
    drawn = {bytes(row["code"].numpy()) for row in ghosts}
    assert len(drawn) == 5


def test_ghosts_depend_on_the_seed(generator: StyleGAN2, bank: Bank, ghosts: Ghosts, tmp_path: Path) -> None:
    other = write(generator, bank, tmp_path, batch=5, seed=1)
    assert all(torch.equal(a["photo"], b["photo"]) for a, b in zip(ghosts, other, strict=True))
    assert not any(torch.equal(a["edited"], b["edited"]) for a, b in zip(ghosts, other, strict=True))


def test_a_second_run_keeps_existing_ghosts_and_renders_missing_ones(
    generator: StyleGAN2, bank: Bank, ghosts: Ghosts, tmp_path: Path
) -> None:
    first = write(generator, bank, tmp_path, batch=2)
    kept, lost, *_ = (path for _, path, _ in first.rows)
    content = lost.read_bytes()
    lost.unlink()
    os.utime(kept, (1, 1))
    write(generator, bank, tmp_path, batch=2)
    assert lost.read_bytes() == content and kept.stat().st_mtime == 1
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".safetensors"] * 5, "no temporary file remains"


def test_a_samples_target_contains_the_edit_and_its_coarse_image_the_ghost(ghosts: Ghosts) -> None:
    for row in ghosts:
        assert row["coarse"].shape == (3, 32, 32) and row["mask"].shape == (1, 32, 32) and row["code"].shape == (8, 512)
        outside, inside = (row["mask"] == 0).expand(3, -1, -1), (row["mask"] > 0.9).expand(3, -1, -1)
        assert outside.any() and inside.any()
        assert torch.equal(row["coarse"][outside], row["photo"][outside])
        assert torch.equal(row["target"][outside], row["photo"][outside])
        assert (row["target"][inside] - row["photo"][inside]).abs().mean() > 0.02, "the target contains the edit"
        assert (row["coarse"][inside] - row["target"][inside]).abs().mean() > 0.005, "the coarse image contains a ghost"


def test_without_disturbance_a_sample_has_no_ghost(generator: StyleGAN2, bank: Bank, tmp_path: Path) -> None:
    for row in write(generator, bank, tmp_path, batch=5, inverted=0.0, disturbance=0.0):
        assert (row["coarse"] - row["target"]).abs().max() < 0.01
        assert (row["inverted"] - row["photo"]).abs().max() < 0.01


def test_the_target_of_a_real_face_is_the_photo(generator: StyleGAN2, bank: Bank, tmp_path: Path) -> None:
    photo = generator.synthesis(sample_codes(generator, 1, 9)).clamp(-1, 1)
    made = writer(generator, bank, tmp_path, modes=("paper",)).ghost(photo, None, "photo.png")
    read = {key: made[key].float() / 127.5 - 1 for key in IMAGES}
    mask = made["mask"].float() / 255
    assert torch.equal(made["target"], made["photo"])
    assert mask.max() <= 0.5 + 1 / 255
    expected = compose(read["photo"][None], read["inverted"][None], read["edited"][None], mask[None], "paper")[0]
    assert (expected - read["coarse"]).abs().max() < 0.03


def test_ghosts_can_be_rendered_with_a_single_direction(generator: StyleGAN2, bank: Bank, tmp_path: Path) -> None:
    made = writer(generator, bank.subset(["b"]), tmp_path)
    photo = generator.synthesis(sample_codes(generator, 1, 9)).clamp(-1, 1)
    for i in range(8):  # a quarter of the ghosts use two directions
        assert made.ghost(photo, sample_codes(generator, 1, 9), f"{i}.png")["coarse"].dtype == torch.uint8


def test_strengths_are_in_their_range_and_have_both_signs(generator: StyleGAN2, bank: Bank, tmp_path: Path) -> None:
    made = writer(generator, bank, tmp_path, low=0.5, high=0.7)
    drawn = [made._edit(torch.Generator().manual_seed(i)) for i in range(60)]
    strengths = [s for _, edits in drawn for s in edits.values()]
    assert all(0.5 <= abs(s) <= 0.7 for s in strengths) and {s > 0 for s in strengths} == {True, False}
    assert {name for names, _ in drawn for name in names} == set(bank.names)
    assert {len(names) for names, _ in drawn} == {1, 2}
    assert all(list(edits) == names for names, edits in drawn)


def test_an_edited_target_is_the_edited_sample_under_the_same_occluders(
    generator: StyleGAN2, bank: Bank, tmp_path: Path
) -> None:
    code = sample_codes(generator, 1, 9)
    photo = generator.synthesis(code).clamp(-1, 1)
    made = writer(generator, bank, tmp_path, target="edited").ghost(photo, code, "sample.png")
    read = {key: made[key].float() / 127.5 - 1 for key in IMAGES}
    mask = made["mask"].float() / 255
    outside, inside = (mask == 0).expand(3, -1, -1), (mask > 0.9).expand(3, -1, -1)
    assert made["known"].tolist() == [1] and float(mask.max()) > 0.9, "the mask is not folded"
    assert not torch.equal(read["photo"], photo[0]), "an occluder covers part of the sample"
    for key in ("coarse", "target"):
        assert torch.equal(read[key][outside], read["photo"][outside])
    assert float((read["target"] - read["photo"])[inside].abs().mean()) > 0.01


def test_a_real_face_keeps_its_edit_and_has_no_known_target(generator: StyleGAN2, bank: Bank, tmp_path: Path) -> None:
    photo = generator.synthesis(sample_codes(generator, 1, 9)).clamp(-1, 1)
    made = writer(generator, bank, tmp_path, target="edited", modes=("paper",)).ghost(photo, None, "photo.png")
    assert made["known"].tolist() == [0]
    inside = (made["mask"] == 255).expand(3, -1, -1)
    assert inside.any() and bool(((made["coarse"].int() - made["edited"].int())[inside].abs() <= 1).all())


def test_an_unknown_target_is_refused(generator: StyleGAN2, bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="edited"):
        writer(generator, bank, tmp_path, target="editd")


def test_ghosts_record_whether_their_target_is_known(
    generator: StyleGAN2, bank: Bank, ghosts: Ghosts, tmp_path: Path
) -> None:
    assert ghosts[0]["known"].tolist() == [1.0]
    photo = generator.synthesis(sample_codes(generator, 1, 9)).clamp(-1, 1)
    save_tensors(
        tmp_path / "photo.safetensors", writer(generator, bank, tmp_path, target="edited").ghost(photo, None, "a")
    )
    assert Ghosts(tmp_path)[0]["known"].tolist() == [0.0] and pack(tmp_path) == 1
    assert Ghosts(tmp_path)[0]["known"].tolist() == [0.0]


def test_seeds_and_file_names_are_derived_from_image_names() -> None:
    assert name_seed("a.png", 0) == name_seed("a.png", 0) != name_seed("a.png", 1) != name_seed("b.png", 0)
    assert 0 <= name_seed("a.png", 0) < 2**63 and name_seed("caf\udce9.png", 0) != name_seed("café.png", 0)
    names = ["00000/my face.png", "00000__my face.png", "00000/my_face.png", "00000__my_face.png", "caf\udce9.png"]
    assert len({safe_name(name) for name in names}) == len(names) and "/" not in safe_name(names[0])
    assert safe_name("caf\udce9.png").startswith("café.png~"), "safetensors opens only names in UTF-8"


def test_ghosts_are_collated_into_a_batch(ghosts: Ghosts) -> None:
    batch = next(iter(DataLoader(ghosts, batch_size=5)))
    assert batch["coarse"].shape == (5, 3, 32, 32) and batch["coarse"].min() >= -1 and batch["mask"].max() <= 1


def test_packed_ghosts_are_equal_and_not_rendered_again(generator: StyleGAN2, bank: Bank, tmp_path: Path) -> None:
    from oodgan.deghost.ghosts import SHARD, pack

    single = list(write(generator, bank, tmp_path, batch=2))
    files = sorted(tmp_path.iterdir())
    size = files[0].stat().st_size
    assert pack(tmp_path, 2 * size) == 5
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{i:05d}{SHARD}" for i in range(3)]
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())]
    again = list(write(generator, bank, tmp_path, batch=5))
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())] == before
    for one, other in zip(single, again, strict=True):
        assert one["name"] == other["name"]
        assert all(torch.equal(one[key], other[key]) for key in (*IMAGES, "mask", "code"))
    assert pack(tmp_path) == 5, "packing continues after an interruption"
