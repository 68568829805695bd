"""Tensor names of public checkpoints, renamed to this project's (rosinality's layout for StyleGAN2)."""

from __future__ import annotations

import re

from torch import Tensor

from oodgan.errors import UserError
from oodgan.weights.checkpoint import State

MMGEN_GENERATOR = (
    ("style_mapping.", "style."),
    ("constant_input.", "input."),
    ("style_modulation.linear.weight_orig", "modulation.weight"),
    ("style_modulation.bias", "modulation.bias"),
    ("noise_injector.", "noise."),
    ("linear.weight_orig", "weight"),
    ("weight_orig", "weight"),
    ("injected_noise_", "noises.noise_"),
)


def strip(state: State, prefix: str) -> State:
    """Return the tensors below `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def from_mmgen_generator(state: State) -> State:
    """mmgen's `generator_ema` -> rosinality's `g_ema`."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in MMGEN_GENERATOR:
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def from_mmgen_discriminator(state: State) -> State:
    """mmgen's `discriminator` -> rosinality's `d`, without the constant blur kernels."""
    return {
        name.replace("linear.weight_orig", "weight").replace("conv.weight_orig", "weight"): t
        for name, t in without_kernels(state).items()
    }


def from_published_deghoster(state: State) -> tuple[State, State]:
    """`deghosting.pt` -> (deghoster without generator, generator); the unused `fusion_skip` branch is dropped."""
    network = {name: t for name, t in strip(state, "FCN.").items() if not name.startswith("fusion_skip.")}
    return network, from_mmgen_generator(strip(state, "generator."))


# NVlabs names within a layer -> ours.
NVLABS_LAYER = {
    "weight": "conv.weight",
    "bias": "activate.bias",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
}
NVLABS_TORGB = {
    "weight": "conv.weight",
    "bias": "bias",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
}


def from_nvlabs_generator(state: State) -> tuple[State, Tensor | None]:
    """`G_ema` of the ada / stylegan3 repositories -> (rosinality's `g_ema`, the mean code or None).

    Raises:
        UserError: a conditional network, or an architecture other than `skip` with noise.
    """
    if any(name.startswith("mapping.embed.") for name in state):
        raise UserError("the generator is conditional (it has a label embedding); unconditional ones are supported")
    if not any(name.startswith("synthesis.b4.torgb.") for name in state):
        raise UserError("the generator is not a StyleGAN2 of the `skip` architecture (no RGB layer at 4 px)")
    renamed: State = {}
    for name, tensor in state.items():
        if name.endswith("resample_filter") or name == "mapping.w_avg":
            continue
        mapping = re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name)
        layer = re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb)\.(.+)", name)
        if mapping:
            renamed[f"style.{int(mapping[1]) + 1}.{mapping[2]}"] = tensor
        elif name == "synthesis.b4.const":
            renamed["input.input"] = tensor[None]
        elif layer:
            _nvlabs_layer(renamed, int(layer[1]), layer[2], layer[3], tensor)
        else:
            raise UserError(f"the generator holds {name}, which is not part of StyleGAN2")
    return renamed, state.get("mapping.w_avg")


def _nvlabs_layer(renamed: State, size: int, layer: str, name: str, tensor: Tensor) -> None:
    level = size.bit_length() - 4  # 8 px is level 0
    if layer == "torgb":
        target = "to_rgb1" if size == 4 else f"to_rgbs.{level}"
        shaped = tensor.view(1, -1, 1, 1) if name == "bias" else tensor[None] if name == "weight" else tensor
        renamed[f"{target}.{NVLABS_TORGB[name]}"] = shaped
        return
    index = 0 if size == 4 else 2 * level + (1 if layer == "conv0" else 2)
    if name == "noise_const":
        renamed[f"noises.noise_{index}"] = tensor[None, None]
        return
    target = "conv1" if size == 4 else f"convs.{index - 1}"
    shaped = tensor[None] if name == "weight" else tensor.view(1) if name == "noise_strength" else tensor
    renamed[f"{target}.{NVLABS_LAYER[name]}"] = shaped


def from_nvlabs_discriminator(state: State) -> State:
    """`D` of the ada / stylegan3 repositories -> rosinality's `d`. UserError for a conditional or another network."""
    sizes = sorted({int(m[1]) for name in state if (m := re.match(r"b(\d+)\.", name))}, reverse=True)
    if any(name.startswith("mapping.") for name in state) or "b4.fc.weight" not in state or not sizes:
        raise UserError("the discriminator is conditional or not StyleGAN2's residual one")
    renamed: State = {}
    for name, tensor in state.items():
        if name.endswith("resample_filter"):
            continue
        block = re.fullmatch(r"b(\d+)\.(\w+)\.(weight|bias)", name)
        if not block:
            raise UserError(f"the discriminator holds {name}, which is not part of StyleGAN2's")
        at = f"convs.{sizes.index(int(block[1])) + 1}"
        weight = block[3] == "weight"
        # Position of the layer: (prefix, position of the weight, position of the bias).
        prefix, w, b = {
            "fromrgb": ("convs.0", 0, 1),
            "conv0": (f"{at}.conv1", 0, 1),
            "conv1": (f"{at}.conv2", 1, 2),
            "skip": (f"{at}.skip", 1, 1),
            "conv": ("final_conv", 0, 1),
            "fc": ("final_linear", 0, 0),
            "out": ("final_linear", 1, 1),
        }[block[2]]
        renamed[f"{prefix}.{w if weight else b}.{block[3]}"] = tensor
    return renamed


def without_kernels(state: State) -> State:
    """Return the tensors without the constant blur kernels."""
    return {name: t for name, t in state.items() if not name.endswith(".kernel")}
