"""The steps of an edit as networks with tensors as inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oodgan.generators.protocol import Generator, sample_codes
from oodgan.inversion.value import Inversion
from oodgan.nn.resize import resize_area


class Parts(Protocol):
    """The attributes of `oodgan.Editor` used here; this package cannot import it."""

    generator: Any
    inverter: Any
    bank: Any
    masker: Any
    remover: Any
    synthesis: Any

    @property
    def names(self) -> Sequence[str]: ...

    def change(self, inversion: Inversion, edits: Mapping[str, float]) -> Inversion: ...

    def decode(self, inversion: Inversion) -> Tensor: ...

    def mask(self, photo: Tensor, inverted: Tensor, edited: Tensor, edits: Mapping[str, float]) -> Tensor: ...

    def compose(self, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Part:
    """One exported network; `inputs` are names of tensors of `sample`, in the order of its arguments."""

    name: str
    network: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_RESIDUAL = ("w_plus", "residual")


class Step(nn.Module):
    """A function of tensors as a module; `owners` are the modules whose weights it uses."""

    def __init__(self, run: Callable[..., Any], *owners: nn.Module) -> None:
        super().__init__()
        self.run, self.owners = run, nn.ModuleList(owners)

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(*inputs)


def deployed(editor: Parts, sizes: Sequence[int] = ()) -> list[Part]:
    """The parts of an editor: mapping, synthesis at full size and at `sizes` px, and where the editor has one, the
    encoder, Diff-CAM's network and the deghoster.

    - `mapping`: z (1, 512) -> w (1, 512).
    - `synthesis`, `synthesis_<size>`: w_plus (1, L, 512) -> image (1, 3, R, R).
    - `synthesis_residual`: w_plus and the residual of a feature-space inversion (1, C, r, r) -> image (1, 3, R, R).
    - `encoder`: photo (1, 3, R, R) -> w_plus (1, L, 512), before any refinement.
    - `diffcam`: the inverted and the edited image at Diff-CAM's size -> logits (1, K), maps (1, K, h, w).
    - `deghoster`: what the editor's step 5 takes -> result (1, 3, R, R), the photo's pixels outside of the mask.
    """
    generator, inverter = editor.generator, editor.inverter
    parts = [
        Part("mapping", Step(generator.mapping, generator), ("z",), ("w",)),
        *synthesis_parts(generator, inverter.residual, sizes),
    ]
    if (coder := inverter.coder) is not None:
        borrowed = coder.encoder.borrowed(str(generator.mean_w.device))
        parts.append(Part("encoder", Step(coder.encode, coder, *borrowed), ("photo",), ("w_plus",)))
    network = editor.masker.network
    parts.append(Part("diffcam", Step(network.maps, network), ("small_inverted", "small_edited"), ("logits", "maps")))
    if editor.remover is not None:
        inputs = ("coarse", "photo", "inverted", "edited", "mask", "edited_w_plus")
        parts.append(Part("deghoster", Step(_remove(editor), editor.remover), inputs, ("result",)))
    return parts


def synthesis_parts(generator: Any, residual: int | None = None, sizes: Sequence[int] = ()) -> list[Part]:
    """The parts that decode codes: the whole image, previews, and the image with a residual of that resolution."""
    parts = [Part("synthesis", Step(generator.synthesis, generator), ("w_plus",), ("image",))]
    for size in sorted({size for size in sizes if size < generator.resolution}, reverse=True):
        smaller = Step(partial(generator.synthesis, size=size), generator)
        parts.append(Part(f"synthesis_{size}", smaller, ("w_plus",), ("image",)))
    if residual is not None:
        parts.append(Part("synthesis_residual", Step(_with_residual(generator), generator), _RESIDUAL, ("image",)))
    return parts


def _with_residual(generator: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def run(w_plus: Tensor, residual: Tensor) -> Tensor:
        return generator.synthesis(w_plus, residuals={residual.shape[-1]: residual})

    return run


def _remove(editor: Parts) -> Callable[..., Tensor]:
    def run(coarse: Tensor, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, w_plus: Tensor) -> Tensor:
        assert editor.remover is not None
        return editor.remover(coarse=coarse, photo=photo, inverted=inverted, edited=edited, mask=mask, w_plus=w_plus)

    return run


@torch.no_grad()
def sample(editor: Parts, seed: int) -> dict[str, Tensor]:
    """Every input of the parts, from an edit of a generated face that is inverted to another one (as in ghosts)."""
    generator, masker = editor.generator, editor.masker
    decoded = synthesis_sample(generator, editor.inverter.residual, seed)
    photo, w_plus = generator.synthesis(sample_codes(generator, 1, seed)).clamp(-1, 1), decoded["w_plus"]
    edits = {next(name for name in editor.names if name in masker.names): 1.0}
    inversion = Inversion(w_plus)
    inverted, edited = editor.decode(inversion), editor.decode(editor.change(inversion, edits))
    mask = editor.mask(photo, inverted, edited, edits)
    size = min(masker.size, generator.resolution)
    return {
        **decoded,
        "z": torch.randn(1, generator.style_dim, generator=torch.Generator().manual_seed(seed)),
        "photo": photo,
        "inverted": inverted,
        "edited": edited,
        "mask": mask,
        "coarse": editor.compose(photo, inverted, edited, mask),
        "edited_w_plus": editor.bank.apply(w_plus, edits),
        "small_inverted": resize_area(inverted, size),
        "small_edited": resize_area(edited, size),
    }


@torch.no_grad()
def synthesis_sample(generator: Generator, residual: int | None, seed: int) -> dict[str, Tensor]:
    """Inputs of `synthesis_parts`: a code, and a residual of the resolution `residual`, if there is one."""
    w_plus = sample_codes(generator, 2, seed)[1:]
    if residual is None:
        return {"w_plus": w_plus}
    return {"w_plus": w_plus, "residual": 0.1 * generator.features(w_plus, last=residual)[residual]}
