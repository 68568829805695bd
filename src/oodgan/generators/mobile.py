"""MobileStyleGAN (Belousov, 2021, arXiv:2104.04767) in plain PyTorch: real 1024 px faces on a CPU.

It was distilled from StyleGAN2-FFHQ and keeps its latent space, so published directions and codes fit. Blocks upsample
by an inverse Haar transform and convolve depthwise-separably; the weights' demodulation is folded into the pointwise
kernels and the noise is constant. The 16 W+ layers mean what StyleGAN2's first 16 mean: block L takes layer 1 + 2L for
upsampling and its first convolution, 2 + 2L for the second; the image head takes the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.generators.openvino_ir import Graph
from oodgan.generators.preview import load_previews, shipped_mean
from oodgan.generators.protocol import STYLE_DIM, Fuse, Residuals, check_residuals, mean_code, weights_id
from oodgan.weights import fetch

CHANNELS = (512, 512, 512, 512, 512, 256, 128, 64)  # of the hidden activations at 4, 8, ... 512 px
_SLOPE = 0.2


def inverse_haar(coefficients: Tensor) -> Tensor:
    """Inverse Haar transform: (B, 4C, H, W) -> (B, C, 2H, 2W).

    The first C channels are the low band; the others hold (vertical, horizontal, diagonal) details, three in a row for
    each low channel.
    """
    channels = coefficients.shape[1] // 4
    low, high = coefficients[:, :channels], coefficients[:, channels:].unflatten(1, (channels, 3))
    vertical, horizontal, diagonal = high.unbind(2)
    top, bottom = low + vertical, low - vertical
    top_detail, bottom_detail = horizontal + diagonal, horizontal - diagonal
    quads = torch.stack([top + top_detail, top - top_detail, bottom + bottom_detail, bottom - bottom_detail], dim=2)
    return F.pixel_shuffle(quads.flatten(1, 2).mul(0.5), 2)


class Styled(nn.Module):
    """Scale the channels by an affine function of the style, convolve, add constant noise and bias, activate."""

    def __init__(self, inputs: int, outputs: int, size: int, separable: bool = True) -> None:
        super().__init__()
        self.affine = nn.Linear(STYLE_DIM, inputs)
        if separable:
            self.depthwise: nn.Conv2d | None = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
            self.mix = nn.Conv2d(inputs, outputs, 1)
        else:
            self.depthwise = None
            self.mix = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.noise = nn.Parameter(torch.zeros(1, 1, size, size))

    def forward(self, x: Tensor, style: Tensor, noise: bool) -> Tensor:
        x = x * self.affine(style)[:, :, None, None]
        if self.depthwise is not None:
            x = self.depthwise(x)
        x = self.mix(x)
        return F.leaky_relu(x + self.noise if noise else x, _SLOPE)


class Block(nn.Module):
    """Double the size, then two styled separable convolutions."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.up = nn.Linear(STYLE_DIM, inputs)
        self.first = Styled(inputs // 4, outputs, size)
        self.second = Styled(outputs, outputs, size)

    def forward(self, x: Tensor, styles: Tensor, noise: bool) -> Tensor:
        x = inverse_haar(x * self.up(styles[:, 0])[:, :, None, None])
        return self.second(self.first(x, styles[:, 0], noise), styles[:, 1], noise)


class Mapping(nn.Module):
    """z -> w: normalise, then eight fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(STYLE_DIM, STYLE_DIM) for _ in range(8))

    def forward(self, z: Tensor) -> Tensor:
        z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            z = F.leaky_relu(layer(z), _SLOPE)
        return z


class MobileGenerator(nn.Module):
    """The generator protocol over MobileStyleGAN (`oodgan.generators.protocol.Generator`)."""

    resolution = 1024
    num_ws = 16
    style_dim = STYLE_DIM
    strips = False  # its last octave has no activations
    id: str
    mean_w: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.mapping_network = Mapping()
        self.constant = nn.Parameter(torch.zeros(1, CHANNELS[0], 4, 4))
        self.stem = Styled(CHANNELS[0], CHANNELS[0], 4, separable=False)
        self.blocks = nn.ModuleList(Block(CHANNELS[i], CHANNELS[i + 1], 8 << i) for i in range(len(CHANNELS) - 1))
        self.to_image = nn.Linear(STYLE_DIM, CHANNELS[-1])
        self.head = nn.Conv2d(CHANNELS[-1], 12, 1)
        self.previews = nn.ModuleDict()
        self.register_buffer("mean_w", torch.zeros(STYLE_DIM))
        self.feature_channels = {4 << i: width for i, width in enumerate(CHANNELS)}

    @classmethod
    def from_pretrained(cls, weights: str = "mobile_ffhq") -> MobileGenerator:
        """Build from a registered pair of OpenVINO files, in eval mode and frozen."""
        folder = fetch(weights)
        generator = cls()
        _read_mapping(generator, Graph(folder / "MappingNetwork.xml"))
        _read_synthesis(generator, Graph(folder / "SynthesisNetwork.xml"))
        mean = shipped_mean()
        generator.mean_w.copy_(mean_code(generator.mapping) if mean is None else mean)
        generator.id = weights_id(weights, generator.state_dict())
        generator.previews.update(load_previews(generator))
        return generator.eval().requires_grad_(False)

    def mapping(self, z: Tensor) -> Tensor:
        """z (B, 512) -> w (B, 512)."""
        return self.mapping_network(z)

    def synthesis(
        self, w_plus: Tensor, noise: str = "const", size: int | None = None, residuals: Residuals | None = None
    ) -> Tensor:
        """Codes (B, 16, 512) -> images (B, 3, size, size), size 1024 unless a smaller preview is asked for.

        `noise` is "const" or "none". Sizes below 1024 come from fitted preview heads where there is one for the size
        (PSNR to the area-resized full image: see the card of `mobile_ffhq_previews`), else from resizing.
        """
        if noise not in ("const", "none"):
            raise UserError(f"noise={noise!r} is not offered by this generator; use const or none")
        size = size or self.resolution
        if str(size) in self.previews:
            hidden = self.features(w_plus, noise=noise == "const", last=size // 2, residuals=residuals)[size // 2]
            return self.previews[str(size)](hidden, w_plus[:, self.layer_of(size // 2) :])
        image = self.render(self.features(w_plus, noise=noise == "const", residuals=residuals), w_plus)
        return image if size == self.resolution else F.interpolate(image, (size, size), mode="area")

    def render(self, features: dict[int, Tensor], w_plus: Tensor) -> Tensor:
        """Hidden activations -> the full image (B, 3, 1024, 1024)."""
        hidden = features[self.resolution // 2]
        return inverse_haar(self.head(hidden * self.to_image(w_plus[:, -1])[:, :, None, None]))

    def features(
        self, w_plus: Tensor, fuse: Fuse | None = None, noise: bool = True, last: int | None = None,
        residuals: Residuals | None = None,
    ) -> dict[int, Tensor]:  # fmt: skip
        """Codes -> hidden activations {4: (B, 512, 4, 4), ... 512: (B, 64, 512, 512)}, up to resolution `last`."""
        return dict(self.levels(w_plus, fuse, noise, last, residuals))

    def levels(
        self, w_plus: Tensor, fuse: Fuse | None = None, noise: bool = True, last: int | None = None,
        residuals: Residuals | None = None,
    ) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
        """Yield what `features` holds, coarsest first, each computed when it is asked for."""
        self._check(w_plus)
        residuals = check_residuals(residuals, self.feature_channels, len(w_plus))
        x = self.stem(self.constant.expand(len(w_plus), -1, -1, -1), w_plus[:, 0], noise)
        for i, block in enumerate([None, *self.blocks]):
            if block is not None:
                x = block(x, w_plus[:, 2 * i - 1 : 2 * i + 1], noise)
            if 4 << i in residuals:
                x = x + residuals[4 << i]
            if fuse is not None:
                x = fuse(4 << i, x)
            yield 4 << i, x
            if last == 4 << i:
                return

    @staticmethod
    def layer_of(resolution: int) -> int:
        """The W+ layer that StyleGAN2's image head of a resolution takes."""
        return 2 * (resolution.bit_length() - 3) + 1

    def _check(self, w_plus: Tensor) -> None:
        if w_plus.ndim != 3 or w_plus.shape[1:] != (self.num_ws, self.style_dim):
            raise UserError(
                f"codes of shape {tuple(w_plus.shape)} do not fit this generator: "
                f"(B, {self.num_ws}, {self.style_dim}) expected; drop the last two layers of an 18-layer code"
            )


def _read_mapping(generator: MobileGenerator, graph: Graph) -> None:
    layers: Any = generator.mapping_network.layers
    products = graph.operations("MatMul")
    scales = [op for op in graph.operations("Multiply") if graph.type(graph.inputs(op)[0]) == "PReLU"]
    biases = graph.operations("Reshape")
    for layer, product, bias, scale in zip(layers, products, biases, scales, strict=True):
        # The gain after the activation moves into the layer: leaky ReLU commutes with a positive factor.
        gain = graph.constant(scale).flatten()
        layer.weight.data.copy_(graph.constant(product) * gain)
        layer.bias.data.copy_(graph.constant(bias).flatten() * gain)


def _read_synthesis(generator: MobileGenerator, graph: Graph) -> None:
    affines = [_affine(graph, op) for op in graph.operations("Multiply") if _modulates(graph, op)]
    kernels = [graph.constant(op) for op in graph.operations("Convolution", "GroupConvolution")]
    additions = [graph.constant(op) for op in graph.operations("Add") if _adds_to_image(graph, op)]
    generator.constant.data.copy_(graph.value(_constant_input(graph)))
    _fill(generator.stem, affines.pop(0), [kernels.pop(0)], additions)
    for block in generator.blocks:
        _fill_linear(block.up, affines.pop(0))  # type: ignore[arg-type]
        for styled in (block.first, block.second):
            _fill(styled, affines.pop(0), [kernels.pop(0), kernels.pop(0)], additions)  # type: ignore[arg-type]
    _fill_linear(generator.to_image, affines.pop(0))
    generator.head.weight.data.copy_(kernels.pop(0))
    generator.head.bias.data.copy_(additions.pop(0).flatten())  # type: ignore[union-attr]
    if affines or kernels or additions:
        raise UserError("the OpenVINO graph has more layers than MobileStyleGAN's 1024 px generator")


def _fill(styled: Styled, affine: tuple[Tensor, Tensor], kernels: list[Tensor], additions: list[Tensor]) -> None:
    _fill_linear(styled.affine, affine)
    if styled.depthwise is not None:
        styled.depthwise.weight.data.copy_(kernels[0].flatten(0, 1))
    styled.mix.weight.data.copy_(kernels[-1])
    styled.noise.data.copy_(additions.pop(0))
    styled.mix.bias.data.copy_(additions.pop(0).flatten())  # type: ignore[union-attr]


def _fill_linear(layer: nn.Linear, affine: tuple[Tensor, Tensor]) -> None:
    layer.weight.data.copy_(affine[0])
    layer.bias.data.copy_(affine[1])


def _style_source(graph: Graph, operation: str) -> str | None:
    """Follow one operand back to the product with the style vector that it comes from, if it does."""
    while graph.type(operation) in ("Reshape", "Multiply", "Add"):
        operation = graph.inputs(operation)[0]
    return operation if graph.type(operation) == "MatMul" else None


def _modulates(graph: Graph, operation: str) -> bool:
    inputs = graph.inputs(operation)
    return "Const" not in map(graph.type, inputs) and any(_style_source(graph, i) for i in inputs)


def _affine(graph: Graph, modulation: str) -> tuple[Tensor, Tensor]:
    """The weight and bias of a style's affine layer, with the equalised-learning-rate scale folded in."""
    operation = next(i for i in graph.inputs(modulation) if _style_source(graph, i))
    scale = torch.ones(())
    while graph.type(operation) != "MatMul":
        if graph.type(operation) == "Multiply":
            scale = graph.constant(operation).flatten()
        elif graph.type(operation) == "Add":
            bias = graph.constant(operation).flatten()
        operation = graph.inputs(operation)[0]
    return graph.constant(operation) * scale, bias * scale


def _adds_to_image(graph: Graph, operation: str) -> bool:
    """Whether an addition puts constant noise or a bias onto activations (and not onto a style or a wavelet band)."""
    inputs = [graph.type(i) for i in graph.inputs(operation)]
    return "Const" in inputs and "MatMul" not in inputs


def _constant_input(graph: Graph) -> str:
    broadcast = next(op for op in graph.operations("Broadcast") if _rank(graph, graph.inputs(op)[0]) == 4)
    return graph.inputs(broadcast)[0]


def _rank(graph: Graph, const: str) -> int:
    return graph.value(const).ndim
