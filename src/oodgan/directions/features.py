"""Image features for attribute probes: pooled ImageNet activations of photos and of generator samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodgan.data.images import read_image, resize
from oodgan.errors import UserError, unknown
from oodgan.files import save_tensors
from oodgan.generators.protocol import Generator, sample_codes
from oodgan.nn.backbones import alexnet_features, imagenet_normalise, vgg16_features
from oodgan.nn.resize import resize_area
from oodgan.tracking.artifacts import hash_settings

# Index of a ReLU in torchvision's `features` -> side of the grid that its activations are pooled to. Coarse grids keep
# positions in the aligned face, but not pixel noise.
POOLS = {
    "alexnet": {7: 4, 9: 4, 11: 6},
    "vgg16": {15: 4, 22: 4, 29: 6},
}
_CHUNK = 200


class Extractor(nn.Module):
    """Images (B, 3, R, R) in [-1, 1] -> pooled activations (B, D); D = 19456 for alexnet, 30720 for vgg16.

    Args:
        backbone: alexnet or vgg16 (seven times slower).
        size: side that images are resized to first, at least 64.
    """

    def __init__(self, backbone: str = "alexnet", size: int = 256) -> None:
        super().__init__()
        if backbone not in POOLS:
            raise unknown("probe backbone", backbone, POOLS)
        if size < 64:
            raise UserError(f"probe image size {size} is too small for {backbone}: at least 64")
        self.backbone, self.size = backbone, size
        self.layers = alexnet_features() if backbone == "alexnet" else vgg16_features()

    def forward(self, images: Tensor) -> Tensor:
        images = images if images.shape[-1] == self.size else resize_area(images, self.size)
        x, pooled = imagenet_normalise(images), []
        pools = POOLS[self.backbone]
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in pools:
                pooled.append(F.adaptive_avg_pool2d(x, pools[i]).flatten(1))
            if i == max(pools):
                break
        return torch.cat(pooled, 1)


@torch.no_grad()
def photo_features(extractor: Extractor, files: Sequence[Path], batch: int = 8) -> Tensor:
    """Features (N, D) of aligned photos, one file after another."""
    device = next(extractor.parameters()).device
    features = []
    for start in range(0, len(files), batch):
        photos = [_square(read_image(file), extractor.size) for file in files[start : start + batch]]
        features.append(extractor(torch.stack(photos).to(device)).cpu())
    return torch.cat(features) if features else torch.zeros(0, 1)


def _square(photo: Tensor, size: int) -> Tensor:
    side = min(photo.shape[-2:])
    top, left = (photo.shape[-2] - side) // 2, (photo.shape[-1] - side) // 2
    return resize(photo[:, top : top + side, left : left + side], size, "area")


@torch.no_grad()
def render_features(generator: Generator, extractor: Extractor, codes: Tensor, batch: int | None = None) -> Tensor:
    """Features (N, D) of G(codes), rendered at the probe's input size; one by one on a CPU, where this is faster."""
    batch = batch or (1 if generator.mean_w.device.type == "cpu" else 16)
    features = [extractor(render(generator, part, extractor.size)).cpu() for part in codes.split(batch)]
    return torch.cat(features)


@torch.no_grad()
def render(generator: Generator, codes: Tensor, size: int) -> Tensor:
    """Images (N, 3, r, r) in [-1, 1] with r the smaller of `size` and the generator's resolution."""
    device = generator.mean_w.device
    return generator.synthesis(codes.to(device), size=min(size, generator.resolution)).clamp(-1, 1)


def sample_features(
    generator: Generator, extractor: Extractor, count: int, seed: int, truncation: float, cache: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Seeded samples: codes w (count, 512) and features (count, D).

    With a cache folder, features are saved for every 200 samples (fp16): an interrupted run continues, and a larger
    count extends a smaller one, because the first codes are the same.
    """
    codes = sample_codes(generator, count, seed, truncation).cpu()
    settings_hash = hash_settings(
        {"seed": seed, "truncation": truncation, "size": extractor.size},
        {"generator": generator.id, "backbone": extractor.backbone},
    )
    features = []
    for number, part in enumerate(codes.split(_CHUNK)):
        file = cache / f"samples-{settings_hash[:12]}-{number:04d}.safetensors" if cache else None
        features.append(_chunk(generator, extractor, part, file))
    return codes[:, 0], torch.cat(features).float()


def _chunk(generator: Generator, extractor: Extractor, codes: Tensor, file: Path | None) -> Tensor:
    from safetensors.torch import load_file

    if file is not None and file.is_file():
        stored = load_file(str(file))["features"]
        if len(stored) >= len(codes):
            return stored[: len(codes)]
    features = render_features(generator, extractor, codes).half()
    if file is not None:
        save_tensors(file, {"features": features})
    return features


def list_images(folder: str | Path) -> dict[str, Path]:
    """Images anywhere below a folder by their relative path. Raises `UserError` when there are none."""
    from oodgan.data.listing import Listing

    return Listing.of(folder).files()
