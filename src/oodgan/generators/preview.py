"""Image heads for a generator that has none at low resolutions: a 256 px image at a fraction of the full cost.

MobileStyleGAN was distilled with a single head at its last block. A preview head is a small styled network on the
hidden activations of half the wanted size, fitted to the area-resized full image over samples: an approximation, whose
PSNR on held-out samples travels in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.files import save_tensors
from oodgan.generators.protocol import STYLE_DIM, Residuals, sample_codes
from oodgan.weights.registry import SHIPPED

if TYPE_CHECKING:
    from oodgan.generators.mobile import MobileGenerator

FILE = SHIPPED / "mobile_ffhq_previews.safetensors"
_MEAN = "mean_w"
_LAYOUT = "codes"  # heads of an earlier layout use one code only
_WIDTH = 64
_CODE = 64
_PATCH = 64
_PATCHES = 4  # of each image


class Preview(nn.Module):
    """Hidden activations (B, C, r, r) and the codes of their and all later layers (B, n, 512) -> image (B, 3, 2r, 2r).

    The later layers' codes decide colour and light, which the blocks that are left out would have drawn.
    """

    def __init__(self, channels: int, codes: int, width: int = _WIDTH) -> None:
        super().__init__()
        self.widths = (channels, width, width)
        self.read = nn.Linear(codes * STYLE_DIM, _CODE)
        self.affine = nn.Linear(_CODE, sum(self.widths) + 3)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)
        self.narrow = nn.Conv2d(channels, width, 1)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 12, 1)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        scales = self.affine(F.leaky_relu(self.read(codes.flatten(1)), 0.2))[..., None, None]
        wide, narrow, last, colour = scales.split([*self.widths, 3], 1)
        x = F.leaky_relu(self.narrow(x * (1 + wide)), 0.2)
        x = x + F.leaky_relu(self.first(x * (1 + narrow)), 0.2)
        x = x + F.leaky_relu(self.second(x * (1 + last)), 0.2)
        return F.pixel_shuffle(self.head(x), 2) + colour


def shipped_mean(path: Path = FILE) -> Tensor | None:
    """The mean of w (512,) that was computed when the preview heads were fitted; None without their file.

    Computed again, it differs in its last bits between processors, and so would the generator's `id`, which names the
    generator that weights were made for.
    """
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        return file.get_tensor(_MEAN) if _MEAN in file.keys() else None  # noqa: SIM118 (not a dict)


def load_previews(generator: MobileGenerator, path: Path = FILE) -> dict[str, nn.Module]:
    """The shipped preview heads by size, or none when they were fitted for another generator."""
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("generator") != generator.id or metadata.get("layout") != _LAYOUT:
            return {}
        state = {key: file.get_tensor(key).float() for key in file.keys() if key != _MEAN}  # noqa: SIM118 (not a dict)
    previews: dict[str, nn.Module] = {}
    for size in sorted({key.split(".")[0] for key in state}):
        preview = Preview(generator.feature_channels[int(size) // 2], codes_of(generator, int(size)))
        preview.load_state_dict({k.partition(".")[2]: v for k, v in state.items() if k.startswith(f"{size}.")})
        previews[size] = preview.eval().requires_grad_(False)
    return previews


def save_previews(generator: MobileGenerator, previews: dict[str, Preview], psnr: dict[str, float], path: Path) -> None:
    """Write preview heads as fp16 safetensors that name their generator and their held-out PSNR in dB.

    The file also has the generator's mean code, in full precision (`shipped_mean`).
    """
    tensors = {_MEAN: generator.mean_w.float().cpu().contiguous()} | {
        f"{size}.{key}": value.half().contiguous()
        for size, preview in previews.items()
        for key, value in preview.state_dict().items()
    }
    metadata = {"generator": generator.id, "layout": _LAYOUT, "psnr": json.dumps(psnr)}
    save_tensors(path, tensors, metadata)


def codes_of(generator: MobileGenerator, size: int) -> int:
    """How many layers' codes a preview of `size` px reads: that of its activations and all later ones."""
    return generator.num_ws - generator.layer_of(size // 2)


def sampled_codes(generator: MobileGenerator, count: int, seed: int) -> Iterator[tuple[Tensor, Residuals]]:
    """Codes (1, L, 512) of samples: truncation 0.6 to 1, style mixing, a third moved off W; no residuals."""
    rng = torch.Generator().manual_seed(seed)
    for i in range(count):
        code = sample_codes(generator, 1, seed * 100_003 + i, truncation=(0.6, 0.8, 1.0)[i % 3], mixing=0.4)
        if i % 3 == 0:  # inverted codes of real photos leave W: cover their neighbourhood
            code = code + 0.15 * code.std() * torch.randn(code.shape, generator=rng)
        yield code, {}


@torch.no_grad()
def patches(
    generator: MobileGenerator, size: int, codes: Iterable[tuple[Tensor, Residuals]], seed: int
) -> Iterator[dict[str, Tensor]]:
    """Yield {hidden patch, image patch, codes}, several of the full image of each (w+, residuals)."""
    rng = torch.Generator().manual_seed(seed)
    resolution, layer = size // 2, generator.layer_of(size // 2)
    side = min(_PATCH, resolution)
    for code, residuals in codes:
        hidden = generator.features(code, residuals=residuals)
        image = F.interpolate(generator.render(hidden, code), (size, size), mode="area")
        for _ in range(_PATCHES):
            top, left = (int(v) for v in torch.randint(0, resolution - side + 1, (2,), generator=rng))
            yield {
                "hidden": hidden[resolution][0, :, top : top + side, left : left + side].half(),
                "image": image[0, :, 2 * top : 2 * (top + side), 2 * left : 2 * (left + side)].half(),
                "codes": code[0, layer:],
            }


def fit_preview(preview: Preview, data: list[dict[str, Tensor]], steps: int, seed: int = 0) -> Iterator[float]:
    """Adam with cosine decay on the L1 + squared error of patches; yields each step's loss."""
    with torch.inference_mode(False), torch.enable_grad():
        optimiser = torch.optim.Adam(preview.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        rng = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            batch = [data[int(i)] for i in torch.randint(len(data), (8,), generator=rng)]
            hidden, image, codes = (torch.stack([b[k] for b in batch]).float() for k in ("hidden", "image", "codes"))
            error = preview(hidden, codes) - image
            loss = error.abs().mean() + error.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            yield loss.item()


@torch.no_grad()
def psnr_of(preview: Preview, data: list[dict[str, Tensor]]) -> float:
    """Mean PSNR in dB over patches, range 2."""
    values = []
    for item in data:
        error = preview(item["hidden"][None].float(), item["codes"][None]) - item["image"].float()
        values.append(-10 * torch.log10((error / 2).square().mean()))
    return torch.stack(values).mean().item()
