"""A generator with known directions: two linear functions of w set the colours of two parts of the picture."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from oodgan.data.images import write_image
from oodgan.generators.protocol import sample_codes


class Painter(nn.Module):
    """w (512, of which 8 dimensions vary) -> 64 px: `top` sets the colour of the upper half, `disc` of a lower disc."""

    id, resolution, num_ws, style_dim = "painter-0", 64, 4, 512
    mean_w: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.top, self.disc = nn.Linear(512, 3), nn.Linear(512, 3)
        nn.init.zeros_(self.top.weight)
        nn.init.zeros_(self.disc.weight)
        with torch.no_grad():
            self.top.weight[:, :3] = torch.tensor([2.0, 1.0, 0.0])
            self.disc.weight[:, :3] = torch.tensor([0.3, 0.0, 0.6])
        self.register_buffer("mean_w", torch.zeros(512))
        y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
        self.upper, self.round = (y < 0).float(), ((y - 0.5) ** 2 + x**2 < 0.15).float()
        self.feature_channels: dict[int, int] = {}

    def mapping(self, z: Tensor) -> Tensor:
        alive = torch.full((512,), 0.02)
        alive[:8] = 1
        return z * alive

    def synthesis(self, w_plus: Tensor, noise: str = "const", size: int | None = None) -> Tensor:
        top = torch.tanh(self.top(w_plus[:, 1]) / 3)[..., None, None]
        disc = torch.tanh(self.disc(w_plus[:, 2]))[..., None, None]
        return 0.8 * (top * self.upper + disc * self.round)

    def features(self, w_plus: Tensor, fuse: object = None) -> dict[int, Tensor]:
        return {}


@pytest.fixture
def painter() -> Painter:
    torch.manual_seed(0)
    return Painter().eval().requires_grad_(False)


@pytest.fixture
def painted(painter: Painter, tmp_path: Path) -> Path:
    """Folder of 60 labelled pictures: `labels.csv` and `images/`."""
    codes = sample_codes(painter, 60, 5, truncation=1.0)
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "top", "disc"])
        for i, code in enumerate(codes):
            write_image(painter.synthesis(code[None])[0], tmp_path / "images" / f"{i}.png")
            table.writerow([f"{i}.png", float(painter.top(code[1])[0]), float(painter.disc(code[2])[0])])
    return tmp_path
