"""Samplers, the DataModule, resuming within an epoch, and the configs of data modules."""

from __future__ import annotations

import contextlib
import itertools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from oodgan.data.conversion import convert
from oodgan.data.datamodule import ImageDataModule
from oodgan.data.loader import Part, collate
from oodgan.data.sampler import Draw, TrainSampler, UnpaddedSampler
from oodgan.data.sources import Folder, Generated, Mix
from oodgan.data.splits import HashSplit, OnePart
from oodgan.errors import UserError
from oodgan.generators.stylegan2 import StyleGAN2

CONF = Path(__file__).resolve().parents[2] / "conf"


@given(n=st.integers(0, 200), world=st.integers(1, 9))
def test_the_unpadded_sampler_visits_each_image_once(n: int, world: int) -> None:
    shares = [list(UnpaddedSampler(n, rank, world)) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == list(range(n))
    assert [len(UnpaddedSampler(n, rank, world)) for rank in range(world)] == [len(share) for share in shares]


@given(
    local=st.integers(1, 4),
    world=st.integers(1, 4),
    extra=st.integers(0, 30),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    start=st.integers(0, 5),
)
def test_processes_share_the_batches_of_a_single_process(
    local: int, world: int, extra: int, seed: int, epoch: int, start: int
) -> None:
    size = local * world
    n = size + extra
    whole = TrainSampler(n, size, seed)
    whole.set_epoch(epoch)
    draws = list(whole)
    batches = [draws[i : i + size] for i in range(0, len(draws), size)]
    assert len(batches) == n // size == whole.batches and len({draw.item for draw in draws}) == len(draws)
    shares = []
    for rank in range(world):
        sampler = TrainSampler(n, size, seed, rank, world)
        sampler.resume(epoch, start)
        mine = list(sampler)
        shares.append([mine[i : i + local] for i in range(0, len(mine), local)])
    joined = [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == batches[start:]


def test_the_order_changes_with_epoch_and_seed() -> None:
    def order(seed: int, epoch: int) -> list[Draw]:
        sampler = TrainSampler(50, 5, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    resumed = TrainSampler(50, 5, 0)
    resumed.resume(1, 4)
    assert list(resumed) == order(0, 1)[20:]
    resumed.set_epoch(2)
    assert list(resumed) == order(0, 2)


@pytest.mark.parametrize(("batch", "world"), [(0, 1), (-2, 1), (3, 2), (13, 1)])
def test_impossible_batch_sizes_are_refused(batch: int, world: int) -> None:
    with pytest.raises(UserError, match=f"batch_size={batch}"):
        TrainSampler(12, batch, 0, 0, world)


def data(folder: Path, **settings: Any) -> ImageDataModule:
    return ImageDataModule(Folder(folder), **{"size": 16, "batch_size": 4, "split": HashSplit(0.2, 0.2), **settings})


def test_train_val_and_test_parts_are_disjoint_and_complete(tiny_faces: Path) -> None:
    module = data(tiny_faces)
    parts = [module.part(name).indices for name in ("train", "val", "test")]
    assert sorted(itertools.chain(*parts)) == list(range(12)) == list(module.part("all").indices)
    assert len(data(tiny_faces, limit={"train": 5}).part("train")) == 5
    assert len(data(tiny_faces, limit=3).part("all")) == 3


def test_invalid_settings_are_errors(tiny_faces: Path) -> None:
    for settings in ({"batch_size": 0}, {"eval_batch_size": -1}, {"num_workers": -1}, {"size": 0}, {"predict": "tets"}):
        with pytest.raises(UserError, match=f"{next(iter(settings)) if 'predict' not in settings else 'did you mean'}"):
            data(tiny_faces, **settings)
    with pytest.raises(UserError, match="batch_size=100"):
        data(tiny_faces, batch_size=100).train_dataloader()
    with pytest.raises(UserError, match="falls into the part 'test'"):
        data(tiny_faces, split=OnePart("train")).test_dataloader()
    with pytest.warns(UserWarning, match="without validation"):
        assert data(tiny_faces, split=OnePart("train")).val_dataloader() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_workers(tiny_faces: Path, workers: int) -> None:
    reference, module = (data(tiny_faces, mirror=True, split=OnePart("train"), num_workers=n) for n in (0, workers))
    for expected, batch in zip(reference.train_dataloader(), module.train_dataloader(), strict=True):
        assert batch["name"] == expected["name"] and batch["image"].shape == (4, 3, 16, 16)
        assert torch.equal(batch["image"], expected["image"]) and torch.equal(batch["seed"], expected["seed"])


def test_mirroring_flips_half_of_the_draws_and_swaps_left_and_right_classes(tiny_faces: Path) -> None:
    class Halves(Folder):
        def __getitem__(self, index: int) -> dict[str, Any]:
            classes = torch.full((16, 16), 4)
            classes[:, 8:] = 17
            return {**super().__getitem__(index), "parsing": classes}

    source = Halves(tiny_faces, size=16)
    part = Part(source, range(12), mirror=True)
    flipped = [part[Draw(2, seed)] for seed in range(40)]
    plain = source[2]["image"]
    turned = [not torch.equal(sample["image"], plain) for sample in flipped]
    assert turned == [bool(seed & 1) for seed in range(40)]
    assert torch.equal(flipped[1]["image"], plain.flip(-1))
    assert (flipped[1]["parsing"][:, 8:] == 5).all() and (flipped[1]["parsing"][:, :8] == 17).all()
    assert torch.equal(part[2]["image"], plain)


def test_images_with_latent_codes_are_never_mirrored() -> None:
    generator = StyleGAN2(resolution=8, max_channels=4, n_mlp=1)
    part = Part(Generated(generator, 4, size=8), range(4), mirror=True)
    assert torch.equal(part[Draw(1, 1)]["image"], part[1]["image"])


def test_mixed_samples_are_collated(tiny_faces: Path) -> None:
    generator = StyleGAN2(resolution=8, max_channels=4, n_mlp=1)
    mix = Mix({"g": Generated(generator, 12, size=8), "r": Folder(tiny_faces)}, {"g": 1, "r": 1}, size=8)
    batch = next(iter(ImageDataModule(mix, batch_size=24, split=OnePart("train")).train_dataloader()))
    from_generator = torch.tensor([name.startswith("g/") for name in batch["name"]])
    assert torch.equal(batch["has_w_plus"], from_generator) and 0 < from_generator.sum() < 24
    assert batch["w_plus"].shape == (24, 4, 512)
    assert (batch["w_plus"][~from_generator] == 0).all() and (batch["w_plus"][from_generator] != 0).any()


def damage_pixels(folder: Path, *numbers: int) -> list[str]:
    """Damage the middle of image files and keep their first and last bytes, as a bad disk may."""
    for number in numbers:
        path = folder / "00000" / f"{number:05d}.png"
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2 : len(raw) // 2 + 200] = bytes(200)
        path.write_bytes(raw)
    return [f"00000/{number:05d}.png" for number in numbers]


def test_unreadable_images_are_dropped_in_evaluation(tiny_faces: Path) -> None:
    broken = damage_pixels(tiny_faces, 4, 8, 9, 10, 11)
    module = data(tiny_faces)
    with pytest.warns(UserWarning, match="image skipped"):
        batches = list(module.predict_dataloader())
    assert [len(batch["name"]) for batch in batches] == [4, 3]
    assert all(batch["image"].shape[0] == len(batch["name"]) for batch in batches)
    assert sorted(module.skipped) == broken


def test_unreadable_images_are_replaced_in_training(tiny_faces: Path) -> None:
    broken = damage_pixels(tiny_faces, 4, 5)
    module = data(tiny_faces, split=OnePart("train"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = list(module.train_dataloader())
    names = [name for batch in batches for name in batch["name"]]
    assert [len(batch["name"]) for batch in batches] == [4, 4, 4]
    assert names.count("00000/00006.png") == 3 and not set(broken) & set(names)
    assert sorted(module.skipped) == broken


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_without_readable_images_is_a_one_line_error(tiny_faces: Path, workers: int) -> None:
    damage_pixels(tiny_faces, *range(12))
    with pytest.raises(UserError, match=r"^12 images in a row") as error:
        list(data(tiny_faces, split=OnePart("train"), num_workers=workers).train_dataloader())
    assert "\n" not in str(error.value)


def test_a_batch_without_readable_images_is_empty() -> None:
    assert collate([{"failed": {"a": "b"}}]) == {"name": [], "failed": {"a": "b"}}


class Recorder(pl.LightningModule):
    """Records the names of every training and test batch; can stop like a killed process."""

    def __init__(self, stop_at: int | None = None, late: bool = False) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_at, self.late = stop_at, late
        self.seen: list[tuple[int, list[str]]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        if self.late and self.trainer.global_step == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append((self.current_epoch, batch["name"]))
        return (batch["image"].mean() - self.weight) ** 2

    def test_step(self, batch: dict[str, Any], index: int) -> None:
        self.seen.append((self.trainer.global_rank, batch["name"]))


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=folder, use_distributed_sampler=False, **quiet, **settings)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [2, 3, 4])
def test_resumed_training_sees_the_same_batches_as_an_uninterrupted_one(
    tiny_faces: Path, tmp_path: Path, steps: int, workers: int
) -> None:
    """Three batches per epoch: interrupted within the first epoch, at its end, and within the second."""

    def fit(max_steps: int, checkpoint: str | None = None) -> Recorder:
        save = pl.callbacks.ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        module = Recorder()
        source = data(tiny_faces, split=OnePart("train"), num_workers=workers)
        enable = {"callbacks": [save]} if checkpoint is None else {"enable_checkpointing": False}
        trainer(tmp_path, max_steps=max_steps, **enable).fit(module, source, ckpt_path=checkpoint)
        return module

    whole = fit(8).seen
    assert len(whole) == 8 and whole[0][1] != whole[3][1]
    resumed = fit(8, str(tmp_path / f"step={steps}.ckpt")).seen
    assert resumed == whole[steps:]


def test_an_interrupted_batch_is_repeated(tiny_faces: Path, tmp_path: Path) -> None:
    def fit(module: Recorder, checkpoint: Path | None = None) -> list[tuple[int, list[str]]]:
        source = data(tiny_faces, split=OnePart("train"))
        runner = trainer(tmp_path, max_steps=6, enable_checkpointing=False)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            runner.fit(module, source, ckpt_path=checkpoint)
        if module.stop_at is not None:
            runner.save_checkpoint(tmp_path / "stopped.ckpt")
        return module.seen

    whole = fit(Recorder())
    before = fit(Recorder(stop_at=4, late=True))
    after = fit(Recorder(), tmp_path / "stopped.ckpt")
    assert len(before) == 4 and before + after == whole


def test_resuming_with_another_seed_warns(tiny_faces: Path) -> None:
    loader = data(tiny_faces, split=OnePart("train")).train_dataloader()
    next(iter(loader))
    state = loader.state_dict()
    assert state["batch"] == 1
    other = data(tiny_faces, split=OnePart("train"), seed=5).train_dataloader()
    with pytest.warns(UserWarning, match="seed 0 -> 5"):
        other.load_state_dict(state)
    assert len(list(other)) == 3


def _write_seen(module: Recorder, path: Path) -> None:
    path.mkdir(exist_ok=True)
    (path / str(module.global_rank)).write_text("\n".join(name for _, names in module.seen for name in names))


class Writer(Recorder):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_test_end(self) -> None:
        _write_seen(self, self.path)


def test_two_processes_test_each_image_once(tiny_faces: Path, tmp_path: Path) -> None:
    (tiny_faces / "00000" / "00011.png").unlink()
    source = data(tiny_faces, split=OnePart("test"))
    trainer(tmp_path, devices=2, strategy="ddp_fork").test(Writer(tmp_path / "seen"), source, verbose=False)
    shares = [(tmp_path / "seen" / str(rank)).read_text().split() for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 5] and len({*shares[0], *shares[1]}) == 11


def test_predict_visits_every_image_once_in_order(tiny_faces: Path, tmp_path: Path) -> None:
    class Names(pl.LightningModule):
        def predict_step(self, batch: dict[str, Any], index: int) -> list[str]:
            return batch["name"]

    result = trainer(tmp_path).predict(Names(), data(tiny_faces, batch_size=5))
    assert result is not None
    assert list(itertools.chain(*result)) == Folder(tiny_faces).names


GENERATOR = {"_target_": "oodgan.generators.stylegan2.StyleGAN2", "resolution": 16, "max_channels": 8, "n_mlp": 1}


def config_root(folder: Path) -> Path:
    """Write a root config that includes the real `data` group."""
    folder.mkdir()
    for group in ("data", "loader"):
        (folder / group).symlink_to(CONF / group)
    lines = [f"  {key}: {value}" for key, value in GENERATOR.items()]
    (folder / "config.yaml").write_text(
        "\n".join(["defaults:", "- data: ???", "- _self_", "seed: 7", "generator:", *lines]) + "\n"
    )
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "data").glob("*.yaml")))
def test_every_config_builds_a_working_module(
    name: str, tiny_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "celebahq").mkdir(parents=True)
    (home / "celebahq" / "images").symlink_to(tiny_faces)
    (home / "ffhq").symlink_to(tiny_faces)
    rows = [f"{i} {i} {i:06d}.jpg" for i in range(12)]
    (home / "celebahq" / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(rows))
    parts = [f"{i:06d}.jpg {i % 3}" for i in range(12)]
    (home / "celebahq" / "list_eval_partition.txt").write_text("\n".join(parts))
    monkeypatch.setenv("OODGAN_DATA", str(home))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in tiny_faces.rglob("*.png"):
            archive.write(file, file.name)
    (home / "CelebAMask-HQ").mkdir()
    (home / "CelebAMask-HQ" / "CelebA-HQ-img").symlink_to(tiny_faces)
    for table in ("CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt"):
        (home / "CelebAMask-HQ" / table).symlink_to(home / "celebahq" / table)
    root, archive_path = tiny_faces, tmp_path / "a.zip"
    form = {"lmdb": "a.lmdb", "parquet": "a.parquet", "webdataset": "shards"}.get(name)
    if form is not None:
        pytest.importorskip({"lmdb": "lmdb", "parquet": "pyarrow"}.get(name, "tarfile"))
        convert(Folder(tiny_faces), tmp_path / form)
    needed = {
        "folder": [f"data.source.root={root}"],
        "zip": [f"data.source.path={archive_path}"],
        "lmdb": [f"data.source.path={tmp_path}/{form}"],
        "parquet": [f"data.source.path={tmp_path}/{form}"],
        "webdataset": [f"data.source.path={tmp_path}/{form}/*.tar"],
        "generated": ["data.source.length=40"],
        "mixed": [f"data.source.sources.real.root={root}", "data.source.sources.generated.length=40"],
    }
    overrides = [f"data={name}", "data.batch_size=2", "data.size=16", *needed.get(name, [])]
    with initialize_config_dir(str(config_root(tmp_path / "conf")), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    module = instantiate(cfg.data)
    assert isinstance(module, ImageDataModule) and module.seed == 7
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (2, 3, 16, 16) and ("w_plus" in batch) >= (name == "generated")
    if name in ("celebahq", "celebamask"):
        assert [len(module.part(part)) for part in ("train", "val", "test")] == [4, 4, 4]
