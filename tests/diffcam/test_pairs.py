"""Training pairs of Diff-CAM, the regions of their edits, and a training run on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodgan.data.dataset_module import DatasetModule
from oodgan.diffcam.module import DiffCAMModule
from oodgan.diffcam.network import DiffCAM
from oodgan.diffcam.pairs import InvertedCodes, PairRenderer, Pairs, find_regions, render_pairs
from oodgan.directions.bank import Bank
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion.layers import Layers
from oodgan.inversion.transfer import Whole
from oodgan.inversion.value import Inversion
from oodgan.tracking.loggers import read_csv
from oodgan.training.fit import fit


class Painter(nn.Module):
    """64 px: in layer 1, dimension 0 sets the upper half's grey, 1 a lower disc's, 2 a shared gradient."""

    id, resolution, num_ws, style_dim = "painter-0", 64, 4, 512
    feature_channels: dict[int, int] = {}  # noqa: RUF012
    mean_w: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_w", torch.zeros(512))
        line = torch.linspace(-1, 1, 64)
        self.upper = (line < -0.1).float()[:, None].expand(64, 64)
        self.disc = ((line[:, None] - 0.5).square() + line.square() < 0.12).float()
        self.shade = line[None].expand(64, 64)

    def mapping(self, z: Tensor) -> Tensor:
        return z

    def synthesis(self, w_plus: Tensor, noise: str = "const", size: int | None = None) -> Tensor:
        a, b, c = w_plus[:, 1, :3].mul(0.3).tanh().unbind(1)
        image = sum(
            v[:, None, None] * m for v, m in zip((a, b, 0.5 * c), (self.upper, self.disc, self.shade), strict=True)
        )
        return image[:, None].expand(-1, 3, -1, -1)


@pytest.fixture(scope="module")
def bank() -> Bank:
    vectors = torch.zeros(2, 4, 512)
    vectors[0, :, 0] = vectors[1, :, 1] = 2
    return Bank(("upper", "disc"), vectors, "painter-0", "painter-0")


@pytest.fixture(scope="module")
def network() -> DiffCAM:
    torch.manual_seed(0)
    return DiffCAM("vgg16", 2, layers=[3, 8], cut=9, trainable_from=23)


@pytest.fixture(scope="module")
def renderer(bank: Bank) -> PairRenderer:
    return PairRenderer(Painter(), bank, size=256, network_size=64, edits_per_code=2)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shards(renderer: PairRenderer, network: DiffCAM, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return render_pairs(renderer, network, tmp_path_factory.mktemp("pairs"), 96, seed=3)


def test_drawn_pairs_differ_only_in_the_region_of_their_direction(renderer: PairRenderer) -> None:
    inverted, edited, labels = renderer.draw(torch.Generator().manual_seed(1), 1)
    assert inverted.shape == (1, 3, 64, 64) and edited.shape == (2, 3, 64, 64)
    assert sorted(labels.tolist()) == [0, 1], "the directions of one code are all different"
    painter = renderer.generator
    for image, label in zip(edited, labels, strict=True):
        changed = (image - inverted[0]).abs().mean(0)
        own = (painter.upper, painter.disc)[int(label)]
        assert changed[own > 0].min() > 0.005 and changed[own == 0].max() < 1e-6


def test_strengths_have_both_signs_by_default(bank: Bank) -> None:
    def signs(both: bool) -> set[bool]:
        made = PairRenderer(Painter(), bank, 64, 64, 2, both_senses=both)  # type: ignore[arg-type]
        rng, result = torch.Generator().manual_seed(0), set()
        for i in range(8):
            inverted, edited, _ = made.draw(rng, i)
            result |= {bool(v > 0) for v in (edited - inverted).mean((1, 2, 3))}
        return result

    assert signs(True) == {True, False} and signs(False) == {True}


def test_a_second_call_keeps_complete_shards_and_renders_missing_ones(
    renderer: PairRenderer, network: DiffCAM, shards: list[Path]
) -> None:
    assert len(shards) == 2 and len(Pairs(shards)) == 96
    before = [path.read_bytes() for path in shards]
    kept = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    assert render_pairs(renderer, network, shards[0].parent, 96, seed=3) == shards
    assert [path.read_bytes() for path in shards] == before and shards[0].stat().st_mtime_ns == kept
    assert {path.suffix for path in shards[0].parent.iterdir()} == {".safetensors"}


def test_mirrored_pairs_are_stored_next_to_the_others(
    bank: Bank, network: DiffCAM, shards: list[Path], tmp_path: Path
) -> None:
    both = PairRenderer(Painter(), bank, 256, 64, edits_per_code=2, mirrored=True)  # type: ignore[arg-type]
    result, plain = Pairs(render_pairs(both, network, tmp_path, 96, seed=3)), Pairs(shards)
    assert len(result) == 2 * len(plain)
    labels, pooled = (
        result.data[key].unflatten(0, (-1, 2, 2)) for key in ("label", "pooled")
    )  # axes: code, view, edit
    assert torch.equal(labels[:, 0].flatten(), plain.data["label"]) and torch.equal(labels[:, 0], labels[:, 1])
    # The painter's pictures are symmetric except for the shade, which no direction changes.
    assert torch.allclose(pooled[:, 0].flatten(0, 1), plain.data["pooled"], atol=1e-5)


def test_networks_with_other_features_share_the_rendered_images(
    bank: Bank, network: DiffCAM, shards: list[Path], tmp_path: Path
) -> None:
    class Counting(Painter):
        calls = 0

        def synthesis(self, w_plus: Tensor, noise: str = "const", size: int | None = None) -> Tensor:
            self.calls += 1
            return super().synthesis(w_plus, noise, size)

    painter, images = Counting(), tmp_path / "images"
    renderer = PairRenderer(painter, bank, size=256, network_size=64, edits_per_code=2)  # type: ignore[arg-type]
    first = render_pairs(renderer, network, tmp_path / "first", 96, 3, images)
    rendered = painter.calls
    assert rendered and [path.read_bytes() for path in first] == [path.read_bytes() for path in shards]
    torch.manual_seed(0)
    other = DiffCAM("vgg16", 2, layers=[8], cut=9, trainable_from=23)
    second = Pairs(render_pairs(renderer, other, tmp_path / "second", 96, 3, images))
    assert painter.calls == rendered and torch.equal(second.data["label"], Pairs(first).data["label"])
    fresh = Pairs(render_pairs(renderer, other, tmp_path / "fresh", 96, 3))
    assert torch.equal(second.data["pooled"], fresh.data["pooled"])


def test_stored_pooled_features_equal_those_of_the_network(
    renderer: PairRenderer, network: DiffCAM, shards: list[Path], tmp_path: Path
) -> None:
    assert set(Pairs(shards).data) >= {"label", "pooled"} and "edited" not in Pairs(shards).data
    torch.manual_seed(0)
    whole = DiffCAM("vgg16", 2, layers=[3, 8], cut=9, trainable_from=0)
    whole.load_state_dict(network.state_dict())
    images = Pairs(render_pairs(renderer, whole, tmp_path, 4, seed=3))
    pooled = Pairs(shards)
    assert "pooled" not in images.data
    for i in range(3):
        row = images[i]
        assert int(row["label"]) == int(pooled[i]["label"])
        with torch.no_grad():
            logits = whole.eval()(row["inverted"][None], row["edited"][None])
            stored = network.fc(pooled[i]["pooled"][None])
        assert torch.allclose(logits, stored, atol=2e-2)


def test_regions_cover_the_place_of_each_edit(renderer: PairRenderer, network: DiffCAM) -> None:
    result = find_regions(renderer, network, codes=6, seed=1)
    assert result.shape == (2, 32, 32) and result.min() >= 0 and result.max() <= 1
    painter = renderer.generator
    for region, own in zip(result, (painter.upper, painter.disc), strict=True):
        small = nn.functional.avg_pool2d(own[None, None], 2)[0, 0]
        grown = nn.functional.max_pool2d(small[None, None], 7, 1, 3)[0, 0]
        assert region[small == 1].mean() > 5 * region[grown == 0].mean()
        assert region[grown == 0].mean() < 0.1


def test_training_learns_to_classify_the_edit_and_stores_only_trained_tensors(
    network: DiffCAM, shards: list[Path], tmp_path: Path
) -> None:
    frozen = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("fc.")}
    adam = {"_target_": "torch.optim.Adam", "lr": 0.1, "betas": [0.9, 0.99]}
    cosine = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 45}
    module = DiffCAMModule(network, optimizer=adam, scheduler=cosine)
    data = DatasetModule(Pairs(shards), 24, 16, seed=0)
    settings = {"max_steps": 45, "batch_size": 16, "val_every": 15, "monitor": "val/loss"}
    cfg = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "diffcam", "seed": 0}
    result = fit(module, data, cfg=cfg, settings=settings, folder=tmp_path / "run")
    losses = [value for _, name, value in read_csv(tmp_path / "run/metrics.csv") if name == "val/loss"]
    assert len(losses) == 3 and losses[-1] < 0.8 * 0.693
    assert result.metrics["val/accuracy"] > 0.8
    saved = torch.load(result.checkpoint, weights_only=True)["state_dict"]
    assert set(saved) == {"network.fc.weight", "network.fc.bias"}
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in frozen.items())
    fresh = DiffCAMModule(DiffCAM("vgg16", 2, layers=[3, 8], cut=9, trainable_from=23))
    fresh.load_state_dict(saved)
    assert torch.equal(fresh.network.fc.weight, saved["network.fc.weight"])


@pytest.mark.network
def test_confusion_matrix_and_mask_quality_are_logged_in_training(
    network: DiffCAM, shards: list[Path], renderer: PairRenderer, tmp_path: Path
) -> None:
    import csv

    from oodgan.diffcam.callbacks import ConfusionMatrix, MaskQuality
    from oodgan.paths import FitFolder

    module = DiffCAMModule(network, optimizer={"_target_": "torch.optim.Adam", "lr": 0.1})
    settings = {"max_steps": 4, "batch_size": 16, "val_every": 2, "monitor": "val/loss"}
    cfg = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "diffcam", "seed": 0}
    watching = [ConfusionMatrix(renderer.bank.names), MaskQuality(renderer, samples=2)]
    data = DatasetModule(Pairs(shards), 25, 16, seed=0)
    fit(module, data, cfg=cfg, settings=settings, folder=tmp_path, callbacks=watching)
    rows = list(csv.reader(FitFolder(tmp_path).confusion.open()))
    counts = torch.tensor([[int(value) for value in row[1:]] for row in rows[1:]])
    assert rows[0][1:] == list(renderer.bank.names) and counts.sum() == 25
    accuracy = [v for _, name, v in read_csv(tmp_path / "metrics.csv") if name == "val/accuracy"]
    assert counts.trace() / 25 == pytest.approx(accuracy[-1], abs=1e-6)
    for name in ("val/mask_share_inside", "val/mask_iou_at_0.5"):
        values = [v for _, key, v in read_csv(tmp_path / "metrics.csv") if key == name]
        assert len(values) == 2 and all(0 <= v <= 1 for v in values)


class BrightResidual:
    """The mean code, and a residual that brightens the image."""

    name = "greyish"

    def __init__(self, generator: StyleGAN2) -> None:
        self.generator = generator

    def invert(self, photos: Tensor) -> Inversion:
        codes = self.generator.mean_w.expand(len(photos), self.generator.num_ws, -1)
        return Inversion(codes, {8: torch.ones(len(photos), self.generator.feature_channels[8], 8, 8)})


def test_a_fraction_of_the_codes_are_inversions_with_their_residuals() -> None:
    generator = tiny().requires_grad_(False)
    vectors = torch.randn(2, generator.num_ws, 512, generator=torch.Generator().manual_seed(1))
    bank = Bank(("a", "b"), vectors, generator.id, "test")

    def drawn(share: float | None) -> list[tuple[Tensor, Tensor, Tensor]]:
        photos = None if share is None else InvertedCodes(BrightResidual(generator), Whole(), Layers(), share)  # type: ignore[arg-type]
        made = PairRenderer(generator, bank, 32, 32, 2, photos=photos)
        return [made.draw(torch.Generator().manual_seed(i), i) for i in range(6)]

    start = BrightResidual(generator).invert(torch.zeros(1, 3, 32, 32))
    inverted, edited, labels = drawn(1.0)[0]
    torch.testing.assert_close(inverted, start.image(generator, 32))
    assert edited.shape == (2, 3, 32, 32) and sorted(labels.tolist()) == [0, 1]
    assert float((edited - inverted).abs().mean()) > 0.01
    equal = [torch.allclose(half[0], start.image(generator, 32), atol=1e-4) for half in drawn(0.5)]
    assert any(equal) and not all(equal)
    assert not any(torch.allclose(one[0], start.image(generator, 32), atol=1e-4) for one in drawn(None))
