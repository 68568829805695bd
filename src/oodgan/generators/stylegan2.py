"""StyleGAN2 (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN") of any power-of-two size.

Parameter names are those of rosinality's public implementation, the layout of most public checkpoints;
other layouts are renamed by `oodgan.conversion.convert`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.generators.ops import BLUR_TAPS, EqualLinear, PixelNorm, StyledConv, ToRGB, blur_kernel
from oodgan.generators.protocol import STYLE_DIM, Fuse, Residuals, check_residuals, mean_code, weights_id
from oodgan.generators.strips import Cut, in_strips, whole

Noise = str | Sequence[Tensor]
MEAN_SAMPLES = 4096
DOWNLOAD = "stylegan2-ffhq-config-f.pt (rosinality) or stylegan2-ffhq-1024x1024.pkl (NVlabs)"


class ConstantInput(nn.Module):
    """The learned (1, C, 4, 4) start of the synthesis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class StyleGAN2(nn.Module):
    """StyleGAN2 generator: z -> w -> image in about [-1, 1], RGB.

    Args:
        resolution: a power of two, at least 8; that of the weights, or 1024, when None.
        channel_multiplier: 2 for FFHQ's configuration F, 1 for the half-width ones.
        max_channels: upper limit of a layer's width (512 as published).
        n_mlp: layers of the mapping network.
        lr_mlp: learning-rate multiplier of the mapping network (part of its forward pass).
        weights: artifact of `oodgan weights convert` (folder or `.safetensors` file), whose metadata decide the
            widths; random when None.
        seed: of the random weights.

    Raises:
        UserError: resolution is not a power of two, or the weights are missing or of another network.
    """

    style_dim = STYLE_DIM
    strips = True
    mean_w: Tensor

    def __init__(
        self,
        resolution: int | None = None,
        channel_multiplier: int = 2,
        max_channels: int = 512,
        n_mlp: int = 8,
        lr_mlp: float = 0.01,
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        state: dict[str, Tensor] | None = None
        if weights is not None:
            state, made_for = _read(weights, resolution)
            resolution, n_mlp = made_for["resolution"], made_for["n_mlp"]
            channel_multiplier, max_channels = made_for["channel_multiplier"], made_for["max_channels"]
        resolution = 1024 if resolution is None else resolution
        if resolution < 8 or resolution & (resolution - 1):
            raise UserError(f"generator resolution {resolution} is not a power of two of at least 8")
        self.resolution = resolution
        self.num_ws = 2 * int(math.log2(resolution)) - 2
        self.channel_multiplier, self.max_channels, self.n_mlp = channel_multiplier, max_channels, n_mlp
        self.resolutions = [2**i for i in range(2, int(math.log2(resolution)) + 1)]
        self.feature_channels = {r: min(max_channels, 16384 * channel_multiplier // r) for r in self.resolutions}
        self._id: str | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(n_mlp, lr_mlp)
        if state is None:
            self.reset_mean_w()
        else:
            load_strict(self, state, f"StyleGAN2 of {resolution} px")
        self.eval()

    @classmethod
    def from_pretrained(cls, weights: str | Path | None, resolution: int | None = None) -> StyleGAN2:
        """From an artifact of `oodgan weights convert`; UserError saying what to download when `weights` is None."""
        from oodgan.weights import trained

        if not weights:
            raise UserError(trained.missing("generator", "stylegan2", DOWNLOAD))
        return cls(resolution, weights=weights).requires_grad_(False)

    def _build(self, n_mlp: int, lr_mlp: float) -> None:
        dim, channels = self.style_dim, self.feature_channels
        mlp = [EqualLinear(dim, dim, lr=lr_mlp, activation=True) for _ in range(n_mlp)]
        self.style = nn.Sequential(PixelNorm(), *mlp)
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], dim)
        self.to_rgb1 = ToRGB(channels[4], dim)
        self.convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, 1, 4, 4))
        for i, res in enumerate(self.resolutions[1:]):
            self.convs.append(StyledConv(channels[res // 2], channels[res], dim, up=True))
            self.convs.append(StyledConv(channels[res], channels[res], dim))
            self.to_rgbs.append(ToRGB(channels[res], dim))
            for j in (2 * i + 1, 2 * i + 2):
                self.noises.register_buffer(f"noise_{j}", torch.randn(1, 1, res, res))
        self.register_buffer("mean_w", torch.zeros(dim))

    # Identity and weights

    @property
    def id(self) -> str:
        """`stylegan2-<resolution>-` and the first 8 hex digits of the sha256 of all tensors, by sorted name."""
        if self._id is None:
            self._id = weights_id(f"stylegan2-{self.resolution}", self.state_dict())
        return self._id

    @property
    def architecture(self) -> dict[str, int]:
        """The constructor's keywords that its weights depend on."""
        keys = ("resolution", "channel_multiplier", "max_channels", "n_mlp")
        return {key: getattr(self, key) for key in keys}

    def reset_mean_w(self) -> None:
        """Estimate `mean_w` from the mapping of seeded latents (for weights that come without it)."""
        self.mean_w.copy_(mean_code(lambda z: self.mapping(z.to(self.mean_w)), MEAN_SAMPLES))
        self._id = None

    def load_public(self, state: dict[str, Tensor], latent_avg: Tensor | None = None) -> None:
        """Load tensors in rosinality's layout, strictly.

        Args:
            state: `g_ema`, or a pSp checkpoint's `decoder`. Stored blur kernels must be [1, 3, 3, 1]'s; missing
                noise buffers (old checkpoints) keep their seeded values.
            latent_avg: mean code (512) or (L, 512); estimated from the mapping when None.

        Raises:
            UserError: a kernel is another one, or names or shapes differ.
        """
        kernels = {name: t for name, t in state.items() if name.endswith(".kernel")}
        expected = blur_kernel(gain=4.0)
        for name, kernel in kernels.items():
            if kernel.shape != expected.shape or not torch.allclose(kernel.float().cpu(), expected, atol=1e-4):
                raise UserError(f"StyleGAN2 weights with another blur kernel than {BLUR_TAPS}: {name}")
        rest = {name: t for name, t in state.items() if name not in kernels}
        noises = {name: t for name, t in self.state_dict().items() if name.startswith("noises.")}
        load_strict(self, {**noises, "mean_w": self.mean_w, **rest}, f"StyleGAN2 of {self.resolution} px")
        if latent_avg is None:
            self.reset_mean_w()
        else:
            rows = latent_avg.reshape(-1, self.style_dim).float()
            self.mean_w.copy_(rows[0] if bool((rows == rows[0]).all()) else rows.mean(0))
        self._id = None

    # The protocol

    def mapping(self, z: Tensor) -> Tensor:
        """z (B, 512), standard normal -> w (B, 512)."""
        return self.style(z)

    def synthesis(
        self, w_plus: Tensor, noise: Noise = "const", size: int | None = None, residuals: Residuals | None = None
    ) -> Tensor:
        """Decode w_plus (B, num_ws, 512) to images (B, 3, size, size), about [-1, 1], RGB.

        Args:
            noise: "const" (the stored buffers), "random", "none", or a list of num_ws - 1 tensors.
            size: stop at this resolution: the sum of the RGB layers up to there. It approximates the area-resized
                full image: finer layers also correct colour and shading below their own scale.

        Raises:
            UserError: wrong number of codes, unknown noise, or a size that the network does not have.
        """
        size = self.resolution if size is None else size
        if size not in self.resolutions:
            raise UserError(f"size {size}: this generator decodes to one of {self.resolutions}")
        per_image = w_plus.device.type == "cpu" and size >= 256 and not torch.is_grad_enabled()
        if per_image and w_plus.shape[0] > 1 and isinstance(noise, str):
            # One image's activations already exceed the caches; one by one halves memory and is as fast.
            rows = [{r: x[i : i + 1] for r, x in (residuals or {}).items()} for i in range(len(w_plus))]
            return torch.cat([self.synthesis(w[None], noise, size, row) for w, row in zip(w_plus, rows, strict=True)])
        rgb: Tensor | None = None
        for level, (_, x) in enumerate(self.levels(w_plus, noise=noise, last=size, residuals=residuals)):
            to_rgb = self.to_rgb1 if level == 0 else self.to_rgbs[level - 1]
            rgb = to_rgb(x, w_plus[:, 2 * level + 1], rgb)
        assert rgb is not None
        return rgb.contiguous()

    def features(
        self, w_plus: Tensor, fuse: Fuse | None = None, noise: Noise = "const", last: int | None = None,
        residuals: Residuals | None = None,
    ) -> dict[int, Tensor]:  # fmt: skip
        """All of `levels` together: {resolution: (B, feature_channels[resolution], r, r)}."""
        return dict(self.levels(w_plus, fuse, noise, last, residuals))

    def levels(
        self, w_plus: Tensor, fuse: Fuse | None = None, noise: Noise = "const", last: int | None = None,
        residuals: Residuals | None = None,
    ) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
        """Yield each resolution with its hidden activations (B, feature_channels[resolution], r, r), up to `last`.

        `fuse(resolution, x) -> x` may change the activation before the block at the next resolution reads it; what
        came out of it is yielded. `residuals` are added before it. Coarsest first, each computed when it is asked for.
        """
        if w_plus.ndim != 3 or tuple(w_plus.shape[1:]) != (self.num_ws, self.style_dim):
            raise UserError(
                f"codes of shape {tuple(w_plus.shape)}: this generator takes (B, {self.num_ws}, {self.style_dim})"
            )
        batch = w_plus.shape[0]
        residuals = check_residuals(residuals, self.feature_channels, batch)
        if noise == "random":  # the same in all strips of a level
            noise = [torch.randn_like(n.expand(batch, -1, -1, -1)) for n in self.noises.buffers()]
        x = self.input.input.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.conv1(x, w_plus[:, 0], self._noise(noise, 0))
        x = x + residuals[4] if 4 in residuals else x
        x = fuse(4, x) if fuse else x
        yield 4, x
        for res in self.resolutions[1:]:
            if last and res > last:
                return
            x = in_strips(partial(self.level, x, w_plus, noise), x)
            x = x + residuals[res] if res in residuals else x
            x = fuse(res, x) if fuse else x
            yield res, x

    def level(self, x: Tensor, w_plus: Tensor, noise: Noise = "const", cut: Cut = whole) -> Tensor:
        """From hidden activations (B, C, r, r) to those of the next resolution, or to the rows that `cut` leaves.

        Up to three rows next to a cut are wrong; `in_strips` drops them. `noise` as in `synthesis`, without "random".
        """
        first = 2 * int(math.log2(x.shape[2])) - 4
        y = cut(x)
        for i in (first, first + 1):
            drawn = self._noise(noise, i + 1)
            y = self.convs[i](y, w_plus[:, i + 1], None if drawn is None else cut(drawn))
        return y

    def _noise(self, noise: Noise, index: int) -> Tensor | None:
        stored = self.noises.get_buffer(f"noise_{index}")
        if not isinstance(noise, str):
            if len(noise) != self.num_ws - 1:
                raise UserError(f"{len(noise)} noise tensors: this generator takes {self.num_ws - 1}")
            return noise[index]
        if noise == "const":
            return stored
        if noise == "none":
            return None
        raise UserError(f"unknown noise {noise!r}: const, random, none or a list of tensors")


def _read(source: str | Path, resolution: int | None) -> tuple[dict[str, Tensor], dict[str, int]]:
    from oodgan.weights import trained

    state, metadata = trained.load(source, "generator")
    architecture = metadata["architecture"]
    if resolution not in (None, architecture["resolution"]):
        raise UserError(f"generator weights {source} are of {architecture['resolution']} px, not {resolution}")
    return state, architecture


def load_strict(module: nn.Module, state: dict[str, Any], what: str, assign: bool = False) -> None:
    """`load_state_dict(strict=True)` that raises a one-line UserError naming the first difference."""
    own = module.state_dict()
    for kind, names in (("misses", own.keys() - state.keys()), ("has unknown", state.keys() - own.keys())):
        if names:
            raise UserError(f"weights are not {what}: the file {kind} {min(names)} (and {len(names) - 1} more)")
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise UserError(
                f"weights are not {what}: {name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            )
    module.load_state_dict(state, assign=assign)


def tiny(seed: int = 0, resolution: int = 32, max_channels: int = 16) -> StyleGAN2:
    """A narrow random StyleGAN2 (32 px, 8 codes) for tests and dry runs; the same seed gives the same network.

    >>> tiny().num_ws
    8
    """
    generator = StyleGAN2(resolution, channel_multiplier=1, max_channels=max_channels, n_mlp=2, seed=seed)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.05)
    return generator
