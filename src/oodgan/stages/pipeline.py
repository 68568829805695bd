"""Run all training stages that are not up to date, then edit the photos and write a report

`experiment=demo` uses the embedded generator, `experiment=tiny` a random 32 px one and takes about a minute. The stages
in `pipeline.stages` write to `<root>/<run>/<stage>`. With `pipeline.use=shipped`, the photos are edited with the
shipped weights, and the report still shows the training curves.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from oodgan.errors import UserError, unknown
from oodgan.paths import RunFolder, StageFolder
from oodgan.stages import _common as common
from oodgan.tracking.artifacts import plain
from oodgan.weights import trained

READS = (
    "generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "parser",
    "data", "trainer", "callbacks", "logger", "search", "identity",
)  # fmt: skip
ASTRONAUT = "astronaut"
log = logging.getLogger("oodgan")


def run(cfg: DictConfig) -> dict[str, Any] | None:
    for name in cfg.pipeline.stages:
        if name not in common.CHAIN:
            raise unknown("stage for the pipeline", name, common.CHAIN)
    _check_ends(cfg)
    objective = None
    here = cfg.copy()
    for name in [stage for stage in common.CHAIN if stage in cfg.pipeline.stages]:
        begun = time.monotonic()
        log.info("stage %s", name)
        result = _run_stage(here, name)
        objective = (result or {}).get("objective", objective)
        log.info("stage %s: %.0f s", name, time.monotonic() - begun)
    _edit_and_report(cfg if cfg.pipeline.use == "shipped" else common.take_own(here))
    return None if objective is None else {"objective": objective}


def _check_ends(cfg: DictConfig) -> None:
    """Raise UserError for invalid photos and edits of the report before anything is trained."""
    from oodgan.data.images import read_size
    from oodgan.directions.bank import Bank

    for name in cfg.pipeline.photos:
        if name != ASTRONAUT:
            read_size(Path(name))
    path = cfg.directions.get("path")
    if path is not None and "directions" not in cfg.pipeline.stages:
        known = Bank.load(path).names
        for name in (name for wanted in cfg.pipeline.edits or [] for name in wanted):
            if name not in known:
                raise unknown("direction", name, known)


def _run_stage(cfg: DictConfig, name: str) -> dict[str, Any] | None:
    """Run one stage with this configuration, then let later stages use its artifact."""
    own = cfg.copy()
    with open_dict(own):
        own.stage = name
        own.folder = str(RunFolder.of(cfg).stage(name).path)
    result = importlib.import_module(f"oodgan.stages.{name}").run(common.take_own(own))
    with open_dict(cfg):
        common.hand_over(cfg, name, StageFolder.of(own).artifact)
    return result


def _edit_and_report(cfg: DictConfig) -> None:
    from oodgan.editing import Editor
    from oodgan.editing.report import report
    from oodgan.parsing.parser import chosen

    run = RunFolder.of(cfg)
    parts = (*_PARTS, *(["parser"] if chosen(cfg.get("parser")) else []))
    settings_hash = common.artifact_hash(
        cfg, ("generator", *parts), pipeline=str(OmegaConf.to_container(cfg.pipeline)), **_used(cfg)
    )
    if run.report_hash.is_file() and run.report_hash.read_text() == settings_hash:
        _tell(run)
        return
    editor = Editor.from_config(cfg)
    photos = [_photo(name) for name in cfg.pipeline.photos] or _samples(editor, cfg.pipeline.samples, cfg.seed)
    rows, edits = [], []
    for photo in photos:
        for wanted in cfg.pipeline.edits or _first_names(editor.names):
            begun = time.monotonic()
            edit = editor.edit(photo, dict(wanted), aligned=not cfg.pipeline.photos)
            edit.pasted  # noqa: B018 (computes everything)
            edits.append(edit)
            rows.append(_row(cfg, edit, time.monotonic() - begun))
            log.info("edited: %s", rows[-1])
    report(run.path, edits, _curves(run, cfg.pipeline.stages), rows, title=f"oodgan: {cfg.run}")
    run.report_hash.write_text(settings_hash)
    _tell(run)


_PARTS = ("inverter", "transfer", "directions", "diffcam", "compose", "deghoster")


def _used(cfg: DictConfig) -> dict[str, str]:
    from oodgan.files import hash_of

    parts = ("inverter", "transfer", "diffcam", "deghoster")
    named = {name: source for part in parts for name, source in trained.sources(part, plain(cfg[part])).items()}
    return {name: hash_of(trained.locate(source)) for name, source in named.items()}


def _photo(name: str) -> Any:
    """Return the photo of a path, or of `astronaut`: the public-domain portrait of Eileen Collins in scikit-image."""
    if name != ASTRONAUT:
        return name
    from PIL import Image
    from skimage.data import astronaut

    return Image.fromarray(astronaut())


def _samples(editor: Any, count: int, seed: int) -> list[Any]:
    from oodgan.generators.protocol import sample_codes

    if count < 1:
        raise UserError("pipeline.photos is empty and pipeline.samples is 0: there is nothing to edit")
    return list(editor.generator.synthesis(sample_codes(editor.generator, count, seed)).clamp(-1, 1)[:, None])


def _first_names(names: Sequence[str]) -> list[dict[str, float]]:
    edits = [{name: 1.0} for name in names[:2]]
    return [*edits, {names[0]: 1.0, names[1]: -1.0}] if len(names) > 1 else edits


def _row(cfg: DictConfig, edit: Any, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {"edit": edit.label}
    if cfg.pipeline.measure:
        import torch
        from hydra.utils import instantiate

        from oodgan.directions.probes import SHIPPED_PROBES, load_probes
        from oodgan.metrics.lpips import lpips_distance
        from oodgan.nn.resize import resize_area

        recogniser = instantiate(cfg.identity)
        photo, result = (resize_area(edit.tensors[name], 256).float() for name in ("photo", "result"))
        with torch.no_grad():
            kept = (recogniser(result) * recogniser(photo)).sum(1)
            probes = load_probes(SHIPPED_PROBES, list(edit.edits), {})
            changes = [f"{name} {float(probe(result) - probe(photo)):+.2f}" for (name, _, _), probe in probes.items()]
            row["change (probes, sd)"] = ", ".join(changes) or "no probe"
            row[f"identity kept ({recogniser.name})"] = round(float(kept), 3)
            row["LPIPS to the photo (alex)"] = round(float(lpips_distance("alex")(result, photo)), 4)
    return row | {"seconds": round(seconds, 1)}


def _curves(run: RunFolder, stages: Sequence[str]) -> dict[str, Path]:
    fits = [(stage, fit) for stage in stages for fit in run.stage(stage).fits()]
    return {f"{stage} {fit.phase}".strip(): fit.metrics_csv for stage, fit in fits}


def _tell(run: RunFolder) -> None:
    import json

    from oodgan.reporting.tables import Table
    from oodgan.reporting.terminal import console

    rows = json.loads(run.report_json.read_text())["table"]
    console().print(Table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]).terminal())
    print(f"report: {run.report}")
