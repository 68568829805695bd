"""The authors' operations, so that both sides run in the same minutes on the same machine: networks as published.

They are spelled plainly, on our networks' weights: one modulated weight a sample in a grouped convolution, zero
insertion and a two-dimensional filter (`upfirdn2d` without a compiled kernel), dense blocks by concatenation, a
backward pass for each class map, everything computed anew for each edit, and the deghoster's prior with its images.
`Authors` takes an `oodgan.Editor` apart; `benchmark.py` measures by how much the results differ.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def upfirdn(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int]) -> Tensor:
    """Insert zeros, pad, and filter every channel by the (4, 4) kernel."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).view(batch * channels, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, (*padding, *padding)), torch.flip(kernel, (0, 1))[None, None])
    return x.view(batch, channels, *x.shape[2:])


def modulated(conv: Any, x: Tensor, w: Tensor) -> Tensor:
    """`ModulatedConv` by one weight a sample and a grouped convolution."""
    batch, n_in, height, width = x.shape
    n_out, size = conv.weight.shape[1], conv.weight.shape[-1]
    weight = conv.scale * conv.weight * conv.modulation(w).view(batch, 1, n_in, 1, 1)
    if conv.demodulate:
        weight = weight * torch.rsqrt(weight.pow(2).sum((2, 3, 4)) + 1e-8).view(batch, n_out, 1, 1, 1)
    x = x.reshape(1, batch * n_in, height, width)
    if not conv.up:
        out = F.conv2d(x, weight.view(batch * n_out, n_in, size, size), padding=size // 2, groups=batch)
        return out.view(batch, n_out, *out.shape[2:])
    weight = weight.transpose(1, 2).reshape(batch * n_in, n_out, size, size)
    out = F.conv_transpose2d(x, weight, stride=2, groups=batch)
    return upfirdn(out.view(batch, n_out, *out.shape[2:]), conv.kernel, 1, (1, 1))


def styled(layer: Any, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """One layer of the synthesis."""
    x = modulated(layer.conv, x, w) + layer.noise.weight * noise
    return F.leaky_relu(x + layer.activate.bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)


def to_rgb(layer: Any, x: Tensor, w: Tensor, skip: Tensor | None) -> Tensor:
    """The level's image, added to that of the level before."""
    out = modulated(layer.conv, x, w) + layer.bias
    return out if skip is None else out + upfirdn(skip, layer.kernel, 2, (2, 1))


def synthesis(generator: Any, codes: Tensor, fuse: Any = None) -> tuple[Tensor, dict[int, Tensor]]:
    """Image and hidden activations of every size."""
    noises = [generator.noises.get_buffer(f"noise_{i}") for i in range(generator.num_ws - 1)]
    x = styled(generator.conv1, generator.input.input.repeat(len(codes), 1, 1, 1), codes[:, 0], noises[0])
    x = fuse(4, x) if fuse else x
    rgb, activations = to_rgb(generator.to_rgb1, x, codes[:, 1], None), {4: x}
    for i, size in enumerate(generator.resolutions[1:]):
        for j in (2 * i, 2 * i + 1):
            x = styled(generator.convs[j], x, codes[:, j + 1], noises[j + 1])
        x = fuse(size, x) if fuse else x
        rgb, activations[size] = to_rgb(generator.to_rgbs[i], x, codes[:, 2 * i + 3], rgb), x
    return rgb, activations


def dense(block: Any, x: Tensor) -> Tensor:
    """A dense block, everything so far concatenated before each convolution."""
    seen = [x]
    for i in range(1, 5):
        seen.append(F.leaky_relu(getattr(block, f"conv{i}")(torch.cat(seen, 1)), 0.2))
    return block.conv5(torch.cat(seen, 1)) * 0.2 + x


def deghost(network: Any, coarse: Tensor) -> Tensor:
    """`Deghoster`."""
    first, pyramid = network.encoder[0], {}
    x = start = first.conv_first(coarse)
    for block in first.body:
        x = dense(block.rdb3, dense(block.rdb2, dense(block.rdb1, x))) * 0.2 + x
    x = F.leaky_relu(first.conv_up(start + first.conv_body(x)), 0.2)
    pyramid[network.in_size] = x
    for size, level in zip(network.pyramid[-2::-1], network.encoder[1:-1], strict=True):
        x = pyramid[size] = level(x)
    codes = network.encoder[-1](x).view(len(coarse), network.num_ws, network.style_dim)

    def fuse(size: int, x: Tensor) -> Tensor:
        if size not in pyramid:
            return x
        return network.fusion_out[network.pyramid.index(size)](torch.cat([x, pyramid[size]], 1))

    _, features = synthesis(network.generator, codes, fuse)
    x = pyramid[network.in_size]
    for size, block in zip(network.tail, network.decoder, strict=True):
        x = torch.cat([x, features[size]], 1) if size in network.prior_sizes else x
        x = F.pixel_shuffle(block.upsample_conv(x), 2) if size < network.out_size else block(x)
    return x


def class_map(network: Any, inverted: Tensor, edited: Tensor, index: int) -> Tensor:
    """Grad-CAM of one class by a backward pass, (1, 1, h, w)."""
    with torch.enable_grad():
        x = network.target_features(inverted, edited)[0].detach().requires_grad_()
        network.classify([x])[0, index].backward()
        return (x.grad.mean((2, 3), keepdim=True) * x.detach()).sum(1, keepdim=True).clamp(min=0)


class Authors:
    """An editor's weights under the authors' operations: photo and direction -> parts of one edit, in their order."""

    def __init__(self, editor: Any) -> None:
        self.editor = editor

    def edit(self, photo: Tensor, name: str, timed: Any) -> Tensor:
        """One edit from the photo on; `timed(part, make)` runs and times its parts."""
        editor, size = self.editor, photo.shape[2:]
        code = timed("encode", lambda: editor.inverter.invert(photo))
        inverted = timed("decode inverted", lambda: synthesis(editor.generator, code)[0].clamp(-1, 1))
        moved = editor.bank.apply(code, {name: 1.0})
        edited = timed("decode edited", lambda: synthesis(editor.generator, moved)[0].clamp(-1, 1))
        mask = timed("mask", lambda: self._mask(inverted, edited, name, size))
        coarse = timed("compose", lambda: edited * mask + photo * (1 - mask))
        small = F.interpolate(coarse, (editor.remover.network.in_size,) * 2, mode="area")
        return timed("deghost", lambda: deghost(editor.remover.network, small).clamp(-1, 1))

    def _mask(self, inverted: Tensor, edited: Tensor, name: str, size: Any) -> Tensor:
        from oodgan.diffcam.network import normalise_maps

        masker = self.editor.masker
        seen = (min(masker.size, size[0]),) * 2
        small, small_edited = (F.interpolate(x, seen, mode="area") for x in (inverted, edited))
        index = masker.classes[name]
        return normalise_maps(class_map(masker.network, small, small_edited, index), tuple(size))
