"""The sheet of pictures that each validation writes."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import oodgan  # noqa: F401
from oodgan.paths import FitFolder
from oodgan.training.pictures import Pictures


def fit_small(folder, module):
    from small import PointData

    from oodgan.training.fit import fit

    cfg = {"trainer": {"accelerator": "cpu"}, "stage": "small"}
    settings = {"max_steps": 4, "batch_size": 8, "val_every": 2}
    fit(module, PointData(), cfg=cfg, settings=settings, folder=folder, callbacks=[Pictures(count=3)])


def pixels(picture, column, row=0, size=64, gap=4, head=18):
    """Returns the colour in the middle of a cell."""
    return picture.getpixel((gap + column * (size + gap) + size // 2, head + gap + row * (size + gap) + size // 2))


@pytest.mark.parametrize("own", [True, False])
def test_the_sheet_shows_the_modules_pictures_or_else_the_validation_results(tmp_path, own):
    from small import Regression

    red = torch.tensor([1.0, -1, -1])[:, None, None]

    class Shows(Regression):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            count = len(batch["image"])
            return {"result": red.expand(count, 3, 64, 64), "target": -red.expand(count, 3, 64, 64)}

    module = Shows()
    if own:
        module.pictures = lambda batch: {"photo": (0 * batch["image"] + red).expand(-1, 3, 8, 8)}
    fit_small(tmp_path, module)
    picture = Image.open(FitFolder(tmp_path).picture)
    columns = 1 if own else 2
    assert picture.size == (columns * 68 + 4, 18 + 3 * 68 + 4)
    assert pixels(picture, 0, row=2) == (255, 0, 0)
    if not own:
        assert pixels(picture, 1, row=2) == (0, 255, 255)


def test_no_sheet_is_written_without_pictures(tmp_path):
    from small import Regression

    fit_small(tmp_path, Regression())
    assert not FitFolder(tmp_path).picture.exists() and (tmp_path / "metrics.csv").is_file()
