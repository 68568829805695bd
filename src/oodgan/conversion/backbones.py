"""Image networks: ArcFace's recogniser, ImageNet backbones, LPIPS heads."""

from __future__ import annotations

import re

from oodgan.conversion.part import Part, Recognised
from oodgan.errors import UserError
from oodgan.weights.checkpoint import State


def recogniser(state: State) -> Recognised:
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


def backbone(state: State) -> Recognised | None:
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
