"""Diff-CAM (paper, section 3.2): classifies an edit and locates it.

Features of the inverted and the edited image are subtracted inside a backbone; the rest of the backbone, average
pooling and one linear layer classify the edit. Because only pooling and a linear layer follow the target features, the
Grad-CAM weights are the linear layer's rows (up to 1 / (h w)): maps for all classes come from one forward pass.
The same holds for pooling over a grid of places in the aligned face (`grid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.diffcam.backbones import build
from oodgan.errors import UserError
from oodgan.nn.backbones import imagenet_normalise


class DiffCAM(nn.Module):
    """Classifies the difference of two images, and predicts a map of where they differ.

    Args:
        backbone: see `oodgan.diffcam.backbones.NAMES`; `resnet101` as published.
        num_classes: number of edits.
        pretrained: start from the registry's ImageNet weights.
        weights: start from a backbone file in torchvision's layout.
        layers: flat indices of the backbone layers that are pooled and classified, the last one when None (as
            published). Several give finer maps: a layer before the cut contributes the magnitude of the features'
            difference, a later one its activations; the class maps of all are added at the finest size.
        trainable_from: flat index from which layers are trained; earlier ones are frozen and stay in eval mode.
            0 trains everything; None freezes the layers before the cut if weights were loaded.
        cut: number of layers before the subtraction, the backbone's own when None.
        grid: features are averaged around each of `grid` x `grid` points of the aligned face (bilinear weights), so
            that eyes and mouth can be told apart; 1 is the published average over all.
        relative: divide each layer's features by their mean, so that the strength of an edit does not matter.
    """

    def __init__(
        self,
        backbone: str = "resnet101",
        num_classes: int = 17,
        pretrained: bool = False,
        weights: str | Path | None = None,
        layers: Sequence[int] | None = None,
        trainable_from: int | None = 0,
        cut: int | None = None,
        grid: int = 1,
        relative: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"num_classes={num_classes}: Diff-CAM needs at least one edit")
        built = build(backbone, pretrained, weights)
        count, cut = len(built.layers), built.cut if cut is None else cut
        self.layers = sorted({i % count for i in layers} if layers else {count - 1})
        if layers and not all(-count <= i < count for i in layers):
            raise UserError(f"layers={list(layers)}: {backbone} has layers 0 to {count - 1}")
        self.backbone, self.cut, self.imagenet_input = backbone, cut, built.imagenet_input
        if trainable_from is None:
            trainable_from = cut if pretrained or weights is not None else 0
        self.trainable_from = trainable_from
        self.shared = nn.Sequential(*built.layers[:cut])
        self.classifier = nn.Sequential(*built.layers[cut:])
        self.grid, self.relative = grid, relative
        self.widths = self._measure_widths()
        self.fc = nn.Linear(sum(self.widths) * grid**2, num_classes)
        for module in self._frozen():
            module.requires_grad_(False)

    # Freezing

    def _flat(self) -> list[nn.Module]:
        return [*self.shared, *self.classifier]

    def _frozen(self) -> list[nn.Module]:
        return self._flat()[: self.trainable_from]

    def train(self, mode: bool = True) -> DiffCAM:
        """As usual, but frozen layers stay in eval mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def trained_state(self) -> dict[str, Tensor]:
        """Return the tensors that training can change: all except those of the frozen layers."""
        frozen = {id(t) for m in self._frozen() for t in (*m.parameters(), *m.buffers())}
        return {name: t for name, t in self.state_dict(keep_vars=True).items() if id(t) not in frozen}

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Inverse of `trained_state`; also takes a full state. UserError if names or shapes differ."""
        own = self.state_dict()
        missing = sorted(self.trained_state().keys() - state.keys())
        wrong = [name for name, t in state.items() if name not in own or own[name].shape != t.shape]
        if missing or wrong:
            raise UserError(f"weights are not of this Diff-CAM ({self.backbone}): {(missing + wrong)[0]} differs")
        self.load_state_dict(state, strict=False)

    # Forward

    def target_features(self, inverted: Tensor, edited: Tensor) -> list[Tensor]:
        """Features (B, C, h, w) of each of `self.layers`.

        Args:
            inverted: (B, 3, H, W) in [-1, 1], or (1, 3, H, W) for several edits of one image.
            edited: (B, 3, H, W).
        """
        taps, x = self._subtract(inverted, edited)
        features = [tap.abs() for tap in taps]
        for i, layer in enumerate(self.classifier, start=self.cut):
            if i > self.layers[-1]:
                break
            x = layer(x)
            if i in self.layers:
                features.append(x)
        if self.relative:
            features = [x / x.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-6) for x in features]
        return features

    def signed_change(self, inverted: Tensor, edited: Tensor) -> list[Tensor]:
        """Edited minus inverted features (B, C, h, w) of those of `self.layers` before the cut (of the cut if none)."""
        taps, x = self._subtract(inverted, edited)
        return taps or [x]

    def _subtract(self, inverted: Tensor, edited: Tensor) -> tuple[list[Tensor], Tensor]:
        """Edited minus inverted: at those of `self.layers` before the cut, and at the cut."""
        x = torch.cat([inverted, edited])
        x = imagenet_normalise(x) if self.imagenet_input else x
        first, differences = len(inverted), []
        for i, layer in enumerate(self.shared):
            x = layer(x)
            if i in self.layers:
                differences.append(x[first:] - x[:first])
        return differences, x[first:] - x[:first]

    @property
    def only_head_trains(self) -> bool:
        """Whether the whole backbone is frozen, so that pooled features can be computed once for all epochs."""
        return self.trainable_from >= len(self._flat())

    def classify(self, features: list[Tensor]) -> Tensor:
        """Logits (B, num_classes) from `target_features`."""
        return self.fc(pool(features, self.grid))

    def forward(self, inverted: Tensor, edited: Tensor) -> Tensor:
        """Logits (B, num_classes); arguments as in `target_features`."""
        return self.classify(self.target_features(inverted, edited))

    def maps(self, inverted: Tensor, edited: Tensor, classes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and raw maps (B, K, h, w) from one forward pass; of some classes only, (B, len(classes), h, w).

        A map's mean over the image plus the class's bias is its logit.
        """
        features = self.target_features(inverted, edited)
        size = features[0].shape[2:]
        weight = self.fc.weight if classes is None else self.fc.weight[list(classes)]
        rows = weight.split([width * self.grid**2 for width in self.widths], dim=1)
        total = torch.zeros((), device=inverted.device)
        for row, x in zip(rows, features, strict=True):
            weights = row.unflatten(1, (x.shape[1], self.grid, self.grid))
            down, across = (hats(self.grid, n).to(x) for n in x.shape[2:])
            part = torch.einsum("kchw,bchw->bkhw", torch.einsum("kcij,hi,wj->kchw", weights, down, across), x)
            total = total + (part if part.shape[2:] == size else _resize(part, size))
        return self.classify(features), total

    def cam(
        self, inverted: Tensor, edited: Tensor, classes: Tensor | Sequence[int] | None = None, size: int | None = None
    ) -> Tensor:
        """Masks in [0, 1], normalised as published.

        Args:
            classes: (B) one class an image, or None for all of them.
            size: of the mask, the images' when None.

        Returns:
            (B, size, size), or (B, K, size, size) for all classes.
        """
        _, maps = self.maps(inverted, edited)
        if classes is not None:
            index = torch.as_tensor(classes, device=maps.device)
            maps = maps[torch.arange(len(maps), device=maps.device), index]
        height, width = (size, size) if size else edited.shape[2:]
        return normalise_maps(maps, (height, width))

    @torch.no_grad()
    def _measure_widths(self) -> list[int]:
        blank = torch.zeros(1, 3, 64, 64)
        self.eval()
        widths = [x.shape[1] for x in self.target_features(blank, blank)]
        self.train()
        return widths


