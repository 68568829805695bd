"""Convolutional backbones of Diff-CAM as flat lists of layers, and where to cut them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from oodgan.errors import UserError, nearest
from oodgan.foreign import reading
from oodgan.weights.checkpoint import read

# name -> (cut, end): features are subtracted after `cut` flat layers, and the network stops after `end`.
RESNETS = {"resnet18": (7, 9), "resnet34": (9, 13), "resnet50": (9, 13), "resnet101": (16, 30)}
SEQUENTIALS = {"vgg16": (17, 23), "alexnet": (6, 12)}
NAMES = (*RESNETS, *SEQUENTIALS)


@dataclass
class Backbone:
    """Flat layers, the published (or sketched) cut, and whether the input has to be normalised as for ImageNet."""

    layers: list[nn.Module]
    cut: int
    imagenet_input: bool


def build(name: str, pretrained: bool = False, weights: str | Path | None = None) -> Backbone:
    """Build a backbone.

    Args:
        name: one of NAMES. A ResNet is flattened to conv, bn, relu, pool, layer1, layer2, blocks of layer3, layer4,
            cut in the middle of `layer3` (`resnet101`: after its tenth block, as published) and fed [-1, 1] images as
            published; `vgg16` stops after conv4_3 (an eighth of the image), `alexnet` after conv5.
        pretrained: ImageNet weights of the package registry (`vgg16`, `alexnet`).
        weights: a file in torchvision's layout (`.pth`, `.safetensors`) instead.

    Raises:
        UserError: unknown name, no registered weights for it, or a file that does not fit.
    """
    if name in RESNETS:
        return _resnet(name, pretrained, weights)
    if name in SEQUENTIALS:
        return _sequential(name, pretrained, weights)
    raise UserError(f"unknown backbone {name!r}{nearest(name, NAMES)}: {', '.join(NAMES)}")


def _resnet(name: str, pretrained: bool, weights: str | Path | None) -> Backbone:
    from torchvision.models import resnet

    if pretrained and weights is None:
        raise UserError(f"no registered ImageNet weights for {name}: give a torchvision file as weights=")
    network = getattr(resnet, name)(weights=None)
    if weights is not None:
        _load(network, read_state(weights), weights)
    children = dict(network.named_children())
    layers = [children[key] for key in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")]
    layers += [*children["layer3"]]
    layers.append(children["layer4"])
    return Backbone(layers, RESNETS[name][0], imagenet_input=False)


def _sequential(name: str, pretrained: bool, weights: str | Path | None) -> Backbone:
    from oodgan.nn import backbones

    features = getattr(backbones, f"{name}_layers")()
    if weights is not None:
        state = {k.removeprefix("features."): t for k, t in read_state(weights).items() if k.startswith("features.")}
        _load(features, state, weights)
    elif pretrained:
        features = getattr(backbones, f"{name}_features")()
    cut, end = SEQUENTIALS[name]
    return Backbone([*features[:end].requires_grad_(True)], cut, imagenet_input=True)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` or `.pth` file, read without executing anything; UserError if it is neither."""
    with reading(path, "backbone weights"):
        state = read(path)
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"backbone weights {path}: expected a state dict in torchvision's layout")
    return state


def _load(module: nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    own = module.state_dict()
    wrong = [n for n, t in own.items() if not n.startswith("fc.") and (n not in state or state[n].shape != t.shape)]
    if wrong:
        raise UserError(f"backbone weights {path} do not fit: {wrong[0]} is missing or has another shape")
    module.load_state_dict({name: t for name, t in state.items() if name in own and not name.startswith("fc.")}, False)
