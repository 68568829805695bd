"""Occluded samples for training the transfer of residuals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from oodgan.data.sampler import Draw
from oodgan.directions.bank import Bank
from oodgan.generators.protocol import Generator
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion.layers import Layers, covered
from oodgan.inversion.transfer_module import TransferModule, most_changed
from oodgan.inversion.transfer_network import TransferNetwork
from oodgan.inversion.transfer_samples import (
    TransferSamples,
    mixed,
    render_transfer_photos,
    render_transfer_samples,
)
from oodgan.inversion.value import Inversion
from oodgan.nn.resize import resize_area


class MeanCode:
    """The mean code, and a constant residual."""

    name = "nearby"

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def invert(self, photos: Tensor) -> Inversion:
        codes = self.generator.mean_w.expand(len(photos), self.generator.num_ws, -1)
        residual = photos.mean() * torch.ones(len(photos), self.generator.feature_channels[8], 8, 8)
        return Inversion(codes, {8: residual})


def photos(count: int = 3) -> list[dict]:
    rng = torch.Generator().manual_seed(0)
    parsing = torch.zeros(32, 32, dtype=torch.int64)
    parsing[8:28, 8:24] = 1  # skin
    parsing[:8, 4:28] = 14  # a hat
    return [{"image": torch.rand(3, 32, 32, generator=rng) * 2 - 1, "parsing": parsing} for _ in range(count)]


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny().requires_grad_(False)


@pytest.fixture(scope="module")
def bank(generator: StyleGAN2) -> Bank:
    vectors = torch.randn(3, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    ranges = {"a": {"range": [-0.5, 1.0]}}
    return Bank(("a", "b", "c"), vectors, generator.id, "test", ranges)


def test_occluding_layers_are_parts_of_photos_and_do_not_cover_the_skin() -> None:
    layers, rng = Layers(photos()), torch.Generator().manual_seed(0)
    opacities = torch.stack([layers.draw(32, rng)[1] for _ in range(12)])
    assert opacities.shape == (12, 1, 32, 32) and float(opacities.min()) >= 0 and float(opacities.max()) <= 1
    assert float(opacities[:, :, 12:24, 12:20].max()) == 0  # skin
    assert float(opacities[:, :, 2:5, 10:20].mean()) > 0.5  # the hat, in nine of ten draws


def test_without_masks_occluding_layers_are_soft_blobs() -> None:
    layers = Layers()
    picture, alpha = layers.draw(32, torch.Generator().manual_seed(0))
    assert picture.shape == (3, 32, 32) and alpha.shape == (1, 32, 32) and float(alpha.max()) > 0.5


def test_a_layer_covers_the_image_and_uncovered_pixels_get_the_colour_cast() -> None:
    images = torch.full((1, 3, 4, 4), 0.5)
    colour = torch.tensor([[[1.0, 0.5, 2.0], [0.1, 0.0, 0.5]]])
    alpha = torch.zeros(1, 1, 4, 4)
    alpha[..., 2:] = 1
    made = covered(images, {"colour": colour, "layer": torch.full((1, 3, 4, 4), -1.0), "alpha": alpha})
    torch.testing.assert_close(made[0, :, 0, 0], torch.tensor([0.6, 0.25, 1.0]))
    assert bool((made[..., 2:] == -1).all())


def test_shards_contain_samples_and_draws_determine_their_edits(
    tmp_path: Path, generator: StyleGAN2, bank: Bank
) -> None:
    shards = render_transfer_samples(generator, MeanCode(generator), Layers(photos()), tmp_path, 9, 0, 32)
    assert len(shards) == 2
    samples = TransferSamples(shards, bank)
    assert len(samples) == 16
    row = samples.draw(9, 5)
    shapes = {key: tuple(value.shape) for key, value in row.items() if isinstance(value, Tensor)}
    channels = generator.feature_channels[8]
    assert shapes == {
        "code": (generator.num_ws, 512), "w_plus": (generator.num_ws, 512), "residual": (channels, 8, 8),
        "colour": (2, 3), "layer": (3, 32, 32), "alpha": (1, 32, 32), "step": (generator.num_ws, 512),
    }  # fmt: skip
    assert torch.equal(row["step"], samples.draw(9, 5)["step"]) and torch.equal(row["code"], samples[9]["code"])
    assert not torch.equal(row["step"], samples.draw(9, 6)["step"]) and not torch.equal(row["code"], samples[8]["code"])
    made = [path.stat().st_mtime_ns for path in shards]
    render_transfer_samples(generator, MeanCode(generator), Layers(photos()), tmp_path, 9, 0, 32)
    assert made == [path.stat().st_mtime_ns for path in shards], "existing shards are kept"


def test_edits_are_drawn_from_the_useful_range(bank: Bank) -> None:
    samples = TransferSamples([], bank.subset(["a"]))
    strengths = [float((samples._step(seed) / bank["a"]).mean()) for seed in range(40)]
    assert min(strengths) >= -0.5001 and max(strengths) <= 1.0001 and len({round(s, 3) for s in strengths}) > 10


class IndexedPhotos(list):
    """Photos by index or by draw, as in a data module."""

    def __getitem__(self, item: int | Draw) -> dict:
        return super().__getitem__(item.item if isinstance(item, Draw) else item)


def test_targets_of_photos_change_only_at_redrawn_positions(tmp_path: Path, generator: StyleGAN2, bank: Bank) -> None:
    class ChangeError(torch.nn.Module):
        inputs = ("result", "photo", "edited", "inverted")

        def forward(self, result: Tensor, photo: Tensor, edited: Tensor, inverted: Tensor) -> Tensor:
            return ((edited - inverted) - (result - photo)).abs().mean()

    kept, nearby = IndexedPhotos(photos(9)), MeanCode(generator)
    shards = render_transfer_samples(generator, nearby, Layers(kept), tmp_path, 8, 0, 32)
    more = render_transfer_photos(nearby, kept, tmp_path, 9, 0, 32)
    assert len(more) == 1 and sorted(mixed(shards, more, 3)) == sorted([*shards, *more])
    samples = TransferSamples([*shards, *more], bank)
    rows = [samples[i] for i in (0, 9)]
    batch: dict = {key: torch.stack([row[key] for row in rows]) for key in rows[0] if key != "name"}
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(batch["layer"][1], kept[int(order[1])]["image"], atol=0.01, rtol=0)
    network = TransferNetwork(generator.feature_channels[8], 8, (8, 8, 8), 1)
    torch.nn.init.normal_(network.addition.weight, std=0.1)
    module = TransferModule(network, generator, {"l2": {"_target_": "torch.nn.MSELoss"}, "change": ChangeError()})
    known = module._known(network, batch)
    assert torch.equal(known["target"][0], known["truth"][0])
    torch.testing.assert_close(known["truth"][1], batch["layer"][1])
    redrawn = (known["target"] - known["truth"])[1].abs().mean()
    assert 0.01 < float(redrawn) < 1
    assert torch.equal(known["edited"][0], known["truth"][0])
    torch.testing.assert_close(known["inverted"][1:], generator.synthesis(batch["w_plus"][1:], size=32).clamp(-1, 1))
    module.losses.total(module.losses(known)).backward()
    assert float(network.gate.weight.grad.abs().sum()) > 0


def test_exact_samples_and_results_are_downscaled_full_images(tmp_path: Path, generator: StyleGAN2, bank: Bank) -> None:
    class RecordingInverter(MeanCode):
        def invert(self, photos: Tensor) -> Inversion:
            self.photos = photos
            return super().invert(photos)

    seen = []
    for exact in (False, True):
        inverter = RecordingInverter(generator)
        shards = render_transfer_samples(generator, inverter, Layers(), tmp_path / str(exact), 8, 0, 16, exact)
        row = {key: value[None] for key, value in TransferSamples(shards, bank)[0].items() if isinstance(value, Tensor)}
        size = None if exact else 16
        truth = covered(resize_area(generator.synthesis(row["code"], size=size), 16), row)
        torch.testing.assert_close(inverter.photos[:1], truth, atol=0.02, rtol=0)  # codes are stored in half precision
        network = TransferNetwork(generator.feature_channels[8], 8, (8, 8, 8), 1)  # untrained: keeps residuals
        known = TransferModule(network, generator, exact=exact)._known(network, row)
        edited = generator.synthesis(row["w_plus"] + row["step"], size=size, residuals={8: row["residual"]})
        torch.testing.assert_close(known["result"], resize_area(edited, 16), atol=1e-4, rtol=1e-4)
        seen.append(known["result"].detach())
    assert float((seen[0] - seen[1]).abs().max()) > 1e-3


def test_only_the_most_changed_positions_are_redrawn() -> None:
    moved = torch.full((1, 1, 8, 8), 0.2)
    moved[..., :4, :4] = 0.8
    redrawn = most_changed(moved)
    assert bool((redrawn[..., :4, :4] == 1).all()) and float(redrawn.sum()) == 16
    assert torch.equal(most_changed(moved / 4), redrawn), "relative to the edit's own largest change"
