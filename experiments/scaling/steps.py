"""What a training step of each stage costs with the published networks, counted on shapes: no weights, no GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import oodgan  # noqa: F401  (before Lightning)
from oodgan.deghost.discriminator import Discriminator
from oodgan.deghost.losses import GeneratorLoss
from oodgan.deghost.module import DeghostModule
from oodgan.deghost.network import Deghoster
from oodgan.diffcam.backbones import build as build_backbone
from oodgan.diffcam.module import DiffCAMModule
from oodgan.diffcam.network import DiffCAM
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion.psp import PSP
from oodgan.nn.ema import Ema


def cost(network: Any, *inputs: Tensor, backward: bool = True) -> dict[str, float]:
    """GFLOP (two for each multiply-add) for each image of a forward pass and, if asked, of the backward pass to weights
    and inputs, and the MB of fp32 activations that the backward pass keeps."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter):
            kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(backward), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = network(*[x.requires_grad_(backward) for x in inputs])
        if backward:
            output.sum().backward()
    count = len(inputs[0])
    return {
        "gflop": round(counter.get_total_flops() / 1e9 / count, 1),
        "kept_mb": round(sum(kept.values()) / 1e6 / count),
    }


def images(size: int, count: int = 1) -> Tensor:
    return torch.zeros(count, 3, size, size)


def sizes(state: dict[str, Tensor], optimised: int) -> dict[str, float]:
    """Millions of values saved, and the checkpoint in MB: the state in fp32 and Adam's two moments."""
    values = sum(t.numel() for t in state.values())
    return {
        "saved_millions": round(values / 1e6, 1),
        "optimised_millions": round(optimised / 1e6, 1),
        "megabytes": round(4 * (values + 2 * optimised) / 1e6),
    }


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def measure() -> dict[str, Any]:
    generator = StyleGAN2(1024)
    frozen = StyleGAN2(1024).requires_grad_(False)
    codes = torch.zeros(1, frozen.num_ws, 512)
    encoder = PSP(num_ws=18)
    diffcam = DiffCAM("resnet101", 17)
    deghoster = Deghoster(generator)
    discriminator = Discriminator(1024)
    vgg = nn.Sequential(*build_backbone("vgg16", False, None).layers[:22]).requires_grad_(False)
    parts = {
        "pSp encoder, 256 px, forward and backward": cost(encoder, images(256)),
        "StyleGAN2 at 1024 px, forward": cost(frozen.synthesis, codes, backward=False),
        "StyleGAN2 at 256 px, forward and backward to the codes": cost(
            lambda c: frozen.synthesis(c, size=256), codes.clone()
        ),
        "Diff-CAM, a pair of 256 px, forward and backward": cost(diffcam, images(256), images(256)),
        "deghoster 128 -> 1024 px, forward and backward": cost(deghoster, images(128)),
        "VGG16 features.21 at 1024 px, forward": cost(vgg, images(1024), backward=False),
        "VGG16 features.21 at 1024 px, forward and backward to the image": cost(vgg, images(1024)),
        "discriminator at 1024 px, forward and backward": cost(discriminator, images(1024, 4)),
    }
    module = DeghostModule(deghoster, discriminator, {"gan": GeneratorLoss()})
    states = {
        "diffcam": sizes(dict(DiffCAMModule(diffcam).network.trained_state()), count(diffcam)),
        "inversion": sizes(nn.ModuleDict({"net": encoder, "ema": Ema(encoder, 0.99)}).state_dict(), count(encoder)),
        "deghost": sizes(module.state_dict(), count(module.network) + count(discriminator)),
        "generator (never saved)": sizes(frozen.state_dict(), 0),
    }
    return {"image": parts, "checkpoints": states}


def main() -> None:
    with torch.device("meta"):
        measurements = measure()
    text = json.dumps(measurements, indent=1)
    print(text)
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
