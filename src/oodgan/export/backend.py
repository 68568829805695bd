"""A generator's synthesis in OpenVINO, which is faster than PyTorch on a CPU."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import oodgan
from oodgan.errors import UserError, unknown
from oodgan.export import formats
from oodgan.export.parts import Part, synthesis_parts, synthesis_sample
from oodgan.files import writing
from oodgan.generators.protocol import Generator, Residuals, weights_id
from oodgan.tracking.artifacts import Manifest, hash_settings, plain, up_to_date
from oodgan.weights.fetch import cache_folder

log = logging.getLogger("oodgan")
BACKENDS = ("torch", "openvino")
NOT_USED = ("weights", "download")
"""Keys of the config group `generator` that shape no graph (the weights count by their tensors)."""


def check(backend: str, device: torch.device | str) -> None:
    """Raise UserError for an unknown backend, a missing package, or OpenVINO together with a GPU."""
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    if backend == "openvino":
        formats.need("openvino", "backend=openvino")
        if torch.device(device).type != "cpu":
            raise UserError(f"backend=openvino runs on the CPU, but the device is {device}: leave out one of the two")


def synthesis(
    generator: Generator, residual: int | None = None, cfg: Mapping[str, Any] | None = None
) -> Callable[..., Tensor]:
    """The generator's `synthesis`, computed by OpenVINO on as many threads as PyTorch uses.

    It is converted at the first use and cached, with the compiled model, in `openvino/` of the cache folder; it is
    converted again for other weights, settings or versions.

    Args:
        residual: resolution of the activations that get residuals; None: codes alone.
        cfg: the config group `generator` that the generator was built from.
    """
    inputs = synthesis_sample(generator, residual, seed=0)
    runs = [Compiled(_model(generator, part, inputs, cfg or {})) for part in synthesis_parts(generator, residual)]
    return _Synthesis(*runs)


class Compiled:
    """A compiled part with one output, called with batches; computes one image at a time, for one caller at a time."""

    def __init__(self, model: Path) -> None:
        self._run = formats.open_run(model, torch.get_num_threads(), model.parent / "compiled")
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> Tensor:
        with self._lock:
            return torch.cat([self._run(one)[0] for one in zip(*(x.split(1) for x in inputs), strict=True)])


class _Synthesis:
    """The compiled generator, with and without a residual, with the keywords of the generator protocol."""

    def __init__(self, plain: Compiled, with_residual: Compiled | None = None) -> None:
        self._plain, self._with_residual = plain, with_residual

    def __call__(self, w_plus: Tensor, residuals: Residuals | None = None) -> Tensor:
        if not residuals:
            return self._plain(w_plus)
        if self._with_residual is None or len(residuals) != 1:
            raise UserError(f"backend=openvino has no graph for residuals at {sorted(residuals)} px: use backend=torch")
        return self._with_residual(w_plus, *residuals.values())


def _model(generator: Generator, part: Part, inputs: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> Path:
    """Return the part's OpenVINO file in the cache, converting it if necessary."""
    settings = {key: value for key, value in plain(cfg).items() if key not in NOT_USED}
    weights = weights_id(part.name, part.network.state_dict())
    versions = [metadata.version(name) for name in ("torch", "openvino")]
    settings_hash = hash_settings([weights, settings, versions], {"program": _program()})
    folder = cache_folder() / "openvino" / f"{generator.id}-{part.name}"
    if not up_to_date(folder, settings_hash):
        log.info("backend=openvino: converting %s (once)", part.name)
        with writing(folder, replace=True) as temporary:
            formats.write(part, inputs, temporary, "openvino")
            Manifest("export", generator=generator.id, settings_hash=settings_hash).save(temporary)
    return folder / f"{part.name}{formats.SUFFIX['openvino']}"


@lru_cache(maxsize=1)
def _program() -> str:
    """Hash the source files of this package: other versions may have other graphs."""
    files = sorted(Path(oodgan.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
