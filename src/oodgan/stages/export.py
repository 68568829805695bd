"""Write the deployed networks as ONNX or OpenVINO files, checked against PyTorch

Writes encoder, generator (mapping; synthesis at full size and as previews), Diff-CAM and deghoster, and a table of
their speed beside PyTorch's.

    oodgan export                                        ONNX: runs/default/export/artifact/*.onnx
    oodgan export format=openvino run=deploy
    oodgan export format=[onnx,openvino] threads=2       both, in one table

The files take one image at a time, in float32. Editing with OpenVINO needs no export: use
`oodgan edit ... backend=openvino`.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from oodgan.errors import UserError
from oodgan.export import check, formats
from oodgan.export.parts import Part, deployed, sample
from oodgan.files import write_json, write_text
from oodgan.paths import StageFolder
from oodgan.stages import _common as common
from oodgan.weights import trained

READS = (
    "generator",
    "inverter",
    "transfer",
    "directions",
    "diffcam",
    "compose",
    "deghoster",
    "logger",
    "search",
    "identity",
)
GROUPS = ("generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster")
KEYS = ("sizes", "tolerance", "threads", "repeats")
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")
TABLE, NUMBERS = "table.md", "speed.json"


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Export, unless this was done already, and print the table.

    Raises:
        UserError: an unknown format, a package that is missing, or a part that differs from PyTorch too much.
    """
    from oodgan.editing import Editor

    wanted = _checked(cfg)
    editor = Editor.from_config({**{str(key): value for key, value in cfg.items()}, "accelerator": "cpu"})
    weights = {part: trained.weights_hash(str(cfg[part].weights)) for part in GROUPS[1:] if cfg[part].get("weights")}
    chosen = {key: str(cfg[key]) for key in KEYS}
    generator, bank = editor.generator, editor.bank
    settings_hash = common.artifact_hash(
        cfg, GROUPS, generator=generator.id, bank=bank.id, formats=str(wanted), **weights, **chosen
    )
    folder = StageFolder.of(cfg).artifact
    if common.finished(cfg, settings_hash):
        print((folder / TABLE).read_text(encoding="utf-8"))
        return None
    if cfg.threads:
        torch.set_num_threads(int(cfg.threads))
    tensors, others = sample(editor, cfg.seed), sample(editor, cfg.seed + 1)
    rows: list[check.Row] = []

    def fill(target: Path) -> None:
        for part in deployed(editor, list(cfg.sizes)):
            print(f"export {part.name}", file=sys.stderr, flush=True)
            rows.append(_one(cfg, part, tensors, others, wanted, target))
        write_text(target / TABLE, check.markdown(rows, wanted, _caption(cfg)))
        write_json(target / NUMBERS, {"threads": torch.get_num_threads(), "parts": rows})

    common.write_artifact(
        cfg,
        settings_hash,
        fill,
        generator=generator.id,
        directions=list(bank.names),
        resolution=generator.resolution,
        inputs={"bank": bank.id, **weights},
        metrics={"parts": rows},
        extra={"formats": wanted, "versions": _versions()},
    )
    print((folder / TABLE).read_text(encoding="utf-8"))
    return {"parts": rows}


def _checked(cfg: DictConfig) -> list[str]:
    """Check the keys; return the formats."""
    wanted = [cfg.format] if isinstance(cfg.format, str) else list(cfg.format or [])
    if not wanted:
        raise UserError("format is empty: onnx, openvino, or both as [onnx, openvino]")
    for format in wanted:
        formats.check(str(format))
    sizes = cfg.sizes if OmegaConf.is_list(cfg.sizes) else [cfg.sizes]
    for key, values in (("sizes", sizes), ("threads", [cfg.threads or 1]), ("repeats", [cfg.repeats])):
        if any(isinstance(value, bool) or not isinstance(value, int) or value < 1 for value in values):
            raise UserError(f"{key}={cfg[key]}: whole numbers from 1 expected")
    if not isinstance(cfg.tolerance, int | float) or not cfg.tolerance > 0:
        raise UserError(f"tolerance={cfg.tolerance}: a number above 0 expected")
    return list(dict.fromkeys(wanted))


def _one(
    cfg: DictConfig, part: Part, tensors: dict[str, Any], others: dict[str, Any], wanted: list[str], target: Path
) -> check.Row:
    """Write and measure one part in all formats; the graph is recorded on `tensors` and checked on `others`."""
    shapes = [f"{name} {_shape(others[name])}" for name in part.inputs]
    given = zip(part.outputs, check.eager(part, others), strict=True)
    row: check.Row = {
        "part": part.name,
        "takes": ", ".join(shapes),
        "gives": ", ".join(f"{name} {_shape(tensor)}" for name, tensor in given),
        "eager": check.fastest(lambda: check.eager(part, others), cfg.repeats),
    }
    for format in wanted:
        path = formats.write(part, tensors, target, format)
        measured = check.measure(part, formats.open_run(path, torch.get_num_threads()), others, cfg.repeats)
        if not measured["error"] <= cfg.tolerance:
            raise UserError(
                f"{part.name} as {format} differs from PyTorch by {measured['error']:.1e}, tolerance={cfg.tolerance}: "
                "nothing was written"
            )
        row[format] = {**measured, "megabytes": check.size_of(path)}
    return row


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _caption(cfg: DictConfig) -> str:
    repeats = f"the quickest of {cfg.repeats} calls"
    return f"Seconds of one image on {torch.get_num_threads()} CPU threads, {repeats}. ONNX files run in onnxruntime."


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
