"""The light encoder: a small trained head that predicts a W+ code from frozen ImageNet and identity features.

No public encoder fits the embedded generator, and a deep one cannot be trained on a CPU. So the features come from
pretrained networks (AlexNet's layers 1, 2, 3 and 5, and the embedding of a face recogniser), and only the head is
trained. Features are computed once per image, so regressing codes is cheap.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.protocol import Generator
from oodgan.inversion.protocol import Encoder
from oodgan.nn.backbones import alexnet_features, alexnet_layers, imagenet_normalise
from oodgan.nn.frozen import Frozen
from oodgan.nn.identity import Recogniser
from oodgan.nn.resize import resize_area

# (index of the ReLU in AlexNet's `features`, its channels, channels kept by the head)
LEVELS = ((1, 64, 16), (4, 192, 24), (7, 384, 32), (11, 256, 32))
_GRID = 8
_COARSE = 4  # grid of the second pass: coarse errors, not single hairs
_IDENTITY = 512


def _random_features() -> nn.Sequential:
    """AlexNet's layers with random weights, equal in all processes because checkpoints do not contain them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return alexnet_layers()


class LightEncoder(nn.Module, Encoder):
    """Photos (B, 3, R, R) in [-1, 1] -> offsets (B, L, 512) to the generator's mean code.

    `describe` computes the frozen features, `head` the offsets from them. An offset is one code shared by all layers
    plus a low-rank part for each layer. `correct` predicts a correction from photo and current inversion (ReStyle,
    Alaluf et al. 2021).

    Args:
        pretrained: AlexNet with the registry's ImageNet weights; random otherwise (dry runs).
        recogniser: face recogniser whose 512-d embedding is a further input; None: none. An encoder works only with the
            recogniser it was trained with.
        corrector: width of `correct`.
        size: input resolution of AlexNet, pixels.
    """

    describes = True

    def __init__(
        self,
        num_ws: int = 16,
        style_dim: int = 512,
        hidden: int = 512,
        rank: int = 48,
        dropout: float = 0.4,
        pretrained: bool = True,
        recogniser: Recogniser | None = None,
        size: int = 256,
        corrector: int = 224,
    ) -> None:
        super().__init__()
        self.backbone: Any = Frozen(alexnet_features() if pretrained else _random_features())
        self.recogniser, self.size = recogniser, size
        self.identity = recogniser.name if recogniser else None
        self.narrow = nn.ModuleList(nn.Conv2d(channels, kept, 1) for _, channels, kept in LEVELS)
        self.norms = nn.ModuleList(nn.GroupNorm(1, kept) for _, _, kept in LEVELS)
        width = sum(kept for _, _, kept in LEVELS) * _GRID**2 + (_IDENTITY if recogniser else 0)
        # Without it, a few thousand samples are soon overfitted.
        self.drop = nn.Dropout(dropout)
        self.enter = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Dropout(dropout / 2))
        self.deepen = nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU())
        self.shared = nn.Linear(hidden, style_dim)
        self.coefficients = nn.Linear(hidden, num_ws * rank)
        self.basis = nn.Parameter(torch.randn(num_ws, rank, style_dim) * rank**-0.5 * 0.3)
        self.num_ws, self.rank = num_ws, rank
        narrow = sum(kept for _, _, kept in LEVELS) * _COARSE**2 + (2 * _IDENTITY if recogniser else 0)
        missing = nn.Linear(corrector, style_dim + num_ws * rank)
        nn.init.zeros_(missing.weight)  # an untrained correction changes nothing
        nn.init.zeros_(missing.bias)
        self.correction = nn.Sequential(nn.Linear(narrow, corrector), nn.LayerNorm(corrector), nn.GELU(), missing)

    def forward(self, photos: Tensor) -> Tensor:
        return self.head(self.describe(photos))

    def prepare(self, passes: int) -> None:
        self.correction.requires_grad_(passes > 1)  # processes of one run must agree on what is trained

    def offsets(self, generator: Generator, photos: Tensor, passes: int = 1) -> Tensor:
        """Return the offsets after `passes` passes. Gradients reach all passes, but not the images in between."""
        if passes <= 1:
            return super().offsets(generator, photos, passes)
        features = self.describe(photos)
        offsets = self.head(features)
        for _ in range(passes - 1):
            with torch.no_grad():
                size = min(self.size, generator.resolution)
                inverted = generator.synthesis(generator.mean_w + offsets, size=size).clamp(-1, 1)
            offsets = offsets + self.correct(features, self.describe(inverted))
        return offsets

    def borrowed(self, device: str) -> tuple[nn.Module, ...]:
        return () if self.recogniser is None else self.recogniser.networks(device)

    @torch.no_grad()
    def describe(self, photos: Tensor) -> dict[str, Tensor]:
        """Photos -> {"level0".."level3": (B, C, 8, 8), "identity": (B, 512)}: the inputs of the head."""
        if photos.shape[-1] != photos.shape[-2]:
            raise UserError(f"the encoder takes square aligned photos, got {photos.shape[-1]}x{photos.shape[-2]}")
        features = {} if self.recogniser is None else {"identity": self._embedding(photos)}
        x = imagenet_normalise(resize_area(photos, self.size))
        taken = {index: level for level, (index, _, _) in enumerate(LEVELS)}
        for index, layer in enumerate(self.backbone.network[: LEVELS[-1][0] + 1]):
            x = layer(x)
            if index in taken:
                features[f"level{taken[index]}"] = F.adaptive_avg_pool2d(x, _GRID)
        return features

    def head(self, features: dict[str, Tensor]) -> Tensor:
        """Features of `describe` -> offsets (B, L, 512)."""
        levels = [level.flatten(1) for level in self._levels(features)]
        if self.recogniser is not None:
            levels.append(features["identity"] * _IDENTITY**0.5)  # unit vectors, scaled like the other features
        x = self.enter(self.drop(torch.cat(levels, 1)))
        x = x + self.deepen(x)
        return self._offsets(self.shared(x), self.coefficients(x))

    def correct(self, photo: dict[str, Tensor], inverted: dict[str, Tensor]) -> Tensor:
        """Features of a photo and of its current inversion -> correction of the offsets (B, L, 512)."""
        pairs = zip(self._levels(photo), self._levels(inverted), strict=True)
        seen = [F.adaptive_avg_pool2d(a - b, _COARSE).flatten(1) for a, b in pairs]
        if self.recogniser is not None:
            seen += [(photo["identity"] - inverted["identity"]) * _IDENTITY**0.5, photo["identity"] * _IDENTITY**0.5]
        shared, coefficients = self.correction(torch.cat(seen, 1)).tensor_split([self.basis.shape[-1]], 1)
        return self._offsets(shared, coefficients)

    def _embedding(self, photos: Tensor) -> Tensor:
        assert self.recogniser is not None
        embedding = self.recogniser(photos)
        if embedding.shape[1] != _IDENTITY:
            given = f"{self.recogniser.name} gives {embedding.shape[1]}"
            raise UserError(f"the encoder reads an embedding of {_IDENTITY} numbers, and {given}")
        return embedding

    def _levels(self, features: dict[str, Tensor]) -> list[Tensor]:
        layers = zip(self.narrow, self.norms, strict=True)
        return [norm(narrow(features[f"level{i}"])) for i, (narrow, norm) in enumerate(layers)]

    def _offsets(self, shared: Tensor, coefficients: Tensor) -> Tensor:
        per_layer = torch.einsum("blr,lrd->bld", coefficients.unflatten(1, (self.num_ws, self.rank)), self.basis)
        return shared[:, None] + per_layer
