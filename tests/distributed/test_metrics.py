"""One process and two compute the same metrics on an odd number of images, so that the shards are uneven."""

import importlib
import json
import pkgutil

import cv2
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchmetrics import Metric

import oodgan.metrics
from oodgan.metrics.attributes import AttributeChange
from oodgan.metrics.base import PerImage
from oodgan.metrics.distribution import FID, KID, SetDistance
from oodgan.metrics.lpips import LPIPS, lpips_distance
from oodgan.metrics.masks import MaskArea, MaskIoU, MaskShareInside, MaskShareOnParts
from oodgan.metrics.registry import build, names
from oodgan.metrics.similarity import MSSSIM, PSNR, SSIM, Identity, RegionPSNR, RegionUnchanged
from oodgan.nn.arcface import ArcFace

QUICK_COUNT, LARGE_COUNT = 101, 19  # images for the quick metrics, and for those with larger networks
SEEDED = {"extractor_name": "seeded", "dim": 8}


def extractor(images):
    """A small seeded network: a random Inception gives almost the same features for all sets."""
    weight = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(5))
    return torch.relu(torch.nn.functional.conv2d(images, weight, stride=3)).mean((2, 3))


def probe(images):
    return images[:, 0].mean((1, 2))


class Scores(pl.LightningModule):
    def __init__(self, metrics, data):
        super().__init__()
        self.metrics, self.data = torch.nn.ModuleList(metrics), data

    def test_dataloader(self):
        shard = range(self.global_rank, len(self.data), self.trainer.world_size)
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


def dataset(size, count):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(count, 3, 12, 12, generator=generator) * 2 - 1
    target = torch.nn.functional.interpolate(target, size=size, mode="bilinear")
    scale = torch.linspace(0.05, 0.6, count)[:, None, None, None]
    result = (target + scale * torch.randn(target.shape, generator=generator)).clamp(-1, 1)
    labels = torch.randint(0, 19, (count, 8, 8), generator=generator)
    labels[::3] = 1  # a third of the images have no region to preserve
    return TensorDataset(torch.arange(count), result, target, labels)


def scores(metrics, size, count, processes):
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
    return trainer.test(Scores(metrics, dataset(size, count)), verbose=False)[0]


# Each with a plausible range, so that two equal mistakes (nan, 0, no image counted) do not pass.
QUICK = {
    LPIPS: (lambda folder: LPIPS(), 0.01, 0.9),
    PSNR: (lambda folder: PSNR(), 10, 30),
    SSIM: (lambda folder: SSIM(), 0.1, 0.99),
    RegionPSNR: (lambda folder: RegionPSNR(), 10, 30),
    RegionUnchanged: (lambda folder: RegionUnchanged(), 1e-4, 0.1),
    MaskShareInside: (lambda folder: MaskShareInside(), 0.01, 0.5),
    MaskIoU: (lambda folder: MaskIoU(), 0.01, 0.5),
    MaskArea: (lambda folder: MaskArea(), 0.4, 0.6),
    MaskShareOnParts: (lambda folder: MaskShareOnParts(["smile"]), 0.05, 0.5),
    Identity: (lambda folder: Identity(ArcFace(folder / "face.onnx")), 0.01, 0.9999),
    AttributeChange: (lambda folder: AttributeChange(probe, "red", "mean"), -0.1, 0.1),
    FID: (lambda folder: FID(extractor, **SEEDED), 1e-3, 100),
    KID: (lambda folder: KID(extractor, **SEEDED, capacity=60), 1e-5, 100),
}
LARGE = {"lpips_vgg_v0.1": (LPIPS, 32), "ms_ssim_gauss11": (MSSSIM, 176), "identity_facenet_20180408": (Identity, 48)}


@pytest.fixture(scope="module")
def two_and_one(tmp_path_factory):
    """The values of the quick metrics for two processes and for one, {name: value} each."""
    pytest.importorskip("onnx", reason="onnx writes the recogniser")
    folder = tmp_path_factory.mktemp("metrics")
    recogniser(folder / "face.onnx")
    lpips_distance("alex")  # fetched before the fork
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # a forked process would wait for ever for threads of its parent
    try:
        return [
            scores([make(folder) for make, _, _ in QUICK.values()], 48, QUICK_COUNT, processes) for processes in (2, 1)
        ]
    finally:
        cv2.setNumThreads(threads)


