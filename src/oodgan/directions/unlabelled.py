"""Directions without labels for any generator: SeFa and PCA of W (GANSpace). Name them from the contact sheet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodgan.directions.discovery import Discovered
from oodgan.directions.linear import parse_layers, spread
from oodgan.errors import UserError
from oodgan.generators.protocol import Generator, sample_codes


class SefaDiscovery:
    """Closed-form factorisation (Shen and Zhou 2021, equation 8): eigenvectors of A^T A, A the style layers stacked.

    Args:
        count: number of directions; layers: W+ layers whose style layers are factorised, and which the edit changes.
        step: length of strength 1 in W.
    """

    def __init__(self, count: int = 8, layers: object = None, step: float = 4.0) -> None:
        self.count, self.layers, self.step = _checked(count), layers, step

    def discover(self, generator: Generator) -> Discovered:
        """Named `sefa_00`, ... by falling eigenvalue."""
        chosen = parse_layers(self.layers, generator.num_ws)
        maps = [matrix for layer, matrix in style_maps(generator) if layer in chosen]
        if not maps:
            raise UserError(f"generator {generator.id} has no style layers among layers {self.layers}")
        stacked = torch.cat([matrix / matrix.norm() * len(matrix) ** 0.5 for matrix in maps])
        values, vectors = torch.linalg.eigh(stacked.T.double() @ stacked.double())
        eigenvectors = vectors.flip(1).T[: self.count].float()
        share = (values.flip(0) / values.sum())[: self.count]
        return _discovered("sefa", eigenvectors * self.step, chosen, generator, share)


class GanspaceDiscovery:
    """Principal components of W (Harkonen et al. 2020, section 3): strength 1 is `deviations` standard deviations.

    Args:
        count: number of directions; layers: layers that the edit changes; samples, seed: samples of the PCA.
    """

    def __init__(
        self, count: int = 8, layers: object = None, samples: int = 20_000, seed: int = 0, deviations: float = 2.0
    ) -> None:
        self.count, self.layers, self.samples, self.seed = _checked(count), layers, samples, seed
        self.deviations = deviations
        if samples < 1000:
            raise UserError(f"samples={samples}: the PCA of 512 dimensions needs at least 1000")

    def discover(self, generator: Generator) -> Discovered:
        """Named `pca_00`, ... by falling variance."""
        chosen = parse_layers(self.layers, generator.num_ws)
        codes = sample_codes(generator, self.samples, self.seed, truncation=1.0)[:, 0].cpu().double()
        values, vectors = torch.linalg.eigh(torch.cov(codes.T))
        values, vectors = values.flip(0), vectors.flip(1).T
        steps = (self.deviations * values[: self.count].clamp(min=0).sqrt())[:, None]
        return _discovered("pca", (vectors[: self.count] * steps).float(), chosen, generator, values / values.sum())


@torch.no_grad()
def style_maps(generator: Generator) -> list[tuple[int, Tensor]]:
    """(W+ layer, matrix (channels, 512)) of every module that maps a style linearly, whatever the architecture.

    Decodes a code with different rows; a module whose input is one of these rows belongs to that layer.
    """
    assert isinstance(generator, nn.Module)
    marker = torch.Generator().manual_seed(0)
    code = torch.randn(1, generator.num_ws, generator.style_dim, generator=marker).to(generator.mean_w)
    seen: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[object, ...]) -> None:
        x = inputs[0] if inputs else None
        if isinstance(x, Tensor) and x.shape == (1, generator.style_dim):
            rows = (code[0] == x).all(1).nonzero()
            if len(rows):
                seen.setdefault(module, int(rows[0]))

    leaves = [m for m in generator.modules() if not list(m.children())]
    hooks = [leaf.register_forward_pre_hook(note) for leaf in leaves]
    try:
        generator.synthesis(code)
    finally:
        for hook in hooks:
            hook.remove()
    unit = torch.eye(generator.style_dim).to(code)
    maps = [(layer, (module(unit) - module(torch.zeros_like(unit))).T.cpu()) for module, layer in seen.items()]
    return sorted(maps, key=lambda pair: pair[0])


def _checked(count: int) -> int:
    if not 1 <= count <= 512:
        raise UserError(f"count={count}: 1 to 512 directions")
    return count


def _discovered(prefix: str, directions: Tensor, layers: list[int], generator: Generator, share: Tensor) -> Discovered:
    names = [f"{prefix}_{i:02d}" for i in range(len(directions))]
    vectors = torch.stack([spread(direction, layers, generator.num_ws) for direction in directions])
    quality = {name: {"share": round(float(s), 4)} for name, s in zip(names, share, strict=False)}
    provenance = {"method": prefix, "generator": generator.id, "layers": layers}
    return Discovered(names, vectors, provenance, calibrated=True, quality=quality)
