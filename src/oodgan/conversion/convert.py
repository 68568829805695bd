"""Converts public checkpoints to artifacts (safetensors with a manifest), verified by a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodgan.conversion.encoders import VARIANTS
from oodgan.conversion.part import Part, Recognised
from oodgan.conversion.recognise import recognise
from oodgan.errors import UserError, unknown
from oodgan.files import hash_of, writing
from oodgan.foreign import reading
from oodgan.tracking.artifacts import Manifest
from oodgan.weights import trained
from oodgan.weights.checkpoint import read

KINDS = ("generator", "discriminator", "psp", "diffcam", "deghoster", "backbone", "lpips", "recogniser")


def convert(source: str | Path, out: str | Path, to: str | None = None, replace: bool = False) -> Path:
    """Convert a public checkpoint, recognised by its content.

    Args:
        source: the file: pSp / e4e / ReStyle, StyleGAN2 (rosinality, NVlabs pickle, mmgen), the paper's
            `diff_cam_weight.pt` and `deghosting.pt`, LPIPS heads, ArcFace's `model_ir_se50.pth`, or VGG16 / AlexNet /
            ResNet in torchvision's layout.
        out: artifact folder with `weights.safetensors` and `manifest.json` of the main network; a generator or
            discriminator in the same file becomes an artifact in a subfolder of that name.
        to: which network to take: one of KINDS, or an encoder variant (`psp`, `psp_w`, `psp_wplus`, `e4e`,
            `restyle_psp`, `restyle_e4e`, `restyle_psp_resnet`, `restyle_e4e_resnet`) if the checkpoint does not say.
            `to="generator"` takes only the generator.
        replace: overwrite an artifact at `out`.

    Returns:
        `out`.

    Raises:
        UserError: the file is of another kind or size, truncated or malicious, or `out` exists. Nothing is written.
    """
    source, out = Path(source), Path(out)
    if to is not None and to not in (*KINDS, *VARIANTS):
        raise unknown("kind of weights", to, (*KINDS, *VARIANTS))
    with reading(source, "checkpoint"):
        recognised = recognise(read(source), to)
    parts = _wanted(recognised, to, source)
    with writing(out, replace) as folder:
        for i, part in enumerate(parts):
            _write(part, folder if i == 0 else folder / part.kind, recognised.what, source)
        for i, part in enumerate(parts):
            _prove(part, folder if i == 0 else folder / part.kind, folder, source)
    return out


def _wanted(recognised: Recognised, to: str | None, source: Path) -> list[Part]:
    if to is None:
        return recognised.parts
    main = recognised.parts[0]
    if to in (main.kind, main.architecture.get("variant")):
        return recognised.parts
    if to in KINDS:
        single = [part for part in recognised.parts if part.kind == to]
        if single:
            return single
    raise UserError(f"{source} looks like {recognised.what}; expected {to}")


def _write(part: Part, folder: Path, what: str, source: Path) -> None:
    folder.mkdir(exist_ok=True)
    metadata: dict[str, Any] = {"part": part.kind, "architecture": part.architecture, **part.extra}
    trained.save(folder / trained.FILE, part.tensors, **metadata)
    Manifest(
        stage="weights",
        config={"source": source.name, "recognised": what, "part": part.kind, "architecture": part.architecture},
        inputs={source.name: hash_of(source)},
        generator=part.extra.get("generator"),
        directions=part.extra.get("directions"),
        resolution=part.architecture.get("resolution") or part.architecture.get("out_size"),
        counts={"tensors": len(part.tensors), "numbers": sum(t.numel() for t in part.tensors.values())},
    ).save(folder)


def _prove(part: Part, folder: Path, root: Path, source: Path) -> None:
    """Build the network from the written artifact alone, run it, and record the output in the manifest."""
    with reading(source, f"the {part.kind} of"), torch.inference_mode():
        output = PROOFS[part.kind](folder, root)
    if not torch.isfinite(output).all():
        raise UserError(f"{source}: the {part.kind} gives values that are not finite; the weights are damaged")
    manifest = Manifest.load(folder)
    manifest.metrics["forward"] = {
        "shape": list(output.shape),
        "mean": float(output.mean()),
        "deviation": float(output.std()) if output.numel() > 1 else 0.0,
    }
    manifest.save(folder)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def _generator(folder: Path, _root: Path) -> Tensor:
    from oodgan.generators.protocol import sample_codes
    from oodgan.generators.stylegan2 import StyleGAN2

    network = StyleGAN2(weights=folder)
    return network.synthesis(sample_codes(network, 1, seed=0))


def _discriminator(folder: Path, _root: Path) -> Tensor:
    network = load_discriminator(folder)
    return network(_random(1, 3, network.resolution, network.resolution))


def _psp(folder: Path, _root: Path) -> Tensor:
    from oodgan.inversion.e4e import E4E

    network = E4E(weights=folder)
    return network.encoder(_random(1, 6 if network.refines else 3, 256, 256)) + network.latent_avg


def _diffcam(folder: Path, _root: Path) -> Tensor:
    return load_diffcam(folder)(_random(1, 3, 128, 128), _random(1, 3, 128, 128).flip(3))


def _deghoster(folder: Path, root: Path) -> Tensor:
    network = load_deghoster(folder, root / "generator")
    return network(_random(1, 3, network.in_size, network.in_size))


def _backbone(folder: Path, _root: Path) -> Tensor:
    from oodgan.diffcam.backbones import build

    _, metadata = trained.load(folder, "backbone")
    layers = build(metadata["architecture"]["name"], weights=folder / trained.FILE).layers
    return torch.nn.Sequential(*layers).eval()(_random(1, 3, 64, 64))


def _lpips(folder: Path, _root: Path) -> Tensor:
    state, _ = trained.load(folder, "lpips")
    return torch.cat([state[f"lin{i}.model.1.weight"].flatten() for i in range(5)])


def _recogniser(folder: Path, _root: Path) -> Tensor:
    from oodgan.nn.arcface import load

    return load(folder)(_random(1, 3, 112, 112))


PROOFS: dict[str, Callable[[Path, Path], Tensor]] = {
    "generator": _generator,
    "discriminator": _discriminator,
    "psp": _psp,
    "diffcam": _diffcam,
    "deghoster": _deghoster,
    "backbone": _backbone,
    "lpips": _lpips,
    "recogniser": _recogniser,
}


def load_diffcam(source: str | Path) -> Any:
    """The Diff-CAM of a converted artifact, in eval mode."""
    from oodgan.diffcam import masks

    network, _, _ = masks.load_network({"network": {"_target_": "oodgan.diffcam.network.DiffCAM"}, "weights": source})
    return network


def load_discriminator(source: str | Path) -> Any:
    """The discriminator of a converted artifact, to start training from."""
    from oodgan.deghost.discriminator import Discriminator

    state, metadata = trained.load(source, "discriminator")
    network = Discriminator(**metadata["architecture"])
    network.load_state_dict(state)
    return network


def load_deghoster(source: str | Path, generator: str | Path | None = None) -> Any:
    """The deghoster of a converted artifact with its generator (the sub-folder `generator` when None), in eval mode.

    Raises:
        UserError: the generator is not the one that the deghoster was trained with.
    """
    from oodgan.deghost import remover
    from oodgan.generators import open_converted

    prior = open_converted(Path(source) / "generator" if generator is None else generator)
    settings = {"network": {"_target_": "oodgan.deghost.network.Deghoster"}, "weights": source}
    return remover.load_network(settings, prior)
