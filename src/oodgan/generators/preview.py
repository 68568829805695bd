"""Image heads for a generator that has none at low resolutions: a 256 px image at a fraction of the full cost.

MobileStyleGAN was distilled with a single head at its last block. A preview head is a small styled network on the
hidden activations of half the wanted size, fitted to the area-resized full image over samples: an approximation, whose
PSNR on held-out samples travels in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.generators.protocol import STYLE_DIM, sample_codes
from oodgan.weights.registry import SHIPPED

if TYPE_CHECKING:
    from oodgan.generators.mobile import MobileGenerator

FILE = SHIPPED / "mobile_ffhq_previews.safetensors"
_WIDTH = 64
_PATCH = 64


class Preview(nn.Module):
    """Hidden activations (B, C, r, r) and the style of their layer (B, 512) -> image (B, 3, 2r, 2r)."""

    def __init__(self, channels: int, width: int = _WIDTH) -> None:
        super().__init__()
        self.affine = nn.Linear(STYLE_DIM, channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.ones_(self.affine.bias)
        self.narrow = nn.Conv2d(channels, width, 1)
        self.spatial = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 12, 1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = F.leaky_relu(self.narrow(x * self.affine(style)[:, :, None, None]), 0.2)
        x = x + F.leaky_relu(self.spatial(x), 0.2)
        return F.pixel_shuffle(self.head(x), 2)


def load_previews(generator: MobileGenerator, path: Path = FILE) -> dict[str, nn.Module]:
    """The shipped preview heads by size, or none when they were fitted for another generator."""
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("generator") != generator.id:
            return {}
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (not a dict)
    previews: dict[str, nn.Module] = {}
    for size in sorted({key.split(".")[0] for key in state}):
        preview = Preview(generator.feature_channels[int(size) // 2])
        preview.load_state_dict({k.partition(".")[2]: v for k, v in state.items() if k.startswith(f"{size}.")})
        previews[size] = preview.eval().requires_grad_(False)
    return previews


def save_previews(generator: MobileGenerator, previews: dict[str, Preview], psnr: dict[str, float], path: Path) -> None:
    """Write preview heads as fp16 safetensors that name their generator and their held-out PSNR in dB."""
    tensors = {
        f"{size}.{key}": value.half().contiguous()
        for size, preview in previews.items()
        for key, value in preview.state_dict().items()
    }
    metadata = {"generator": generator.id, "psnr": json.dumps(psnr)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)


@torch.inference_mode()
def training_patches(generator: MobileGenerator, size: int, count: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield (hidden patch, image patch, style) of samples: truncation 0.6 to 1, style mixing, and per-layer offsets."""
    rng = torch.Generator().manual_seed(seed)
    resolution, layer = size // 2, generator.layer_of(size // 2)
    patch = min(_PATCH, resolution)
    for i in range(count):
        code = sample_codes(generator, 1, seed * 100_003 + i, truncation=(0.6, 0.8, 1.0)[i % 3], mixing=0.4)
        if i % 3 == 0:  # inverted codes of real photos leave W: cover their neighbourhood
            code = code + 0.15 * code.std() * torch.randn(code.shape, generator=rng)
        hidden = generator.features(code)
        image = F.interpolate(generator.render(hidden, code), (size, size), mode="area")
        top, left = (int(v) for v in torch.randint(0, resolution - patch + 1, (2,), generator=rng))
        yield {
            "hidden": hidden[resolution][0, :, top : top + patch, left : left + patch].half(),
            "image": image[0, :, 2 * top : 2 * (top + patch), 2 * left : 2 * (left + patch)].half(),
            "style": code[0, layer],
        }


def fit_preview(preview: Preview, data: list[dict[str, Tensor]], steps: int, seed: int = 0) -> Iterator[float]:
    """Adam with cosine decay on the L1 + squared error of patches; yields each step's loss."""
    with torch.inference_mode(False), torch.enable_grad():
        optimiser = torch.optim.Adam(preview.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        rng = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            batch = [data[int(i)] for i in torch.randint(len(data), (8,), generator=rng)]
            hidden, image, style = (torch.stack([b[k] for b in batch]).float() for k in ("hidden", "image", "style"))
            error = preview(hidden, style) - image
            loss = error.abs().mean() + error.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            yield loss.item()


@torch.no_grad()
def psnr_of(preview: Preview, data: list[dict[str, Tensor]]) -> float:
    """Mean PSNR in dB over patches, range 2."""
    found = []
    for item in data:
        error = preview(item["hidden"][None].float(), item["style"][None]) - item["image"].float()
        found.append(-10 * torch.log10((error / 2).square().mean()))
    return torch.stack(found).mean().item()
