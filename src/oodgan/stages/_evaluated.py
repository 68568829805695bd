"""Writes the results of an evaluation after all photos are scored: numbers, tables, curves, pages and images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from oodgan.errors import UserError, unknown
from oodgan.files import hash_of, replacing, write_json, write_text
from oodgan.tracking import wandb as tracker
from oodgan.tracking.artifacts import Manifest, plain

if TYPE_CHECKING:
    from oodgan.evaluation.methods import Variant
    from oodgan.evaluation.score import Job

FILE = "metrics.json"


def at(cfg: DictConfig) -> dict[str, float]:
    """Return the change of each attribute at which methods are compared."""
    given = plain(cfg.get("at")) or {}
    for name, change in given.items():
        if not isinstance(change, int | float) or not 0 < change < math.inf:
            raise UserError(f"at.{name}={change} must be a positive change, e.g. at={{{name}: 0.6}}")
    return {str(name): float(change) for name, change in given.items()}


def named_set(cfg: DictConfig) -> dict[str, str] | None:
    """Return name and hash of the set of photos."""
    if not cfg.get("set"):
        return None
    path = Path(cfg.set).expanduser()
    return {"name": path.stem, "sha256": hash_of(path)}


def write(cfg: DictConfig, job: Job, output: Path, settings_hash: str) -> None:
    """Write all results to the folder of the evaluation, `metrics.json` last, and log them."""
    from oodgan.data.images import write_image
    from oodgan.evaluation import curves, judges, report, summary

    table = summary.load(job.store, len(job.pairs))
    scores = summary.summarise(job, table)
    if job.protocol.sets:
        path = summary.statistics_path(summary.statistics_key(job.reals or job.pairs, job.protocol))
        summary.add_sets(scores, job, _real_statistics(cfg, job, path))
    chosen = f" of the set {held['name']}" if (held := named_set(cfg)) else ""
    caption = f"{len(job.pairs)} photos{chosen}, protocol {job.protocol.id}, edits {dict(job.edit) or 'as given'}."
    notes = [*_notes(cfg), *filter(None, [judges.foot(job.columns)]), f"Measured on {date.today()}."]
    if job.reals:
        notes.insert(0, f"FID is to {len(job.reals)} other, real photos (`metrics.attribute`).")
    caption = " ".join([caption, *notes])
    by = cfg.sheet_by or job.columns[-1]
    if by not in job.columns:
        raise unknown("metric", by, job.columns)
    (output / "sheets").mkdir(parents=True, exist_ok=True)
    for m, method in enumerate(job.methods):
        picture = report.sheet(job.pairs, table[:, m, job.columns.index(by)], method, by)
        write_image(picture, output / "sheets" / f"{method}.png")
    report.write_rows(output / "per_image.csv", job.pairs, job.columns, table)
    several = any(row != variant.method for row, variant in job.variants.items())
    equal = curves.equal_change(job, table, at(cfg)) if several else {}
    chart = curves.draw(equal) if equal else None
    if chart:
        with replacing(output / "curves.png") as temporary:
            temporary.write_bytes(chart)
    write_text(output / "table.md", report.markdown(scores, caption, equal))
    write_text(output / "report.html", report.page(scores, job.pairs, job.columns, table, caption, equal, chart))
    result = {
        "protocol": job.protocol.as_dict(),
        "protocol_id": job.protocol.id,
        "count": len(job.pairs),
        "photos": summary.statistics_key(job.pairs, job.protocol),
        "set": held,
        "edits": dict(job.edit),
        "methods": scores,
        "equal_change": equal,
        "notes": notes,
        "sheets_by": by,
        "settings_hash": settings_hash,
    }
    manifest = Manifest("evaluate", plain(cfg), seed=job.protocol.seed, resolution=job.protocol.resolution)
    manifest.counts, manifest.metrics, manifest.settings_hash = {"photos": len(job.pairs)}, scores, settings_hash
    sources = sources_of(cfg)
    manifest.inputs = {name: hash_of(path) for name, path in sources.items()}
    shutil.rmtree(output / "progress", ignore_errors=True)
    manifest.save(output)
    _log(cfg, scores, output)
    tracker.log_artifact(output, list(sources.values()), only=("*.md", "*.csv", "*.html", "curves.png", "sheets/*"))
    tracker.finish()
    write_json(output / FILE, result)


def _real_statistics(cfg: DictConfig, job: Job, path: Path) -> Mapping[str, Any]:
    from oodgan.devices import device_of
    from oodgan.evaluation import edited_fid, summary

    if not job.reals:
        return summary.real_statistics(job.store, path)
    device = device_of(str(cfg.get("accelerator", "cpu")))
    return edited_fid.real_moments(job.reals, job.protocol, path, device)


def _notes(cfg: DictConfig) -> list[str]:
    """Return notes on methods that differ from what their names suggest, and on changed ones."""
    from oodgan.evaluation.altered import spelled
    from oodgan.evaluation.paper import differences

    made = built_in(cfg)
    notes = [differences(plain(cfg))] if any(variant.source == "paper" for variant in made) else []
    return notes + [f"`{v.method}`: {v.source} with {spelled(v.changes)}." for v in made if v.changes]


def built_in(cfg: DictConfig) -> list[Variant]:
    """The built-in methods among those that are scored."""
    from oodgan.evaluation.methods import BUILT_IN, variants

    return [variant for variant in variants(plain(cfg.methods), None).values() if variant.source in BUILT_IN]


def sources_of(cfg: DictConfig) -> dict[str, Path]:
    """Return the artifacts and weights files used for the images that this command computed."""
    from oodgan.stages import _common as common

    if not built_in(cfg):
        return {}
    sources = common.used(cfg, "directions", "inverter", "transfer", "diffcam", "deghoster")
    changed = {variant.method: dict(variant.changes) for variant in built_in(cfg)} | {"paper": plain(cfg.get("paper"))}
    for method, changes in changed.items():
        theirs = common.used(DictConfig(changes or {}), "inverter", "transfer", "diffcam", "deghoster", "parser")
        sources |= {f"{method}_{name}": path for name, path in theirs.items()}
    return {name: path for name, path in sources.items() if path is not None}


def _log(cfg: DictConfig, scores: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """Log the means to all loggers, and table and sheets to wandb."""
    from oodgan.data.images import read_rgb
    from oodgan.tracking import loggers

    every = {f"{m}/{k}": e.get("mean", math.nan) for m, entries in scores.items() for k, e in entries.items()}
    means = {name: mean for name, mean in every.items() if math.isfinite(mean)}
    for logger in loggers.build(plain(cfg.get("logger")), output, "evaluate", config=plain(cfg)):
        logger.log_metrics(means, step=0)
        if type(logger).__name__ == "WandbLogger":
            for path in sorted((output / "sheets").glob("*.png")):
                logger.log_image(f"sheets/{path.stem}", [read_rgb(path)])  # type: ignore[attr-defined]
            columns = ["method", *dict.fromkeys(k for entries in scores.values() for k in entries)]
            rows = [[m, *(entries.get(k, {}).get("mean") for k in columns[1:])] for m, entries in scores.items()]
            logger.log_table("evaluation", columns=columns, data=rows)  # type: ignore[attr-defined]
        logger.finalize("success")
