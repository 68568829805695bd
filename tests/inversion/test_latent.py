"""The latent discriminator: its losses, their effect on codes, disabling it, and exact resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.data.dataset_module import DatasetModule
from oodgan.generators.stylegan2 import tiny
from oodgan.inversion.latent import LatentDiscriminator, discriminator_loss
from oodgan.inversion.losses import LatentLoss
from oodgan.inversion.module import InversionModule
from oodgan.inversion.protocol import Encoder
from oodgan.training import checkpoints
from oodgan.training.fit import fit

CFG = {"trainer": {"accelerator": "cpu", "log_every_n_steps": 1}, "stage": "latent", "seed": 3}


class SmallEncoder(nn.Module, Encoder):
    """Photos -> code offsets, by one linear layer on an 8 px image."""

    def __init__(self, num_ws: int = 8) -> None:
        super().__init__()
        self.linear = nn.Linear(192, num_ws * 512)
        self.num_ws = num_ws

    def forward(self, photos: Tensor) -> Tensor:
        return self.linear(F.adaptive_avg_pool2d(photos, 8).flatten(1)).unflatten(1, (self.num_ws, 512))


class Photos(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "name": str(index)}


class StopAt(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step >= self.step:
            raise RuntimeError("crash")


def module(seed: int = 0, steps: int = 4, latent: float = 0.0) -> InversionModule:
    torch.manual_seed(seed)
    adversary = {"_target_": "oodgan.inversion.losses.LatentLoss", "weight": latent}
    losses = {"l2": {"_target_": "torch.nn.MSELoss"}, "latent": adversary}
    adam = {"_target_": "torch.optim.AdamW", "lr": 1e-2, "betas": [0.9, 0.99], "weight_decay": 0.0}
    cosine = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": steps}
    return InversionModule(SmallEncoder(), tiny(), losses, adam, cosine, size=32)


def train(which: InversionModule, folder: Path, steps: int = 4, **more) -> object:
    settings = {"max_steps": steps, "batch_size": 4, "val_every": 2, "checkpoint_every": 1, "monitor": "val/loss"}
    data = DatasetModule(Photos(), 4, 4)
    return fit(which, data, cfg=CFG, settings=settings, folder=folder, **more)


def test_the_discriminator_exists_only_if_the_latent_loss_has_a_weight() -> None:
    plain = module()
    assert plain.automatic_optimization and plain.discriminator is None
    adversarial = module(latent=0.1)
    assert not adversarial.automatic_optimization and isinstance(adversarial.discriminator, LatentDiscriminator)


def test_the_discriminator_loss_equals_cross_entropy_plus_gradient_penalty() -> None:
    torch.manual_seed(0)
    network, real, fake = LatentDiscriminator(6, 5, 3), torch.randn(4, 6), torch.randn(7, 6)
    assert [type(layer) for layer in network.network] == [nn.Linear, nn.LeakyReLU, nn.Linear, nn.LeakyReLU, nn.Linear]
    entropy = -network(real).sigmoid().log().mean() - (1 - network(fake).sigmoid()).log().mean()
    assert torch.allclose(discriminator_loss(network, real, fake, gamma=0), entropy, atol=1e-6)
    slopes = torch.autograd.functional.jacobian(lambda x: network(x).squeeze(1), real)  # shape (4, 4, 6)
    penalty = torch.stack([slopes[i, i].square().sum() for i in range(4)]).mean()
    assert torch.allclose(discriminator_loss(network, real, fake, gamma=3.0), entropy + 1.5 * penalty, atol=1e-5)


def test_the_latent_loss_moves_codes_towards_w() -> None:
    """The latent loss alone moves distant codes towards the distribution of the mapping network."""
    torch.manual_seed(0)
    generator = tiny()
    learner = InversionModule(SmallEncoder(), generator, {"latent": LatentLoss()}, size=32)
    nn.init.constant_(learner.encoder.linear.bias, 2 * float(learner.deviation))
    first = torch.optim.Adam(learner.encoder.parameters(), 3e-3)
    second = torch.optim.Adam(learner.discriminator.parameters(), 1e-3)
    photos = Photos().images[:8]

    def distance() -> float:
        with torch.no_grad():
            return float((learner.encoder(photos) / learner.deviation).mean(dim=(0, 1)).norm())

    before = distance()
    for _ in range(60):
        known = learner._known(learner.encoder, {"image": photos})
        fakes = learner.fake(known)
        loss = learner.losses({"logits": learner.discriminator(fakes)})["latent"]
        first.zero_grad()
        loss.backward()
        first.step()
        second.zero_grad()
        discriminator_loss(learner.discriminator, learner.real(known), fakes).backward()
        second.step()
    assert distance() < 0.6 * before


def test_training_updates_both_networks_and_validation_ignores_the_discriminator(tmp_path: Path) -> None:
    from oodgan.tracking.loggers import read_csv

    learner = module(latent=0.1)
    before = {name: value.clone() for name, value in learner.named_parameters()}
    train(learner, tmp_path / "run")
    for part in ("network.linear.weight", "discriminator.network.0.weight"):
        assert not torch.equal(before[part], learner.state_dict()[part]), part
    logged = {name for _, name, _ in read_csv(tmp_path / "run/metrics.csv")}
    assert {"train/latent", "train/discriminator", "train/l2", "val/l2", "val/loss"} <= logged
    assert "val/latent" not in logged
    saved = checkpoints.load(tmp_path / "run/checkpoints/last.ckpt")
    assert saved["global_step"] == 4 and len(saved["optimizer_states"]) == 2


@pytest.mark.parametrize("crash", [2, 3])
def test_a_resumed_run_ends_with_the_same_weights(crash: int, tmp_path: Path) -> None:
    whole = module(latent=0.1)
    train(whole, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        train(module(latent=0.1), tmp_path / "parts", callbacks=[StopAt(crash)])
    again = module(seed=9, latent=0.1)
    train(again, tmp_path / "parts", resume="auto")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    one, other = (checkpoints.load(tmp_path / n / "checkpoints/last.ckpt") for n in ("whole", "parts"))
    for a, b in zip(one["optimizer_states"], other["optimizer_states"], strict=True):
        assert all(torch.equal(a["state"][k]["exp_avg"], b["state"][k]["exp_avg"]) for k in a["state"])
