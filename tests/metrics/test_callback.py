import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from oodgan.errors import UserError
from oodgan.metrics.callback import ImageMetrics
from oodgan.metrics.registry import build

COUNT = 11


class Blur(pl.LightningModule):
    """A module with one trainable number; its result is the target times that number."""

    def __init__(self, keys=("target", "result")):
        super().__init__()
        self.gain, self.keys = torch.nn.Parameter(torch.tensor(0.5)), keys
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(COUNT, 3, 24, 24, generator=generator) * 2 - 1

    def loader(self):
        shard = range(self.global_rank, COUNT, self.trainer.world_size)
        return DataLoader(Subset(TensorDataset(self.images), shard), batch_size=4)

    train_dataloader = val_dataloader = loader

    def training_step(self, batch, index):
        return (batch[0] * self.gain - batch[0]).square().mean()

    def validation_step(self, batch, index):
        images = {"target": batch[0], "result": batch[0] * self.gain}
        return {key: images[key] for key in self.keys}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def run(callback, processes=1, module=None):
    options = {"strategy": "ddp_fork"} if processes > 1 else {}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        max_epochs=1,
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module or Blur())
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_the_callback_logs_metrics_over_all_processes():
    names = ("psnr", "ssim_gauss11")
    one, two = run(ImageMetrics(names)), run(ImageMetrics(names), processes=2)
    target = Blur().images
    for name in names:
        metric = build(name)
        metric.update(target * 0.5, target)
        assert one[f"val/{name}"] == pytest.approx(metric.compute().item(), rel=1e-6)
        assert two[f"val/{name}"] == pytest.approx(one[f"val/{name}"], rel=1e-6)


class PartlyKnown(Blur):
    """Every third image of a batch has no target of its own: its target is its result."""

    def validation_step(self, batch, index):
        outputs = super().validation_step(batch, index)
        known = (torch.arange(len(batch[0])) % 3 > 0).float()
        target = torch.where(known.reshape(-1, 1, 1, 1) > 0, outputs["target"], outputs["result"])
        return {**outputs, "target": target, "known": known[:, None]}


@pytest.mark.parametrize("processes", [1, 2])
def test_images_without_a_known_target_are_left_out(processes):
    logged = run(ImageMetrics(("psnr", "ssim_gauss11")), processes, module=PartlyKnown())
    targets = PartlyKnown().images
    for name in ("psnr", "ssim_gauss11"):
        metric = build(name)
        for rank in range(processes):
            for batch in targets[rank::processes].split(4):
                rows = torch.arange(len(batch)) % 3 > 0
                if rows.any():
                    metric.update(batch[rows] * 0.5, batch[rows])
        assert logged[f"val/{name}"] == pytest.approx(metric.compute().item(), rel=1e-6)


def test_metrics_are_computed_in_every_nth_validation_only(monkeypatch):
    logged = []
    monkeypatch.setattr(Blur, "log", lambda self, name, value, **_: logged.append((self.current_epoch, name)))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=5,
        logger=False,
        callbacks=[ImageMetrics(["psnr"], every=2)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Blur())
    assert logged == [(1, "val/psnr"), (3, "val/psnr")]


def test_the_error_for_a_module_without_results_names_it():
    with pytest.raises(UserError, match=r"Blur\.validation_step to return 'target' and 'result'"):
        run(ImageMetrics(["psnr"]), module=Blur(keys=("target",)))


def test_the_error_for_a_missing_input_names_it():
    with pytest.raises(UserError, match="psnr_background_hat_cloth needs 'labels'"):
        run(ImageMetrics(["psnr_background_hat_cloth"]))


def test_the_error_for_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean"):
        ImageMetrics(["ssim_gaus11"])
