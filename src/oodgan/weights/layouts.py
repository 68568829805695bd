"""Tensor names of public checkpoints, renamed to this project's (rosinality's layout for StyleGAN2)."""

from __future__ import annotations

from torch import Tensor

State = dict[str, Tensor]

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
    """The tensors below `prefix`, without it."""
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
    kept = {name: t for name, t in state.items() if not name.endswith(".kernel")}
    return {
        name.replace("linear.weight_orig", "weight").replace("conv.weight_orig", "weight"): t
        for name, t in kept.items()
    }


def from_published_deghoster(state: State) -> tuple[State, State]:
    """`deghosting.pt` -> (deghoster without generator, generator); the unused `fusion_skip` branch is dropped."""
    network = {name: t for name, t in strip(state, "FCN.").items() if not name.startswith("fusion_skip.")}
    return network, from_mmgen_generator(strip(state, "generator."))
