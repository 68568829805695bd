"""One process and two give the same numbers on 101 images: odd, so that the shards are uneven."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from oodgan.metrics.attributes import AttributeChange, AttributeShare
from oodgan.metrics.distribution import FID, KID
from oodgan.metrics.lpips import LPIPS, lpips_distance
from oodgan.metrics.masks import MaskArea, MaskIoU, MaskShareInside
from oodgan.metrics.registry import build
from oodgan.metrics.similarity import PSNR, SSIM, RegionPSNR

COUNT = 101


def extractor(images):
    """A small seeded network: a random Inception would call all sets alike."""
    weight = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(5))
    return torch.relu(torch.nn.functional.conv2d(images, weight, stride=3)).mean((2, 3))


def probe(images):
    return images[:, 0].mean((1, 2))


class Scores(pl.LightningModule):
    def __init__(self, metrics, data):
        super().__init__()
        self.metrics, self.data = torch.nn.ModuleList(metrics), data

    def test_dataloader(self):
        shard = range(self.global_rank, COUNT, self.trainer.world_size)
        return DataLoader(Subset(self.data, shard), batch_size=4)

    def test_step(self, batch, index):
        key, result, target, labels = batch
        region = (labels == 0).float()[:, None]
        mask = (result[:, :1] + 1) / 2
        arguments = {"result": result, "target": target, "plain": result * 0.5, "labels": labels}
        arguments |= {"mask": mask, "region": torch.nn.functional.interpolate(region, size=mask.shape[-2:])}
        for metric in self.metrics:
            if isinstance(metric, KID):
                metric.update(result, False, key)
                metric.update(target, True, key)
            elif isinstance(metric, FID):
                metric.update(result, real=False)
                metric.update(target, real=True)
            else:
                metric.update(*(arguments[name] for name in metric.inputs))
            self.log(metric.name.replace(".", "_"), metric, on_step=False, on_epoch=True)


def dataset(size):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(COUNT, 3, 12, 12, generator=generator) * 2 - 1
    target = torch.nn.functional.interpolate(target, size=size, mode="bilinear")
    scale = torch.linspace(0.05, 0.6, COUNT)[:, None, None, None]
    result = (target + scale * torch.randn(target.shape, generator=generator)).clamp(-1, 1)
    labels = torch.randint(0, 19, (COUNT, 8, 8), generator=generator)
    labels[::3] = 1  # a third of the images have nothing to preserve
    return TensorDataset(torch.arange(COUNT), result, target, labels)


def scores(metrics, size, processes):
    options = {"strategy": "ddp_fork"} if processes > 1 else {}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    return trainer.test(Scores(metrics, dataset(size)), verbose=False)[0]


def compare(make, size):
    one, two = scores(make(), size, 1), scores(make(), size, 2)
    assert set(one) == {metric.name.replace(".", "_") for metric in make()} == set(two)
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-6, rel=1e-6), name
    return one


@pytest.mark.network
def test_two_processes_equal_one():
    lpips_distance("alex")  # fetched before the fork

    def make():
        small = {"extractor": extractor, "extractor_name": "seeded", "dim": 8}
        return [
            *(LPIPS(), PSNR(), SSIM(), RegionPSNR(), MaskShareInside(), MaskIoU(), MaskArea()),
            *(AttributeChange(probe, "red", "mean"), AttributeShare(probe, "red", "mean")),
            *(FID(**small), KID(**small, capacity=60)),
        ]

    values = compare(make, 48)
    assert 10 < values["psnr"] < 30 and values["fid_seeded"] > 1e-3 and abs(values["kid_seeded"]) > 1e-5


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("lpips_vgg_v0.1", 32), ("ms_ssim_gauss11", 176), ("identity_facenet_20180408", 48)]
)
def test_two_processes_equal_one_with_larger_networks(name, size):
    (value,) = compare(lambda: [build(name)], size).values()
    assert 0.01 < value < 0.999


def test_the_evaluate_stage_on_two_processes(tmp_path, draw_face):
    """Real processes, 9 photos: the same table and rows, every photo scored once."""
    import numpy as np
    from omegaconf import OmegaConf
    from PIL import Image

    from oodgan.stages import evaluate

    for i in range(9):
        photo = np.asarray(draw_face(i)).astype(int)
        for folder, shift in (("photos", 0), ("made", 3 * i)):
            (tmp_path / folder).mkdir(exist_ok=True)
            shifted = Image.fromarray((photo + shift).clip(0, 255).astype(np.uint8))
            shifted.save(tmp_path / folder / f"{i}.png")
    results = []
    for processes in (1, 2):
        output = tmp_path / f"out{processes}"
        values = {
            **{"photos": str(tmp_path / "photos"), "methods": {"shift": str(tmp_path / "made")}, "masks": None},
            **{"edits": None, "probes": None, "attributes": None, "output": str(output), "batch_size": 2},
            **{"workers": 0, "sheet_by": None, "replace": False, "logger": {"kind": "csv"}},
            "metrics": {"resolution": 48, "metrics": ["psnr", "ssim_gauss11"], "sets": [], "bootstrap_samples": 20},
            "trainer": {"accelerator": "cpu", "devices": processes},
        }
        evaluate.run(OmegaConf.create(values))
        results.append((output / "table.md").read_text() + (output / "per_image.csv").read_text())
    assert results[0] == results[1]
    assert results[0].count("shift,") == 9
