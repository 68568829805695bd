"""Training of the face parser: exact IoU on any number of processes, and the whole command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from oodgan import launch
from oodgan.data.datamodule import ImageDataModule
from oodgan.data.sources import Folder
from oodgan.data.splits import OnePart
from oodgan.errors import UserError
from oodgan.parsing.classes import NAMES, merged
from oodgan.parsing.module import ParserModule
from oodgan.parsing.network import ParserNetwork
from oodgan.parsing.parser import build
from oodgan.tracking.artifacts import Manifest


@pytest.fixture
def faces(tmp_path: Path, draw_face: Callable[..., Image.Image]) -> Path:
    """Seven pictures with striped masks."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        draw_face(i, size=64).save(tmp_path / "images" / f"{i}.png")
        stripes = np.repeat(rng.integers(0, 16, 8), 8).astype(np.uint8)
        Image.fromarray(np.tile(stripes[:, None], (1, 64))).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def validated(faces: Path, processes: int) -> dict[str, float]:
    torch.manual_seed(0)
    module = ParserModule(ParserNetwork(len(NAMES), width=8), ema_decay=None)
    source = Folder(faces / "images", 64, faces / "masks")
    data = ImageDataModule(source, 64, batch_size=2 * processes, split=OnePart("val"))
    many = {"strategy": "ddp_fork", "devices": processes} if processes > 1 else {"devices": 1}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **many, **quiet)  # type: ignore[arg-type]
    (result,) = trainer.validate(module, data, verbose=False)
    return result


def test_iou_is_computed_over_all_images_also_with_two_processes(faces: Path) -> None:
    one, two = validated(faces, 1), validated(faces, 2)
    assert two == pytest.approx(one, abs=1e-6)
    torch.manual_seed(0)
    module = ParserModule(ParserNetwork(len(NAMES), width=8), ema_decay=None).eval()
    source = Folder(faces / "images", 64, faces / "masks")
    samples = [source[i] for i in range(7)]
    with torch.no_grad():
        result = torch.cat([module(sample["image"][None]).argmax(1) for sample in samples])
    true = merged(torch.stack([sample["parsing"] for sample in samples]))
    expected = {}
    for i, name in enumerate(NAMES):
        union = ((result == i) | (true == i)).sum()
        if union:
            expected[f"val/iou_{name}"] = float(((result == i) & (true == i)).sum() / union)
    assert {name: value for name, value in one.items() if "iou_" in name} == pytest.approx(expected, abs=1e-6)
    assert one["val/miou"] == pytest.approx(sum(expected.values()) / len(expected), abs=1e-6)


def test_the_stage_trains_a_parser_that_can_be_loaded(faces: Path) -> None:
    words = ["parser=tiny", "data=folder", f"data.source.root={faces}/images", "callbacks=tiny", f"root={faces}/runs"]
    with pytest.raises(UserError, match=r"these have none: set data\.source\.parsing"):
        launch.run("parser", words)
    with pytest.raises(UserError, match="parser=none has nothing to train; choose parser=light"):
        launch.run("parser", ["parser=none", *words[1:]])
    words += [f"data.source.parsing={faces}/masks", "data.split.val=0.3", "parser.fit.batch_size=2"]
    assert launch.run("parser", words) == 0
    artifact = faces / "runs" / "default" / "parser" / "artifact"
    manifest = Manifest.load(artifact)
    assert manifest.resolution == 64 and {"val/miou", "val/loss"} <= set(manifest.metrics)
    cfg = launch.compose("parser", ["parser=tiny", f"parser.weights={artifact}"]).parser
    parser = build(cfg)
    assert parser is not None and parser(torch.zeros(1, 3, 64, 64)).shape == (1, 15, 64, 64)
    before = (artifact / "manifest.json").read_bytes()
    assert launch.run("parser", words) == 0 and (artifact / "manifest.json").read_bytes() == before
