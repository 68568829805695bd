"""StyleGAN2 generators and discriminators in the layouts that people publish."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oodgan.conversion import layouts
from oodgan.conversion.layouts import strip
from oodgan.conversion.part import Part, Recognised
from oodgan.errors import UserError
from oodgan.weights.checkpoint import Persistent, State

LARGEST = 4096
"""Pixels of the largest generator that is converted."""


def generator_part(state: State, latent_avg: Tensor | None) -> Part:
    """Check and rebuild a generator in rosinality's layout; its tensors include `mean_w`."""
    from oodgan.generators.stylegan2 import StyleGAN2

    architecture = _stylegan2_architecture(state)
    network = StyleGAN2(**architecture)  # type: ignore[arg-type]
    network.load_public({name: t.float() for name, t in state.items()}, latent_avg)
    tensors = {name: t.detach() for name, t in network.state_dict().items()}
    return Part("generator", tensors, architecture, {"generator": network.id})


def _stylegan2_architecture(state: State) -> dict[str, int]:
    ups = sorted({int(m[1]) for n in state if (m := re.match(r"convs\.(\d+)\.conv\.weight$", n))})
    if "input.input" not in state or not ups or ups != list(range(len(ups))) or len(ups) % 2:
        raise UserError("the generator is not a whole StyleGAN2: its convolutions or constant input are incomplete")
    resolution = 4 << (len(ups) // 2)
    channels = state["to_rgb1.conv.weight"].shape[1]
    if channels != 3:
        raise UserError(f"the generator draws images of {channels} channel(s); RGB (3) is supported")
    if resolution > LARGEST:
        raise UserError(f"the generator has layers up to {resolution} px; at most {LARGEST} are supported")
    widths = {4: state["input.input"].shape[1]}
    widths |= {8 << (i // 2): state[f"convs.{i}.conv.weight"].shape[1] for i in ups}
    mapping = {int(m[1]) for n in state if (m := re.match(r"style\.(\d+)\.weight$", n))}
    if mapping != set(range(1, len(mapping) + 1)):
        raise UserError("the generator's mapping network is incomplete")
    style = state.get("style.1.weight")
    if style is None or tuple(style.shape) != (512, 512):
        raise UserError("the generator's codes are not of 512 numbers")
    multiplier, limit = _widths(widths)
    return {"resolution": resolution, "channel_multiplier": multiplier, "max_channels": limit, "n_mlp": len(mapping)}


def _widths(widths: dict[int, int]) -> tuple[int, int]:
    """(channel_multiplier, max_channels) that give {size: channels}; UserError when none do."""
    limit = max(widths.values())
    for multiplier in (1, 2, 4, 8):
        if all(w == min(limit, 16384 * multiplier // size) for size, w in widths.items()):
            return multiplier, limit
    raise UserError(f"StyleGAN2 of unusual widths: {', '.join(f'{w} at {s} px' for s, w in sorted(widths.items()))}")


def discriminator_part(state: State) -> Part:
    """Check a discriminator in rosinality's layout."""
    state = {name: t.float() for name, t in layouts.without_kernels(state).items()}
    blocks = sorted({int(m[1]) for n in state if (m := re.match(r"convs\.(\d+)\.conv1\.", n))})
    if not blocks or blocks != list(range(1, len(blocks) + 1)) or "convs.0.0.weight" not in state:
        raise UserError("the discriminator is not a whole StyleGAN2 one")
    resolution = 4 << len(blocks)
    widths = {resolution: state["convs.0.0.weight"].shape[0]}
    widths |= {resolution >> i: state[f"convs.{i}.conv2.1.weight"].shape[0] for i in blocks}
    multiplier, limit = _widths(widths)
    return Part(
        "discriminator", state, {"resolution": resolution, "channel_multiplier": multiplier, "max_channels": limit}
    )


def rosinality(content: Mapping[str, Any]) -> Recognised:
    latent = content.get("latent_avg")
    parts = [generator_part(dict(content["g_ema"]), latent if isinstance(latent, Tensor) else None)]
    if isinstance(content.get("d"), Mapping):
        parts.append(discriminator_part(dict(content["d"])))
    return Recognised("a StyleGAN2 checkpoint in rosinality's layout", parts)


def mmgen(state: State) -> Recognised:
    parts = [generator_part(layouts.from_mmgen_generator(strip(state, "generator_ema.")), None)]
    discriminator = strip(state, "discriminator.")
    if discriminator:
        parts.append(discriminator_part(layouts.from_mmgen_discriminator(discriminator)))
    return Recognised("an mmgen StyleGAN2 checkpoint", parts)


def nvlabs(content: Mapping[str, Any]) -> Recognised:
    network = content["G_ema"]
    tensors = network.tensors()
    if any(name.startswith("synthesis.input.") for name in tensors):
        raise UserError("it holds a StyleGAN3 generator; StyleGAN2 is supported")
    parts = [generator_part(*layouts.from_nvlabs_generator(tensors))]
    if isinstance(content.get("D"), Persistent):
        # Ignore other kinds of discriminators: the file is mainly for the generator.
        with contextlib.suppress(UserError):
            parts.append(discriminator_part(layouts.from_nvlabs_discriminator(content["D"].tensors())))
    return Recognised("an NVlabs StyleGAN2 pickle", parts)
