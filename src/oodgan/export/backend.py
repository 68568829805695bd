"""Run the editor's slow networks in OpenVINO, where a CPU does them faster than in PyTorch."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import oodgan
from oodgan.errors import UserError, unknown
from oodgan.export import formats
from oodgan.export.parts import Part, Parts, deployed, encoder_of, sample
from oodgan.files import writing
from oodgan.generators.protocol import Residuals, weights_id
from oodgan.tracking.artifacts import Manifest, fingerprint, plain, up_to_date
from oodgan.weights.fetch import cache_folder

log = logging.getLogger("oodgan")
BACKENDS = ("torch", "openvino")
FASTER = ("synthesis", "synthesis_residual")
"""What gains on a CPU, of the parts that can be replaced: synthesis, encoder, deghoster."""
GROUPS = {"synthesis": "generator", "synthesis_residual": "generator", "encoder": "inverter", "deghoster": "deghoster"}
"""The config group that each of them is built from."""
NOT_USED = ("fit", "refine", "ghosts", "discriminator", "weights", "download")
"""Keys of the config groups that shape no graph (the weights count by their tensors)."""


def check(backend: str, device: torch.device | str) -> None:
    """UserError for an unknown backend, one whose package is missing, or OpenVINO beside a GPU."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if backend == "openvino":
        formats.need("openvino", "backend=openvino")
        if torch.device(device).type != "cpu":
            raise UserError(f"backend=openvino runs on the CPU, but the device is {device}: leave out one of the two")


def accelerate(editor: Parts, cfg: Mapping[str, Any] | None = None) -> None:
    """Let OpenVINO do the editor's `FASTER` parts, on as many threads as PyTorch uses.

    Parts are converted at their first use on a machine and then kept, with what OpenVINO compiled of them, in
    `openvino/` of the cache folder; other weights, settings or versions convert them anew.

    Args:
        cfg: the configuration that the editor was built from.
    """
    parts = {part.name: part for part in deployed(editor)}
    runs = {name: Compiled(_model(editor, parts[name], cfg or {})) for name in FASTER if name in parts}
    if "synthesis" in runs:
        editor.synthesis = _Synthesis(runs["synthesis"], runs.get("synthesis_residual"))
    if "encoder" in runs and (inverter := encoder_of(editor)) is not None:
        inverter.encode = runs["encoder"]  # type: ignore[method-assign, assignment]
    if "deghoster" in runs:
        editor.remover = _Remove(runs["deghoster"])


class Compiled:
    """A compiled part with one output, as a function of batches: one image after the other, one caller at a time."""

    def __init__(self, model: Path) -> None:
        self._run = formats.open_run(model, torch.get_num_threads(), model.parent / "compiled")
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> Tensor:
        with self._lock:
            return torch.cat([self._run(one)[0] for one in zip(*(x.split(1) for x in inputs), strict=True)])


class _Synthesis:
    """The compiled generator, with and without a residual, with the keywords of the generator protocol."""

    def __init__(self, plain: Compiled, with_residual: Compiled | None) -> None:
        self._plain, self._with_residual = plain, with_residual

    def __call__(self, w_plus: Tensor, residuals: Residuals | None = None) -> Tensor:
        if not residuals:
            return self._plain(w_plus)
        if self._with_residual is None or len(residuals) != 1:
            raise UserError(f"backend=openvino has no graph for residuals at {sorted(residuals)} px: use backend=torch")
        return self._with_residual(w_plus, *residuals.values())


class _Remove:
    """The compiled deghoster with the keywords of `oodgan.deghost.remover.Remover`."""

    def __init__(self, run: Compiled) -> None:
        self._run = run

    def __call__(
        self, *, coarse: Tensor, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, w_plus: Tensor
    ) -> Tensor:
        return self._run(coarse, photo, inverted, edited, mask, w_plus)


def _model(editor: Parts, part: Part, cfg: Mapping[str, Any]) -> Path:
    """The part's OpenVINO file in the cache, made when it is not there."""
    said = plain(cfg.get(GROUPS[part.name]) or {})
    settings = {key: value for key, value in said.items() if key not in NOT_USED}
    weights = weights_id(part.name, part.network.state_dict())
    versions = [metadata.version(name) for name in ("torch", "openvino")]
    mark = fingerprint([weights, settings, versions], {"program": _program()})
    folder = cache_folder() / "openvino" / f"{editor.generator.id}-{part.name}"
    if not up_to_date(folder, mark):
        log.info("backend=openvino: converting %s (once)", part.name)
        with writing(folder, replace=True) as temporary:
            formats.write(part, sample(editor, seed=0), temporary, "openvino")
            Manifest("export", generator=editor.generator.id, fingerprint=mark).save(temporary)
    return folder / f"{part.name}{formats.SUFFIX['openvino']}"


@lru_cache(maxsize=1)
def _program() -> str:
    """Hash of this package's files: another version of them may draw other graphs."""
    files = sorted(Path(oodgan.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