def recogniser(path):
    """A small seeded network as the ONNX file of the user's own recogniser."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 16, 7, stride=5), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 5, stride=5)
        network = torch.nn.Sequential(*layers, torch.nn.Flatten()).eval()
    torch.onnx.export(network, (torch.zeros(1, 3, 112, 112),), str(path), dynamo=False)


@pytest.mark.network
@pytest.mark.parametrize("kind", list(QUICK), ids=lambda kind: kind.__name__)
def test_two_processes_compute_the_same_metric_as_one(two_and_one, kind):
    order = list(QUICK)
    assert [len(values) for values in two_and_one] == [len(order)] * 2
    two, one = (list(values.values())[order.index(kind)] for values in two_and_one)
    _, low, high = QUICK[kind]
    assert low < one < high
    assert two == pytest.approx(one, abs=1e-6, rel=1e-6)


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", list(LARGE))
def test_two_processes_compute_the_same_metric_as_one_with_larger_networks(name):
    size = LARGE[name][1]
    (two,), (one,) = (scores([build(name)], size, LARGE_COUNT, processes).values() for processes in (2, 1))
    assert 0.01 < one < 0.999
    assert two == pytest.approx(one, abs=1e-6, rel=1e-6)


def test_every_metric_is_tested_in_this_file():
    """A new metric needs a line above: checks all classes of the package and all names that a protocol may use."""
    for module in pkgutil.iter_modules(oodgan.metrics.__path__, "oodgan.metrics."):
        importlib.import_module(module.name)
    result, todo = set(), [Metric]
    while todo:
        todo += (kinds := [k for k in todo.pop().__subclasses__() if k.__module__.startswith("oodgan.metrics.")])
        result |= set(kinds)
    tested = set(QUICK) | {kind for kind, _ in LARGE.values()}
    assert result - {PerImage, SetDistance} == tested
    assert {type(build(name)) for name in names()} <= tested
    assert {name for name in names() if type(build(name)) is LPIPS} == {LPIPS().name, "lpips_vgg_v0.1"}


def evaluate_with_one_and_two_processes(tmp_path, monkeypatch, draw_face, size, metrics, sets=(), count=9):
    """Returns the evaluate stage's scores of some photos for one and two processes, with every kind of column."""
    import numpy as np
    from omegaconf import OmegaConf
    from PIL import Image

    from oodgan.stages import evaluate

    place = {name: tmp_path / name for name in ("photos", "plain", "made/result", "made/mask", "parsing")}
    for folder in place.values():
        folder.mkdir(parents=True)
    (tmp_path / "made/edits.json").write_text("{}")
    rng, unknown = np.random.default_rng(0), 1 + (count > 3)  # so many photos have no known region
    for i in range(count):
        photo = np.asarray(draw_face(i, size)).astype(int)
        for folder, shift in (("photos", 0), ("plain", 4 * i + 1), ("made/result", 3 * i)):
            picture = (photo + shift + rng.integers(0, 9, photo.shape) * bool(shift)).clip(0, 255)
            Image.fromarray(picture.astype(np.uint8)).save(place[folder] / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (size, size)).astype(np.uint8)).save(place["made/mask"] / f"{i}.png")
        labels = np.ones((size, size), np.uint8) * (i >= unknown)  # the next face has no mouth
        labels[size // 2 :] = 11 if i > unknown else labels[0, 0]
        Image.fromarray(labels).save(place["parsing"] / f"{i}.png")
    recogniser(tmp_path / "face.onnx")
    results = []
    for processes in (1, 2):
        output, cache = tmp_path / f"out{processes}", tmp_path / f"statistics{processes}"
        monkeypatch.setattr("oodgan.evaluation.summary.statistics_path", lambda key, cache=cache: cache / key)
        values = {
            **{"photos": str(place["photos"]), "masks": str(place["parsing"]), "edits": {"smile": 1.0}},
            "methods": {
                "inversion": str(place["photos"]),
                "plain": str(place["plain"]),
                "made": str(tmp_path / "made"),
            },
            "probes": "ffhq",
            "identity": {"_target_": "oodgan.nn.arcface.ArcFace", "path": str(tmp_path / "face.onnx")},
            **{"attributes": None, "output": str(output), "batch_size": 2},
            **{"workers": 0, "sheet_by": None, "replace": False, "logger": {}},
            "metrics": {"resolution": size, "metrics": metrics, "sets": list(sets), "bootstrap_samples": 20},
            "trainer": {"accelerator": "cpu", "devices": processes},
        }
        evaluate.run(OmegaConf.create(values))
        assert (output / "per_image.csv").read_text().count("made,") == count
        results.append(json.loads((output / "metrics.json").read_text())["methods"])
    return results


def assert_same_scores(one, two):
    assert one["made"].keys() == two["made"].keys() and one.keys() == two.keys() == {"inversion", "plain", "made"}
    for method, entries in one.items():
        for name, entry in entries.items():
            assert two[method][name] == pytest.approx(entry, abs=1e-6, rel=1e-6), (method, name)
    return one["made"]


@pytest.mark.network
def test_the_evaluate_stage_gives_the_same_scores_on_two_processes(tmp_path, monkeypatch, draw_face):
    """With real processes, which score every photo once."""
    made = assert_same_scores(
        *evaluate_with_one_and_two_processes(
            tmp_path, monkeypatch, draw_face, 48, ["psnr", "ssim_gauss11", "psnr_background_hat_cloth"]
        )
    )
    kinds = ("psnr", "mask_area", "mask_share_on_parts", "identity_arcface_face_", "change_smile_", "edit_kept_smile_")
    assert all(any(name.startswith(kind) for name in made) for kind in kinds), list(made)
    assert made["mask_share_on_parts"]["count"] == 6 and made["psnr"]["count"] == 9


@pytest.mark.network
@pytest.mark.slow
def test_the_whole_protocol_gives_the_same_scores_on_two_processes(tmp_path, monkeypatch, draw_face):
    """With the networks of protocol_v1, including the registry's Inception for FID and KID."""
    from oodgan.launch import compose

    protocol = compose("evaluate", ["photos=x", "methods={}"]).metrics
    with pytest.warns(UserWarning, match="FID and KID from 3 images"):
        made = assert_same_scores(
            *evaluate_with_one_and_two_processes(
                tmp_path, monkeypatch, draw_face, 176, list(protocol.metrics), protocol.sets, count=3
            )
        )
    assert {*protocol.metrics, *protocol.sets} <= set(made)
