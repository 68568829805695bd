"""FID and KID: distances between two sets of pictures, from running states of bounded size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from oodgan.data.images import to_uint8

INCEPTION, INCEPTION_DIM = "inception2015", 2048
PYTORCH_FID = "pytorchfid"
Extractor = Callable[[Tensor], Tensor]


@lru_cache(maxsize=2)
def _inception(device: str) -> torch.jit.ScriptModule:
    from oodgan.weights.fetch import fetch

    network = torch.jit.load(str(fetch("inception_fid") / "default_1.pt"), map_location="cpu")
    return network.eval().to(device)


def _resize_tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear resize of TensorFlow 1: no half-pixel offset, no antialiasing, edge pixels repeated."""
    height, width = images.shape[-2:]
    theta = torch.eye(2, 3, device=images.device, dtype=images.dtype)
    theta[0, 2] = 1 / width - 1 / size
    theta[1, 2] = 1 / height - 1 / size
    grid = F.affine_grid(theta.expand(len(images), 2, 3), [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def inception_features(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 2048): FID's Inception (2015-12-05), rounded to 8 bits and resized as it was."""
    levels = to_uint8(images).float()
    with torch.no_grad():
        return _inception(str(images.device))((_resize_tf1(levels, 299) - 128) / 128).float()


def pytorch_fid_features(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 2048): the same network, with the preprocessing of the package pytorch-fid.

    Bilinear with half-pixel offsets and without antialiasing to 299 px, then to [-1, 1]: other numbers than FID's own.
    """
    levels = to_uint8(images).float() / 255
    small = F.interpolate(levels, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        return _inception(str(images.device))(2 * small - 1).float()


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017), in float64.

    tr sqrt(C1 C2) is the sum of the roots of the eigenvalues of R^T C2 R, where C1 = R R^T and R has one column for
    each non-zero eigenvalue of C1: two eigen-decompositions of symmetric matrices do it, without the complex rounding
    of a general matrix root, and the second matrix is small for a set of few images.
    """
    values, vectors = torch.linalg.eigh(cov1.double())
    nonzero = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    root = vectors[:, nonzero] * values[nonzero].sqrt()
    cross = torch.linalg.eigvalsh(root.T @ cov2.double() @ root).clamp(min=0).sqrt().sum()
    distance = (mean1 - mean2).double().square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return max(0.0, float(distance))


class SetDistance(Metric):
    """What FID and KID share: pictures of two sets become features.

    `update` takes pictures (B, 3, H, W) in [-1, 1], or features (B, d) computed before. Another `extractor` must bring
    its own `extractor_name`, which becomes part of the metric's name.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(self, kind: str, extractor: Extractor | None, extractor_name: str, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        if (extractor is None) != (extractor_name == INCEPTION):
            raise ValueError(f"another extractor needs a name of its own: {INCEPTION!r} means the registry's network")
        self.extractor = extractor or inception_features
        self.name, self.dim = f"{kind}_{extractor_name}", dim

    def features(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), or features (B, d) as they are -> features (B, d)."""
        return (self.extractor(x) if x.dim() == 4 else x).detach()

    def too_few(self, real: int, fake: int) -> bool:
        """Whether a side has fewer than two images, with a warning."""
        if min(real, fake) < 2:
            warnings.warn(f"{self.name} needs at least 2 images on each side, got {real} real and {fake} generated")
        return min(real, fake) < 2


class FID(SetDistance):
    """Frechet inception distance from running sums: 2 x (d + d^2 + 1) numbers whatever the number of images."""

    def __init__(
        self,
        extractor: Extractor | None = None,
        extractor_name: str = INCEPTION,
        dim: int = INCEPTION_DIM,
        **kwargs: Any,
    ):
        super().__init__("fid", extractor, extractor_name, dim, **kwargs)
        for side in ("real", "fake"):
            self.add_state(f"{side}_sum", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor, real: bool) -> None:
        features = self.features(x).double()
        side = "real" if real else "fake"
        getattr(self, f"{side}_sum").add_(features.sum(0))
        getattr(self, f"{side}_outer").add_(features.T @ features)
        getattr(self, f"{side}_count").add_(len(features))

    def moments(self, real: bool) -> dict[str, Tensor]:
        """Return the running sums of one side, which can be cached and passed to `add_moments` later."""
        side = "real" if real else "fake"
        return {key: getattr(self, f"{side}_{key}").clone() for key in ("sum", "outer", "count")}

    def add_moments(self, moments: dict[str, Tensor], real: bool) -> None:
        """Adds running sums.  On several processes, call it on one of them only: the sums are added up."""
        side = "real" if real else "fake"
        for key, value in moments.items():
            getattr(self, f"{side}_{key}").add_(value.to(self.device))

    def _gaussian(self, side: str) -> tuple[Tensor, Tensor]:
        total, outer = getattr(self, f"{side}_sum"), getattr(self, f"{side}_outer")
        count = getattr(self, f"{side}_count")
        mean = total / count
        return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)

    def compute(self) -> Tensor:
        """The distance; nan with a warning when a side has fewer than two images."""
        if self.too_few(int(self.real_count), int(self.fake_count)):  # type: ignore[arg-type]
            return torch.tensor(math.nan)
        return torch.tensor(frechet_distance(*self._gaussian("real"), *self._gaussian("fake")), dtype=torch.float64)


class KID(SetDistance):
    """Kernel inception distance (Binkowski et al. 2018): unbiased MMD^2 with the kernel (x.y / d + 1)^3.

    The sum over all pairs is taken at once, so there is no draw of subsets.  States are bounded: the `capacity` images
    with the smallest keys are kept on each side; keys are the images' positions in the set, so one process or many
    keep the same ones.
    """

    def __init__(
        self,
        extractor: Extractor | None = None,
        extractor_name: str = INCEPTION,
        dim: int = INCEPTION_DIM,
        capacity: int = 2000,
        **kwargs: Any,
    ):
        super().__init__("kid", extractor, extractor_name, dim, **kwargs)
        self.capacity = capacity
        for side in ("real", "fake"):
            # Tensors of fixed shape gather on uneven shards; lists do not. An unused row has an infinite key.
            self.add_state(f"{side}_features", torch.zeros(capacity, dim), dist_reduce_fx=None)
            self.add_state(f"{side}_keys", torch.full((capacity,), torch.inf, dtype=torch.float64), dist_reduce_fx=None)

    def update(self, x: Tensor, real: bool, keys: Tensor) -> None:
        """Adds pictures (B, 3, H, W) in [-1, 1] or features (B, d), with their positions (B,) in the whole set."""
        features = self.features(x).float()
        side = "real" if real else "fake"
        every = torch.cat([getattr(self, f"{side}_keys"), keys.to(features.device).double()])
        rows = torch.cat([getattr(self, f"{side}_features"), features])
        kept = every.argsort(stable=True)[: self.capacity]
        setattr(self, f"{side}_keys", every[kept])
        setattr(self, f"{side}_features", rows[kept])

    def kept(self, real: bool) -> tuple[Tensor, Tensor]:
        """Return the current features (n, d) and keys (n,) of one side, to be cached and passed to `update` later."""
        side = "real" if real else "fake"
        keys = getattr(self, f"{side}_keys").reshape(-1)
        rows = getattr(self, f"{side}_features").reshape(-1, self.dim)
        order = keys.argsort(stable=True)[: self.capacity]
        order = order[keys[order].isfinite()]
        return rows[order], keys[order]

    def compute(self) -> Tensor:
        """The squared distance (may be a little below 0); nan with a warning below two images a side."""
        real, fake = self.kept(real=True)[0].double(), self.kept(real=False)[0].double()
        if self.too_few(len(real), len(fake)):
            return torch.tensor(math.nan)
        return _inside(real) + _inside(fake) - 2 * _kernel(real, fake).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _inside(x: Tensor) -> Tensor:
    kernel = _kernel(x, x)
    return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))
