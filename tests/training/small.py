"""Small real modules and data for the engine's tests."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from oodgan.nn.ema import Ema
from oodgan.nn.frozen import Frozen
from oodgan.training.manual import optimise
from oodgan.training.module import FitModule


class Points(Dataset):
    """Noisy images computed from the index by a known function."""

    def __init__(self, count: int = 48, bad: int | None = None) -> None:
        rng = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 3, 8, 8, generator=rng)
        if bad is not None:
            self.x[bad] = float("nan")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.x[index], "target": self.x[index].mean((1, 2)).abs(), "name": f"img{index}.png"}


class Shuffle(Sampler):
    """Seeded by epoch, sharded without padding, resumable."""

    def __init__(self, count: int, rank: int, world: int) -> None:
        self.count, self.rank, self.world, self.epoch = count, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.world

    def __iter__(self):
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        # Each rank gets its share of every global batch.
        return iter(order[self.rank :: self.world])


class PointData(pl.LightningDataModule):
    def __init__(self, count: int = 48, bad: int | None = None) -> None:
        super().__init__()
        self.data, self.batch_size = Points(count, bad), 4

    def train_dataloader(self):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        world = torch.distributed.get_world_size() if distributed else 1
        sampler = Shuffle(len(self.data), rank, world)
        return DataLoader(self.data, batch_size=self.batch_size // world, sampler=sampler, drop_last=True)

    def val_dataloader(self):
        return DataLoader(Points(8), batch_size=4)


def network(channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


class Regression(pl.LightningModule):
    """Automatic optimisation, a frozen teacher, EMA, dropout (random state), a schedule."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net, self.noise = network(), 0.1
        self.drop = nn.Dropout(0.2)
        self.ema = Ema(self.net, 0.9)
        torch.manual_seed(77)
        self.teacher = Frozen(network())

    def training_step(self, batch, batch_idx):
        x = batch["image"] + self.noise * torch.randn_like(batch["image"])
        loss = ((self.net(self.drop(x)) - batch["target"]) ** 2).mean()
        loss = loss + 0.01 * ((self.net(x) - self.teacher(x)) ** 2).mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        torch.rand(5)
        self.log("val/loss", ((self.ema(batch["image"]) - batch["target"]) ** 2).mean())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.net.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Gan(pl.LightningModule):
    """Manual optimisation of two networks, as the deghoster's stage does it."""

    automatic_optimization = False

    def __init__(self, seed: int = 0, noise: float = 0.1) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 3, 3, padding=1))
        self.critic = network()
        self.ema = Ema(self.net, 0.9)
        self.noise = noise

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        real = batch["image"]
        fake = self.net(real + self.noise * torch.randn_like(real))

        def generator_loss():
            return ((fake - real) ** 2).mean() + 0.01 * nn.functional.softplus(-self.critic(fake)).mean()

        def critic_loss():
            fooled = nn.functional.softplus(self.critic(fake.detach())).mean()
            return fooled + nn.functional.softplus(-self.critic(real)).mean()

        loss = optimise(self, first, generator_loss, batch_idx)
        other = optimise(self, second, critic_loss, batch_idx, counts=False)
        self.log_dict({"train/loss": loss, "train/critic": other})

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", ((self.ema(batch["image"]) - batch["image"]) ** 2).mean())

    def configure_optimizers(self):
        return [torch.optim.Adam(n.parameters(), 5e-3, betas=(0.5, 0.99)) for n in (self.net, self.critic)]


class StopAt(pl.Callback):
    """Raises an error at this step, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step >= self.step:
            raise RuntimeError("crash")


class Tv(nn.Module):
    """A user-defined loss: total variation of the result."""

    inputs = ("result",)

    def forward(self, result):
        return (result[..., 1:] - result[..., :-1]).abs().mean()


class Denoiser(FitModule):
    """The project's base module on small images, with a discriminator if a loss needs one."""

    def __init__(self, network=None, losses=None, strength=0.1, **others):
        torch.manual_seed(0)
        network = {"_target_": "torch.nn.Conv2d", **CONV} if network is None else network
        critic = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Conv2d", **CONV}]}
        loss = {"_target_": "oodgan.deghost.losses.discriminator_loss", "_partial_": True}
        others = {"ema_decay": 0.9, "discriminator": critic, "discriminator_loss": loss, **others}
        super().__init__(network, losses or {"l2": {"_target_": "torch.nn.MSELoss"}}, **others)
        self.strength = strength

    def predictions(self, network, batch):
        image = batch["image"]
        return {"result": network(image + self.strength * torch.randn_like(image)), "target": image}


CONV = {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "padding": 1}
GAN = {
    "l2": {"_target_": "torch.nn.MSELoss"},
    "gan": {"_target_": "oodgan.deghost.losses.GeneratorLoss", "weight": 0.1},
}


def seeded_features(images):
    """A small seeded network for FID: a random Inception gives almost the same features for all sets."""
    weight = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(5)).to(images)
    return torch.relu(nn.functional.conv2d(images, weight, stride=3)).mean((2, 3)).float()
