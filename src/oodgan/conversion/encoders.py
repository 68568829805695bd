"""Encoders of pSp, e4e and ReStyle, each with the generator that it was trained for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oodgan.conversion.layouts import strip
from oodgan.conversion.part import Part, Recognised
from oodgan.conversion.stylegan2 import generator_part
from oodgan.errors import UserError
from oodgan.weights.checkpoint import State

ENCODERS = {
    "GradualStyleEncoder": "psp",
    "BackboneEncoderUsingLastLayerIntoW": "psp_w",
    "BackboneEncoderUsingLastLayerIntoWPlus": "psp_wplus",
    "Encoder4Editing": "e4e",
    "BackboneEncoder": "restyle_psp",
    "ProgressiveBackboneEncoder": "restyle_e4e",
    "ResNetBackboneEncoder": "restyle_psp_resnet",
    "ResNetProgressiveBackboneEncoder": "restyle_e4e_resnet",
}
VARIANTS = tuple(ENCODERS.values())
FIRST = ("input_layer.0.weight", "conv1.weight")  # first convolution of IR-SE50 and of ResNet-34


def encoder(content: Mapping[str, Any], state: State, to: str | None) -> Recognised:
    import torch

    opts = content.get("opts") or {}
    opts = dict(opts) if isinstance(opts, Mapping) else dict(vars(opts))
    encoder = {name: t.float() if t.is_floating_point() else t for name, t in strip(state, "encoder.").items()}
    variant = _variant(encoder, opts, content, to)
    latent = content.get("latent_avg")
    decoder = generator_part(strip(state, "decoder."), latent if isinstance(latent, Tensor) else None)
    num_ws = 2 * decoder.architecture["resolution"].bit_length() - 4
    styles = len({m[1] for n in encoder if (m := re.match(r"styles\.(\d+)\.", n))})
    if variant == "psp_wplus":
        styles = encoder["linear.weight"].shape[0] // 512
    if variant != "psp_w" and styles != num_ws:
        raise UserError(f"its encoder gives {styles} codes, but its decoder takes {num_ws}")
    expected = 6 if variant.startswith("restyle") else 3
    channels = next(encoder[first] for first in FIRST if first in encoder).shape[1]
    if channels != expected:
        raise UserError(f"its {variant} encoder reads {channels} channels (not photos?); {expected} are expected")
    relative = variant.startswith("restyle") or opts.get("start_from_latent_avg", True)
    if not isinstance(latent, Tensor) or not relative:
        latent = torch.zeros(num_ws, 512)
    latent = latent.float().reshape(-1, 512)
    tensors = {f"encoder.{name}": t for name, t in encoder.items()}
    tensors["latent_avg"] = latent.expand(num_ws, -1).clone() if len(latent) == 1 else latent
    architecture = {"num_ws": num_ws, "variant": variant}
    part = Part("psp", tensors, architecture, {"generator": decoder.extra["generator"]})
    return Recognised(f"a {variant} checkpoint for {decoder.architecture['resolution']} px", [part, decoder])


def _variant(encoder: State, opts: dict[str, Any], content: Mapping[str, Any], to: str | None) -> str:
    encoder_type = opts.get("encoder_type")
    if encoder_type is not None and encoder_type not in ENCODERS:
        raise UserError(f"its encoder is a {encoder_type}; supported: {', '.join(ENCODERS)}")
    resnet = "conv1.weight" in encoder and "body.15.conv2.weight" in encoder
    if resnet != ENCODERS.get(str(encoder_type), "resnet" if resnet else "").endswith("resnet"):
        raise UserError(f"its encoder claims to be a {encoder_type}, but its tensors are of another network")
    if not resnet and "body.0.res_layer.5.fc1.weight" not in encoder:
        raise UserError("its encoder has neither the IR-SE50 backbone nor ReStyle's ResNet-34")
    if encoder_type is not None:
        return ENCODERS[encoder_type]
    if to in VARIANTS:
        return str(to)
    if resnet:
        return "restyle_psp_resnet"
    if "output_layer_2.0.weight" in encoder:
        return "psp_wplus"
    if not any(name.startswith("styles.") for name in encoder):
        return "psp_w"
    if "latlayer1.weight" not in encoder:
        return "restyle_psp"
    return "e4e" if "discriminator_state_dict" in content else "psp"
