"""The paper's own checkpoints: Diff-CAM and the deghoster."""

from __future__ import annotations

import re

from oodgan.conversion import layouts
from oodgan.conversion.part import Part, Recognised
from oodgan.conversion.stylegan2 import generator_part
from oodgan.errors import UserError
from oodgan.weights.checkpoint import State

# The published table; the other ten of the 17 classes were never named.
PAPER_CLASSES = {
    "Bushy_Eyebrows": 6,
    "Eyeglasses": 7,
    "Mouth_Open": 10,
    "Narrow_Eyes": 11,
    "Beard": 12,
    "Smiling": 15,
    "Old": 16,
}


def deghoster(state: State) -> Recognised:
    if not any(name.startswith("generator.") for name in state):
        raise UserError("it holds a deghoster without its generator; expected the published `deghosting.pt`")
    network, prior = layouts.from_published_deghoster(state)
    generator = generator_part(prior, None)
    encoders = 1 + max(int(m[1]) for n in network if (m := re.match(r"encoder\.(\d+)\.", n)))
    decoders = 1 + max(int(m[1]) for n in network if (m := re.match(r"decoder\.(\d+)\.", n)))
    in_size = 4 << max(encoders - 2, 0)
    try:
        architecture = {
            "in_size": in_size,
            "out_size": in_size << (decoders - 1),
            "width": network["encoder.0.conv_first.weight"].shape[0],
            "growth": network["encoder.0.body.0.rdb1.conv1.weight"].shape[0],
            "blocks": 1 + max(int(m[1]) for n in network if (m := re.match(r"encoder\.0\.body\.(\d+)\.", n))),
            "max_channels": max(network[f"encoder.{i}.0.weight"].shape[0] for i in range(1, encoders)),
            "head": network[f"decoder.{decoders - 1}.0.weight"].shape[0],
        }
    except (KeyError, ValueError) as error:
        raise UserError("the deghoster is incomplete: not the published `deghosting.pt`") from error
    part = Part("deghoster", network, architecture, {"generator": generator.extra["generator"]})
    return Recognised(f"a deghoster {in_size} -> {architecture['out_size']}", [part, generator])


def diffcam(state: State) -> Recognised:
    classes = state["fc.weight"].shape[0]
    if "shared.15.conv3.weight" not in state or "classifier.13.2.conv3.weight" not in state:
        raise UserError("it holds a Diff-CAM of another backbone; expected ResNet-101 as in `diff_cam_weight.pt`")
    names = [f"class_{i}" for i in range(classes)]
    if classes == 17:
        for name, index in PAPER_CLASSES.items():
            names[index] = name
    part = Part("diffcam", state, {"backbone": "resnet101", "num_classes": classes}, {"directions": names})
    return Recognised(f"a Diff-CAM of {classes} classes", [part])
