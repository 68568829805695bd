"""The light deghoster, its training and the remover that pastes its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from oodgan.compose import compose
from oodgan.data.dataset_module import DatasetModule
from oodgan.deghost.discriminator import Discriminator
from oodgan.deghost.light import LightDeghoster
from oodgan.deghost.module import DeghostModule
from oodgan.deghost.remover import Remover, build
from oodgan.errors import UserError
from oodgan.generators.protocol import sample_codes
from oodgan.generators.stylegan2 import StyleGAN2, tiny
from oodgan.tracking.loggers import read_csv
from oodgan.training.fit import fit
from oodgan.weights import trained

SMALL: dict[str, Any] = {"size": 32, "widths": [8, 16], "prior": [16, 32], "prior_width": 8}


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return tiny().requires_grad_(False)


def make_network(generator: StyleGAN2, seed: int = 0, wild: bool = False, **changes: Any) -> LightDeghoster:
    torch.manual_seed(seed)
    network = LightDeghoster(generator, **{**SMALL, **changes})
    if wild:  # random output weights: would change every pixel without the mask
        torch.nn.init.normal_(network.out.weight)
    return network


def ghosts(generator: StyleGAN2, count: int = 2, size: int = 32) -> dict[str, Tensor]:
    """Coarse images with a colour cast in the edited part that the target lacks; the mask is a soft disc."""
    codes = sample_codes(generator, count, 3, 1.0)
    photo = generator.synthesis(codes).clamp(-1, 1) * 0.6
    if size != 32:
        photo = torch.nn.functional.interpolate(photo, (size, size), mode="bilinear")
    line = torch.linspace(-1, 1, size)
    mask = (1.3 - 1.7 * (line[:, None].square() + line.square()).sqrt()).clamp(0, 1).expand(count, 1, -1, -1)
    cast = torch.tensor([0.4, -0.3, 0.2])[:, None, None]
    edited = photo + cast
    coarse = compose(photo, photo, edited, mask, "paper")
    images = {"coarse": coarse, "photo": photo, "inverted": photo, "edited": edited}
    return {**images, "mask": mask, "code": codes, "target": photo}


class Rows(Dataset):
    def __init__(self, data: dict[str, Tensor]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data["coarse"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: value[index] for key, value in self.data.items()} | {"name": str(index)}


def inputs(data: dict[str, Tensor]) -> list[Tensor]:
    return [data[key] for key in ("coarse", "photo", "inverted", "edited", "mask", "code")]


def test_an_untrained_deghoster_is_close_to_the_identity(generator: StyleGAN2) -> None:
    data = ghosts(generator)
    fine = make_network(generator)(*inputs(data))
    assert fine.shape == data["coarse"].shape
    assert (fine - data["coarse"]).abs().max() < 0.1 * (data["edited"] - data["coarse"]).abs().max() + 1e-5


@pytest.mark.parametrize("size", [32, 80])
@pytest.mark.parametrize("paste", [True, False])
def test_outside_the_mask_the_photo_is_bit_identical(generator: StyleGAN2, size: int, paste: bool) -> None:
    data = ghosts(generator, size=size)
    remover = Remover(make_network(generator, wild=True), paste)
    keys = ("coarse", "photo", "inverted", "edited", "mask")
    result = remover(**{key: data[key] for key in keys}, w_plus=data["code"])
    outside = (data["mask"] == 0).expand_as(result)
    assert outside.any() and torch.equal(result[outside], data["photo"][outside])
    inside = (data["mask"] > 0.5).expand_as(result)
    assert (result[inside] - data["coarse"][inside]).abs().mean() > 0.01, "inside the mask the result changes"
    assert result.min() >= -1 and result.max() <= 1


def test_blend_and_shift_fields_are_bounded(generator: StyleGAN2) -> None:
    blend, shift = make_network(generator, wild=True, reach=0.2).fields(*inputs(ghosts(generator)))
    assert blend.shape == (2, 1, 32, 32) and shift.shape == (2, 3, 32, 32)
    assert blend.min() >= 0 and blend.max() <= 1 and shift.abs().max() <= 0.2


def test_the_result_depends_on_the_prior_and_on_the_inputs(generator: StyleGAN2) -> None:
    data = ghosts(generator)
    network = make_network(generator, wild=True)
    fine = network(*inputs(data))
    assert not torch.equal(fine, network(*inputs({**data, "code": data["code"].roll(1, 0)})))
    assert not torch.equal(fine, network(*inputs({**data, "inverted": -data["inverted"]})))
    blind = make_network(generator, wild=True, sees="coarse")
    first, second = (blind.fields(*inputs({**data, "inverted": x})) for x in (data["inverted"], -data["inverted"]))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_parameter_is_used(generator: StyleGAN2) -> None:
    network = make_network(
        generator, wild=True, prior=[4, 16, 32, 64]
    )  # 4 px is not used by any block, 64 px does not exist
    network(*inputs(ghosts(generator))).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_gan_training_lowers_the_loss_and_does_not_change_the_generator(generator: StyleGAN2, tmp_path: Path) -> None:
    frozen = {name: value.clone() for name, value in generator.state_dict().items()}
    torch.manual_seed(0)
    critic = Discriminator(32, channel_multiplier=1, max_channels=8)
    critic_before = {name: value.clone() for name, value in critic.state_dict().items()}
    l2, l1 = {"_target_": "torch.nn.MSELoss"}, {"_target_": "torch.nn.L1Loss", "weight": 0.2}
    losses = {"l2": l2, "l1": l1, "gan": {"_target_": "oodgan.deghost.losses.GeneratorLoss", "weight": 0.001}}
    adam = {"_target_": "torch.optim.Adam", "lr": 1e-2, "betas": [0.9, 0.99]}
    cosine = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 24}
    module = DeghostModule(make_network(generator), critic, losses, adam, cosine, ema_decay=0.8)
    settings = {"max_steps": 24, "batch_size": 4, "val_every": 8, "monitor": "val/loss"}
    cfg = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "deghost", "seed": 0}
    data = DatasetModule(Rows(ghosts(generator, 16)), 4, 4)
    result = fit(module, data, cfg=cfg, settings=settings, folder=tmp_path / "run")
    values = [v for _, name, v in read_csv(tmp_path / "run/metrics.csv") if name == "val/l2"]
    assert len(values) == 3 and values[-1] < 0.7 * result.metrics["val/l2_coarse"]
    assert result.steps == 24, "steps of both optimisers count once"
    assert all(torch.equal(value, frozen[name]) for name, value in generator.state_dict().items())
    assert any(not torch.equal(value, critic_before[name]) for name, value in critic.state_dict().items())
    saved = torch.load(result.checkpoint, weights_only=True)
    assert saved["global_step"] <= 24 and len(saved["optimizer_states"]) == 2
    assert not any("generator" in name for name in saved["state_dict"])


def test_without_a_gan_loss_only_one_optimiser_is_created(generator: StyleGAN2) -> None:
    losses = {"l2": torch.nn.MSELoss(), "gan": {"_target_": "oodgan.deghost.losses.GeneratorLoss", "weight": 0.0}}
    module = DeghostModule(make_network(generator), Discriminator(32, 1, 8), losses)
    assert module.discriminator is None and len(module.configure_optimizers()) == 1


def test_a_remover_is_loaded_from_its_weights_and_another_generator_is_refused(
    generator: StyleGAN2, tmp_path: Path
) -> None:
    network = make_network(generator, wild=True)
    trained.save(tmp_path / trained.FILE, network.trained_state(), part="deghoster", generator=generator.id)
    settings = {"_target_": "oodgan.deghost.light.LightDeghoster", **SMALL}
    cfg = {"name": "light", "network": settings, "weights": str(tmp_path), "paste": True}
    data = ghosts(generator)
    built = build(cfg, generator)
    assert built is not None
    assert torch.allclose(built.network(*inputs(data)), network.eval()(*inputs(data)), atol=1e-5)
    other = tiny(seed=1)
    with pytest.raises(UserError) as caught:
        build(cfg, other)
    assert generator.id in str(caught.value) and other.id in str(caught.value)
    with pytest.raises(UserError, match="do not fit this deghoster"):
        build({**cfg, "network": {**settings, "prior_width": 16}}, generator)
    with pytest.raises(UserError, match="oodgan deghost"):
        build({**cfg, "weights": None}, generator)
    assert build({"name": "none", "network": None}, generator) is None
