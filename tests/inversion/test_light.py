"""The light encoder, its samples and its training with the 32 px generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oodgan.data.datamodule import ImageDataModule
from oodgan.data.dataset_module import DatasetModule
from oodgan.data.sources import Generated
from oodgan.data.splits import HashSplit
from oodgan.errors import UserError
from oodgan.generators.protocol import sample_codes
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.inversion.augment import occlude, photometric
from oodgan.inversion.inverter import build, build_encoder, load_encoder
from oodgan.inversion.light import LightEncoder, resize_area
from oodgan.inversion.losses import DeltaLoss, NormLoss
from oodgan.inversion.module import InversionModule
from oodgan.inversion.protocol import Encoder
from oodgan.inversion.samples import DescribedSamples, render_samples
from oodgan.tracking.loggers import read_csv
from oodgan.training.fit import fit
from oodgan.weights import trained

SMALL: dict[str, Any] = {"hidden": 32, "rank": 4, "pretrained": False, "size": 64, "dropout": 0.0}
CODES = {"code": {"_target_": "oodgan.inversion.losses.CodeLoss"}}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 3e-3, "betas": [0.9, 0.99], "weight_decay": 0.0}
COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 40}
CFG = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "inversion", "seed": 0}


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny().requires_grad_(False)


def make_encoder(seed: int = 0, **changes: Any) -> LightEncoder:
    torch.manual_seed(seed)
    return LightEncoder(8, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def samples(generator: StyleGAN2, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return render_samples(generator, make_encoder(), tmp_path_factory.mktemp("samples"), 100, seed=1, size=32)


def test_the_encoder_applies_its_head_to_the_backbone_features() -> None:
    encoder = make_encoder().eval()
    photos = 2 * torch.rand(2, 3, 48, 48) - 1
    described = encoder.describe(photos)
    assert {k: tuple(v.shape[1:]) for k, v in described.items()} == {
        "level0": (64, 8, 8), "level1": (192, 8, 8), "level2": (384, 8, 8), "level3": (256, 8, 8),
    }  # fmt: skip
    offsets = encoder(photos)
    assert offsets.shape == (2, 8, 512) and torch.equal(offsets, encoder.head(described))
    assert not torch.allclose(offsets[0], offsets[1])
    assert not torch.allclose(offsets[:, 0], offsets[:, 5]), "codes differ between layers"


def test_only_the_head_is_trained_and_saved() -> None:
    encoder = make_encoder()
    assert not any("backbone" in name for name in encoder.state_dict())
    features = encoder.describe(torch.zeros(1, 3, 64, 64))
    (encoder.head(features) + encoder.correct(features, features)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all(p.grad is None for p in encoder.backbone.network.parameters())


def test_a_photo_that_is_not_square_is_refused() -> None:
    with pytest.raises(UserError, match="48x32"):
        make_encoder()(torch.zeros(1, 3, 32, 48))


def test_area_resizing_averages_pixels() -> None:
    x = torch.rand(1, 3, 8, 8)
    assert torch.allclose(resize_area(x, 4)[0, 0, 1, 2], x[0, 0, 2:4, 4:6].mean())
    assert resize_area(x, 8) is x and resize_area(x, 16).shape[-1] == 16


def test_augmentation_changes_some_pixels_and_depends_on_its_seed() -> None:
    images = 2 * torch.rand(8, 3, 32, 32) - 1
    for augment in (photometric, occlude):
        one, two, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, two) and not torch.equal(one, other)
        assert one.shape == images.shape and one.abs().max() <= 1.5
    covered = (occlude(images, torch.Generator().manual_seed(1)) - images).abs().amax((1, 2, 3)) > 0.1
    assert 0 < covered.sum() < 8, "occlusion covers some of the images"
    assert not torch.equal(occlude(images, torch.Generator().manual_seed(1), 1.0), images)
    assert torch.equal(occlude(images, torch.Generator().manual_seed(1), 0.0), images)


def test_shards_contain_exact_codes_with_their_features(generator: StyleGAN2, samples: list[Path]) -> None:
    data = DescribedSamples(samples)
    assert len(data) == 100
    row = data[2]  # the first batch of four is not augmented
    with torch.no_grad():
        image = generator.synthesis(row["code"][None]).clamp(-1, 1)
        described = make_encoder().describe(image)
    for key, value in row["features"].items():
        assert torch.allclose(value, described[key][0], atol=2e-2), key
    assert row["code"].shape == (8, 512) and row["code"].dtype == torch.float32


def test_complete_shards_are_kept(generator: StyleGAN2, samples: list[Path]) -> None:
    before = [path.stat().st_mtime_ns for path in samples]
    assert render_samples(generator, make_encoder(), samples[0].parent, 100, seed=1, size=32) == samples
    assert [path.stat().st_mtime_ns for path in samples] == before


def losses(module: InversionModule, batch: dict) -> dict[str, Tensor]:
    return module.losses(module._known(module.network, batch))


def test_training_lowers_the_held_out_error_of_the_codes(
    generator: StyleGAN2, samples: list[Path], tmp_path: Path
) -> None:
    module = InversionModule(make_encoder(), generator, CODES, ADAMW, COSINE, ema_decay=0.8, size=32)
    frozen = {name: value.clone() for name, value in generator.state_dict().items()}
    settings = {"max_steps": 40, "batch_size": 16, "val_every": 10, "monitor": "val/loss"}
    data = DatasetModule(DescribedSamples(samples), 20, 16)
    result = fit(module, data, cfg=CFG, settings=settings, folder=tmp_path / "run")
    values = [v for _, name, v in read_csv(tmp_path / "run/metrics.csv") if name == "val/code"]
    first = next(v for _, name, v in read_csv(tmp_path / "run/metrics.csv") if name == "train/code")
    assert len(values) == 4 and values[-1] < 0.8 * first
    assert all(torch.equal(value, frozen[name]) for name, value in generator.state_dict().items())
    saved = torch.load(result.checkpoint, weights_only=True)["state_dict"]
    assert not any("backbone" in name or "generator" in name for name in saved)


def test_image_losses_give_the_encoder_gradients_and_codes_of_samples_are_compared(generator: StyleGAN2) -> None:
    data = ImageDataModule(Generated(generator, 8, 32), batch_size=4, split=HashSplit(0.2, 0.2))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    module = InversionModule(
        make_encoder(),
        generator,
        {**CODES, "l2": torch.nn.MSELoss(), "norm": NormLoss(), "delta": DeltaLoss()},
        size=32,
    )
    parts = losses(module, batch)
    assert set(parts) == {"code", "l2", "norm", "delta"}, "the code loss is computed, as codes of samples are known"
    with torch.no_grad():
        expected = (generator.mean_w + module.encoder(batch["image"]) - batch["w_plus"]) / module.deviation
    assert torch.allclose(parts["code"], expected.square().mean(), rtol=1e-3)
    parts["l2"].backward()
    assert module.encoder.shared.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in generator.parameters())


def test_in_mixed_batches_the_code_loss_counts_only_samples(generator: StyleGAN2) -> None:
    codes = sample_codes(generator, 2, 1)
    images = generator.synthesis(codes).clamp(-1, 1)
    batch = {"image": images, "w_plus": codes * torch.tensor([1.0, 0.0])[:, None, None]}
    module = InversionModule(make_encoder(), generator, CODES, size=32)

    def loss(*known: bool) -> Tensor:
        return losses(module.eval(), {**batch, "has_w_plus": torch.tensor(known)})["code"]

    alone = losses(module, {"image": images[:1], "w_plus": codes[:1], "has_w_plus": torch.tensor([True])})
    assert torch.allclose(2 * loss(True, False), alone["code"], rtol=1e-4)
    assert loss(False, False) == losses(module, {"image": images})["code"] == 0


def test_an_encoder_is_built_from_its_weights_and_another_generator_is_refused(
    generator: StyleGAN2, tmp_path: Path
) -> None:
    encoder = make_encoder().eval()
    trained.save(tmp_path / trained.FILE, encoder.state_dict(), part="encoder", generator=generator.id)
    cfg = {
        "name": "light",
        "encoder": {"_target_": "oodgan.inversion.light.LightEncoder", **SMALL},
        "weights": str(tmp_path),
    }
    torch.manual_seed(0)  # the untrained backbone is random
    photos = 2 * torch.rand(1, 3, 32, 32) - 1
    torch.manual_seed(0)
    built: Any = build(cfg, generator)
    assert torch.allclose(built.invert(photos).w_plus, generator.mean_w + encoder(photos), atol=1e-5)
    other = tiny(seed=1)
    with pytest.raises(UserError) as caught:
        build(cfg, other)
    assert generator.id in str(caught.value) and other.id in str(caught.value)
    with pytest.raises(UserError, match="do not fit this encoder"):
        build({**cfg, "encoder": {**cfg["encoder"], "hidden": 16}}, generator)


def test_an_untrained_second_pass_changes_nothing_and_a_trained_one_corrects(generator: StyleGAN2) -> None:
    encoder = make_encoder().eval()
    photos = 2 * torch.rand(2, 3, 32, 32) - 1
    once = encoder.offsets(generator, photos, 1)
    assert torch.allclose(encoder.offsets(generator, photos, 2), once, atol=1e-6)
    torch.nn.init.normal_(encoder.correction[-1].weight, std=0.1)
    twice = encoder.offsets(generator, photos, 2)
    assert not torch.allclose(twice, once, atol=1e-3)
    own = generator.synthesis(generator.mean_w + once).clamp(-1, 1)  # equal images: only biases
    features = encoder.describe(own)
    assert torch.allclose(*encoder.correct(features, features), atol=1e-5)


def test_both_passes_get_gradients_and_an_unused_correction_is_frozen(generator: StyleGAN2) -> None:
    encoder = make_encoder()
    module = InversionModule(encoder, generator, {"l2": torch.nn.MSELoss()}, size=32, passes=2, occlusion=1.0)
    module.training_step({"image": 2 * torch.rand(1, 3, 32, 32) - 1}, 0).backward()
    for trained_part in (encoder.shared, encoder.correction[-1]):
        assert trained_part.weight.grad is not None and bool(trained_part.weight.grad.any())
    InversionModule(encoder, generator, CODES, size=32)
    assert not any(p.requires_grad for p in encoder.correction.parameters()), "frozen with a single pass"


def test_only_encoders_with_a_correction_can_run_twice(generator: StyleGAN2) -> None:
    class OnePassEncoder(torch.nn.Module, Encoder):
        def forward(self, photos: Tensor) -> Tensor:
            return torch.zeros(len(photos), 8, 512)

    photos = torch.zeros(1, 3, 32, 32)
    assert not OnePassEncoder().offsets(generator, photos).any() and not OnePassEncoder().describes
    for encoder, passes in ((OnePassEncoder(), 2), (OnePassEncoder(), 0), (make_encoder(), 0)):
        with pytest.raises(UserError, match=f"inverter.passes={passes}"):
            encoder.offsets(generator, photos, passes)


def test_a_class_that_is_not_an_encoder_is_refused(generator: StyleGAN2) -> None:
    with pytest.raises(UserError, match=r"_target_=torch.nn.Identity: a class that derives from .*Encoder"):
        build_encoder({"encoder": {"_target_": "torch.nn.Identity"}}, generator)


class PixelRecogniser:
    """A recogniser whose embedding is a part of the pixels."""

    differentiable = True

    def __init__(self, name: str = "eyes", size: int = 512) -> None:
        self.name, self.size = name, size

    def __call__(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1)[:, : self.size] + 2, dim=1)

    def networks(self, device: str) -> tuple[torch.nn.Module, ...]:
        return ()


def test_an_encoder_needs_the_recogniser_of_its_training(generator: StyleGAN2, tmp_path: Path) -> None:
    encoder = make_encoder(recogniser=PixelRecogniser()).eval()
    photos = 2 * torch.rand(2, 3, 32, 32) - 1
    assert torch.equal(encoder.describe(photos)["identity"], PixelRecogniser()(photos))
    metadata = {"part": "encoder", "generator": generator.id, "identity": encoder.identity}
    trained.save(tmp_path / trained.FILE, encoder.state_dict(), **metadata)
    recipe = {"_target_": "oodgan.inversion.light.LightEncoder", **SMALL, "recogniser": PixelRecogniser()}
    cfg = {"name": "light", "encoder": recipe, "weights": str(tmp_path)}
    assert torch.equal(load_encoder(cfg, generator).eval()(photos), encoder(photos))
    with pytest.raises(UserError, match=r"trained with the recogniser eyes, inverter.encoder.recogniser is ears"):
        load_encoder({**cfg, "encoder": {**recipe, "recogniser": PixelRecogniser("ears")}}, generator)
    with pytest.raises(UserError, match="an embedding of 512 numbers, and eyes gives 64"):
        make_encoder(recogniser=PixelRecogniser(size=64))(photos)


def test_random_features_are_the_same_in_every_process():
    """They are frozen, so checkpoints do not store them."""
    torch.manual_seed(1)
    one = LightEncoder(pretrained=False, hidden=8, rank=2)
    torch.manual_seed(2)
    other = LightEncoder(pretrained=False, hidden=8, rank=2)
    photos = torch.rand(1, 3, 64, 64) * 2 - 1
    mine, theirs = one.describe(photos), other.describe(photos)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