def pool(features: list[Tensor], grid: int = 1) -> Tensor:
    """Features (B, C, h, w) of several layers, averaged with the weights of `hats`: (B, sum of C x grid x grid)."""
    pooled = []
    for x in features:
        down, across = (hats(grid, n).to(x) / n for n in x.shape[2:])
        pooled.append(torch.einsum("bchw,hi,wj->bcij", x, down, across).flatten(1))
    return torch.cat(pooled, 1)


def hats(grid: int, size: int) -> Tensor:
    """Weights (size, grid) of bilinear interpolation from `grid` points to `size`; each row sums to 1."""
    return F.interpolate(torch.eye(grid)[None], size=size, mode="linear", align_corners=False)[0].T


def normalise_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """ReLU, bilinear resize to `size` (H, W), minus its minimum, divided by its maximum: (..., H, W) in [0, 1].

    A constant map (empty without positive evidence, or constant up to rounding) has no location and becomes zeros; the
    published code divides 0 by 0, or rounding errors by themselves.
    """
    positive = _resize(maps.clamp(min=0).flatten(0, -3)[:, None], size)[:, 0].view(*maps.shape[:-2], *size)
    shifted = positive - positive.amin((-2, -1), keepdim=True)
    peak = shifted.amax((-2, -1), keepdim=True)
    rounding = 16 * torch.finfo(maps.dtype).eps * positive.amax((-2, -1), keepdim=True)
    return torch.where(
        peak > rounding, shifted / peak.clamp(min=torch.finfo(maps.dtype).tiny), torch.zeros_like(shifted)
    )


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
