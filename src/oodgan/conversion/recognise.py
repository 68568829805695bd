"""Say what a public checkpoint holds, by its content, and take it apart into this project's networks."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from oodgan.conversion import layouts
from oodgan.conversion.layouts import strip
from oodgan.errors import UserError
from oodgan.weights.checkpoint import Persistent, State

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


@dataclass
class Part:
    """One network: tensors in our layout, the keywords that build it, and what else travels with it."""

    kind: str
    tensors: State
    architecture: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recognised:
    """What the file is, in words, and its parts; the first is what it is mainly for."""

    what: str
    parts: list[Part]


def recognise(content: Any, to: str | None = None) -> Recognised:
    """Take a checkpoint's content apart. `to` names an encoder variant where the file does not say which it is.

    Raises:
        UserError: nothing known, or a known thing of an unsupported size or kind; the message says which.
    """
    if isinstance(content, Mapping) and isinstance(content.get("G_ema"), Persistent):
        return _nvlabs(content)
    if not isinstance(content, Mapping):
        raise UserError(f"it holds a {type(content).__name__}; expected a dictionary of tensors")
    if isinstance(content.get("g_ema"), Mapping):
        return _rosinality(content)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise UserError("its state_dict is not a dictionary of tensors")
    names = [str(name) for name in state]
    tensors = {str(name): t for name, t in state.items() if isinstance(t, Tensor)}
    if any(f"encoder.{first}" in tensors for first in FIRST) and any(n.startswith("decoder.") for n in names):
        return _encoder(content, tensors, to)
    if any(n.startswith("FCN.encoder.") for n in names):
        return _deghoster(tensors)
    if any(n.startswith("generator_ema.") for n in names):
        return _mmgen(tensors)
    if "style.1.weight" in tensors and "conv1.conv.weight" in tensors:
        return Recognised("a StyleGAN2 generator in rosinality's layout", [generator_part(tensors, None)])
    if "shared.0.weight" in tensors and "fc.weight" in tensors:
        return _diffcam(tensors)
    if FIRST[0] in tensors and "output_layer.3.weight" in tensors:
        return _recogniser(tensors)
    backbone = _backbone(tensors)
    if backbone:
        return backbone
    known = "StyleGAN2, pSp/e4e/ReStyle, Diff-CAM, deghoster, LPIPS, ArcFace IR-SE50, VGG, AlexNet or ResNet weights"
    raise UserError(f"it holds {_glimpse(names)}; expected {known}")


def _glimpse(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} entries ({shown}{', ...' if len(names) > 3 else ''})" if names else "nothing"


# Generators


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
    widths = {4: state["input.input"].shape[1]}
    widths |= {8 << (i // 2): state[f"convs.{i}.conv.weight"].shape[1] for i in ups}
    mlp = max((int(m[1]) for n in state if (m := re.match(r"style\.(\d+)\.weight$", n))), default=0)
    style = state.get("style.1.weight")
    if style is None or tuple(style.shape) != (512, 512):
        raise UserError("the generator's codes are not of 512 numbers")
    multiplier, limit = _widths(widths)
    return {"resolution": resolution, "channel_multiplier": multiplier, "max_channels": limit, "n_mlp": mlp}


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


def _rosinality(content: Mapping[str, Any]) -> Recognised:
    latent = content.get("latent_avg")
    parts = [generator_part(dict(content["g_ema"]), latent if isinstance(latent, Tensor) else None)]
    if isinstance(content.get("d"), Mapping):
        parts.append(discriminator_part(dict(content["d"])))
    return Recognised("a StyleGAN2 checkpoint in rosinality's layout", parts)


def _mmgen(state: State) -> Recognised:
    parts = [generator_part(layouts.from_mmgen_generator(strip(state, "generator_ema.")), None)]
    discriminator = strip(state, "discriminator.")
    if discriminator:
        parts.append(discriminator_part(layouts.from_mmgen_discriminator(discriminator)))
    return Recognised("an mmgen StyleGAN2 checkpoint", parts)


def _nvlabs(content: Mapping[str, Any]) -> Recognised:
    network = content["G_ema"]
    tensors = network.tensors()
    if any(name.startswith("synthesis.input.") for name in tensors):
        raise UserError("it holds a StyleGAN3 generator; StyleGAN2 is supported")
    parts = [generator_part(*layouts.from_nvlabs_generator(tensors))]
    if isinstance(content.get("D"), Persistent):
        # Another kind of discriminator is left out: the generator is what the file is for.
        with contextlib.suppress(UserError):
            parts.append(discriminator_part(layouts.from_nvlabs_discriminator(content["D"].tensors())))
    return Recognised("an NVlabs StyleGAN2 pickle", parts)


# Encoders


def _encoder(content: Mapping[str, Any], state: State, to: str | None) -> Recognised:
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
    said = opts.get("encoder_type")
    if said is not None and said not in ENCODERS:
        raise UserError(f"its encoder is a {said}; supported: {', '.join(ENCODERS)}")
    resnet = "conv1.weight" in encoder and "body.15.conv2.weight" in encoder
    if resnet != ENCODERS.get(str(said), "resnet" if resnet else "").endswith("resnet"):
        raise UserError(f"its encoder is said to be a {said}, but its tensors are of another network")
    if not resnet and "body.0.res_layer.5.fc1.weight" not in encoder:
        raise UserError("its encoder has neither the IR-SE50 backbone nor ReStyle's ResNet-34")
    if said is not None:
        return ENCODERS[said]
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


# The paper's own networks, and backbones


def _deghoster(state: State) -> Recognised:
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


def _diffcam(state: State) -> Recognised:
    classes = state["fc.weight"].shape[0]
    if "shared.15.conv3.weight" not in state or "classifier.13.2.conv3.weight" not in state:
        raise UserError("it holds a Diff-CAM of another backbone; expected ResNet-101 as in `diff_cam_weight.pt`")
    names = [f"class_{i}" for i in range(classes)]
    if classes == 17:
        for name, index in PAPER_CLASSES.items():
            names[index] = name
    part = Part("diffcam", state, {"backbone": "resnet101", "num_classes": classes}, {"directions": names})
    return Recognised(f"a Diff-CAM of {classes} classes", [part])


def _recogniser(state: State) -> Recognised:
    """ArcFace's IR-SE50 with its embedding layer, in TreB1eN's layout (`model_ir_se50.pth`)."""
    import torch

    from oodgan.nn.arcface import IRSE50

    with torch.device("meta"):
        wanted = {n: t.shape for n, t in IRSE50().state_dict().items() if not n.endswith("num_batches_tracked")}
    units = len({m[1] for n in state if (m := re.match(r"body\.(\d+)\.", n))})
    wrong = next((n for n, shape in wanted.items() if n not in state or state[n].shape != shape), None)
    if units != 24 or wrong:
        why = f"{wrong} is missing or of another size" if wrong else "24 are expected"
        raise UserError(f"it holds a face recogniser of {units} units, not IR-SE50 (`model_ir_se50.pth`): {why}")
    tensors = {name: t.float() for name, t in state.items() if name in wanted}
    return Recognised("a face recogniser, ArcFace's IR-SE50", [Part("recogniser", tensors, {"name": "ir_se50"})])


def _backbone(state: State) -> Recognised | None:
    first = state.get("features.0.weight", state.get("conv1.weight"))
    if "lin0.model.1.weight" in state and "lin4.model.1.weight" in state:
        net = "alex" if state["lin1.model.1.weight"].shape[1] == 192 else "vgg"
        return Recognised(f"LPIPS heads ({net})", [Part("lpips", state, {"net": net})])
    if first is None:
        return None
    name = ""
    if "features.0.weight" in state:
        name = {3: "vgg16", 11: "alexnet"}.get(first.shape[-1], "")
    elif "layer3.0.conv1.weight" in state:
        blocks = sum(bool(re.match(r"layer3\.\d+\.conv1\.weight$", n)) for n in state)
        deep = "layer1.0.conv3.weight" in state
        name = {(2, False): "resnet18", (6, False): "resnet34", (6, True): "resnet50", (23, True): "resnet101"}.get(
            (blocks, deep), ""
        )
    return (
        Recognised(f"{name} weights in torchvision's layout", [Part("backbone", state, {"name": name})])
        if name
        else None
    )
