"""Writes parts as ONNX or OpenVINO files, and runs them."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oodgan.errors import UserError, unknown
from oodgan.export.parts import Part

Run = Callable[[Sequence[Tensor]], list[Tensor]]
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}


def check(format: str) -> None:
    """Raise UserError for an unknown format, or one whose packages are not installed."""
    if format not in NEEDS:
        raise unknown("format", format, NEEDS)
    for package in NEEDS[format]:
        need(package, f"format={format}")


def need(package: str, wanted_by: str) -> Any:
    """Import a package of the extra `export`. Raises UserError with the command that installs it."""
    if package == "openvino":
        # The converter reports each use to its makers, except if this package cannot be imported.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"{wanted_by} needs the package {package}: pip install 'oodgan[export]'") from None


def write(part: Part, inputs: Mapping[str, Tensor], folder: Path, format: str) -> Path:
    """Write `<folder>/<part>.onnx`, or `.xml` with its `.bin`, as float32 for a batch of one.

    Args:
        inputs: example tensors by name; the graph is recorded with them.
    """
    given, path = tuple(inputs[name] for name in part.inputs), folder / f"{part.name}{SUFFIX[format]}"
    with _quiet(), torch.no_grad():
        program = torch.export.export(part.network, given)
        if format == "onnx":
            _write_onnx(program, part, given, path)
        else:
            _write_openvino(program, part, path)
    return path


def _write_onnx(program: Any, part: Part, given: tuple[Tensor, ...], path: Path) -> None:
    made = torch.onnx.export(
        program, given, dynamo=True, verbose=False, input_names=part.inputs, output_names=part.outputs
    )
    assert made is not None
    made.save(path)


def _write_openvino(program: Any, part: Part, path: Path) -> None:
    openvino = need("openvino", "format=openvino")
    table = {torch.ops.aten._upsample_bilinear2d_aa.vec: _resize_antialiased}  # OpenVINO has no such operation
    model = openvino.convert_model(program.run_decompositions(table))
    for port, name in zip(model.inputs, part.inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, part.outputs, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)


def _resize_antialiased(x: Tensor, size: Sequence[int], *_: Any) -> Tensor:
    """Bilinear resizing with antialiasing as two matrix products: `F.interpolate(..., antialias=True)`."""
    rows, columns = (_triangles(old, new).to(x) for old, new in zip(x.shape[2:], size, strict=True))
    return rows @ x @ columns.T


def _triangles(old: int, new: int) -> Tensor:
    """Weights (new, old) of the pixels under each new pixel's triangle."""
    centres = (torch.arange(new) + 0.5) * (old / new)
    distances = (torch.arange(old) + 0.5)[None] - centres[:, None]
    weights = (1 - distances.abs() / max(old / new, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def open_run(path: Path, threads: int, cache: Path | None = None) -> Run:
    """Load a file of `write`; returns a function of its inputs in order.

    Args:
        threads: CPU threads it computes on.
        cache: folder of OpenVINO's compiled models, for a fast next start.
    """
    return _open_onnx(path, threads) if path.suffix == SUFFIX["onnx"] else _open_openvino(path, threads, cache)


def _open_onnx(path: Path, threads: int) -> Run:
    onnxruntime = need("onnxruntime", "format=onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return run


def _open_openvino(path: Path, threads: int, cache: Path | None) -> Run:
    openvino = need("openvino", "format=openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    with _own_signal_stack():
        compiled = openvino.Core().compile_model(path, "CPU", settings)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs = compiled([tensor.numpy() for tensor in inputs])
        return [torch.from_numpy(outputs[port]) for port in compiled.outputs]

    return run


@contextmanager
def _own_signal_stack() -> Iterator[None]:
    """Keep this thread's alternate signal stack.

    Compiling, OpenVINO's CPU plugin gives the calling thread one of its own, and may free it with the model: the next
    signal that Python handles there (Ctrl-C, the end of a data loader's worker) would then be a crash without a trace.
    """
    exchange = getattr(ctypes.CDLL(None), "sigaltstack", None) if os.name == "posix" else None
    before = ctypes.create_string_buffer(64)  # a stack_t, larger than on any system; its content is not used
    if exchange is not None:
        exchange(None, before)
    try:
        yield
    finally:
        if exchange is not None:
            exchange(before, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the messages of exporters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
