"""Score methods side by side: metrics with confidence intervals, tables, and the pictures behind them."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from oodgan.errors import UserError, unknown
from oodgan.files import digest, replacing, write_json, write_text
from oodgan.tracking import wandb as tracker
from oodgan.tracking.artifacts import Manifest, fingerprint, plain

if TYPE_CHECKING:
    from oodgan.evaluation.score import Job

READS = (
    "generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster",
    "metrics", "trainer", "logger", "strength", "identity",
)  # fmt: skip
RESULT = "metrics.json"


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Scores what is not scored yet, then writes `metrics.json`, `per_image.csv`, `table.md`, `report.html`, `sheets/`.

    Raises:
        UserError: wrong folders or pictures (see `oodgan.evaluation.pairs.match`), or an `output` that holds the result
            of another evaluation and `replace` is false.
    """
    from oodgan.evaluation.methods import variants
    from oodgan.evaluation.pairs import match
    from oodgan.evaluation.photo_set import PhotoSet
    from oodgan.evaluation.protocol import Protocol
    from oodgan.evaluation.store import Store
    from oodgan.ranks import rank
    from oodgan.training.engine import described, local_processes
    from oodgan.training.spread import spread

    output = Path(cfg.output).absolute()
    protocol = Protocol.from_config(plain(cfg.metrics))
    rows = variants(plain(cfg.methods) or {}, plain(cfg.get("strengths")))
    methods = {row: variant.source for row, variant in rows.items()}
    at = _at(cfg)
    masks = Path(cfg.masks) if cfg.masks else None
    if masks is None:
        protocol = _without_regions(protocol)
    edits = _edits(cfg, methods)
    maker = _maker(cfg, edits, methods)
    made = output / "made" / maker[:8]
    only = PhotoSet.read(cfg.set) if cfg.get("set") else None
    pairs = match(Path(cfg.photos), methods, protocol, made, masks, only)
    reals = _reals(Path(cfg.photos), protocol, only)
    settings: dict[str, Any] = {
        "protocol": protocol.as_dict(),
        "edits": edits,
        "methods": methods,
        "maker": maker,
        "at": at,
    }
    settings["set"] = _set(cfg)
    settings["judge"] = [plain(cfg.attributes), cfg.probes, plain(cfg.get("identity")), plain(cfg.get("judges"))]
    mark = fingerprint(settings, _inputs([*pairs, *reals], output))
    if _finished(output, mark, bool(cfg.get("replace")), made):
        return _show(output)
    job = _job(cfg, pairs, protocol, Store(output / "progress" / mark[:16]), edits, rows, reals)
    spread(local_processes(described(cfg)), _score, plain(cfg), job)
    if rank() != 0:
        return None
    _write(cfg, job, output, mark)
    return _show(output)


def _edits(cfg: DictConfig, methods: Mapping[str, str]) -> dict[str, float]:
    from oodgan.evaluation.methods import BUILT_IN

    edits = {str(k): _number(str(k), v) for k, v in (plain(cfg.edits) or {}).items()}
    made = [value for value in methods.values() if value in BUILT_IN]
    if made and not edits and set(made) != {"inversion"}:
        raise UserError(f"the built-in method {made[0]} needs an edit to make, e.g. 'edits={{smile: 1.0}}'")
    return edits


def _number(name: str, value: Any) -> float:
    from oodgan.editing.strength import Target, parse

    strength = parse(name, value)
    if isinstance(strength, Target):
        raise UserError(f"edits.{name}={strength}: methods are compared at given strengths, for example {name}: 1.0")
    return strength


def _at(cfg: DictConfig) -> dict[str, float]:
    """At which change of each attribute likeness is read."""
    at = plain(cfg.get("at")) or {}
    for name, change in at.items():
        if not isinstance(change, int | float) or not 0 < change < math.inf:
            raise UserError(f"at.{name}={change} must be a positive change, e.g. at={{{name}: 0.6}}")
    return {str(name): float(change) for name, change in at.items()}


def _set(cfg: DictConfig) -> dict[str, str] | None:
    """Name and hash of the set of photos."""
    return {"name": Path(cfg.set).stem, "sha256": digest(Path(cfg.set))} if cfg.get("set") else None


def _without_regions(protocol: Any) -> Any:
    """Without parsing masks there is no region to measure, and no column for it."""
    from dataclasses import replace

    from oodgan.metrics.registry import build_per_image

    kept = [name for name in protocol.metrics if "labels" not in build_per_image(name).inputs]
    return replace(protocol, metrics=kept)


def _maker(cfg: DictConfig, edits: dict[str, float], methods: Mapping[str, str]) -> str:
    """Hash of what the built-in methods' pictures depend on beside the photos: the editor's parts and the edits."""
    from oodgan.evaluation.methods import BUILT_IN
    from oodgan.evaluation.paper import PAPER

    if not set(methods.values()) & set(BUILT_IN):
        return "none"

    parts = ("generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "paper")
    config = {part: plain(cfg.get(part)) for part in parts}
    return fingerprint({"parts": config, "edits": edits, "published": PAPER}, _sources(cfg))


def _inputs(pairs: list[Any], output: Path) -> dict[str, str]:
    """What the pictures are, by name, size and time; made pictures depend on the config, which is hashed beside."""
    found = {}
    for pair in pairs:
        given = [path for path in pair.results.values() if output not in path.parents]
        given += [path for path in pair.masks.values() if output not in path.parents]
        files = [pair.photo, *given, *([pair.labels] if pair.labels else [])]
        found[pair.name] = " ".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files if p.is_file())
    return found


def _finished(output: Path, mark: str, replace: bool, made: Path) -> bool:
    try:
        held = json.loads((output / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if held.get("fingerprint") == mark:
        return True
    if not replace:
        raise UserError(f"{output} holds the result of another evaluation; choose another output=, or replace=true")
    for folder in (output / "made").glob("*"):
        if folder != made:  # what the same parts and edits made of the photos is still right
            shutil.rmtree(folder, ignore_errors=True)
    (output / RESULT).unlink(missing_ok=True)
    return False


def _job(
    cfg: DictConfig,
    pairs: list[Any],
    protocol: Any,
    store: Any,
    edits: dict[str, float],
    rows: dict[str, Any],
    reals: list[Any],
) -> Job:
    from oodgan.evaluation import judges
    from oodgan.evaluation.methods import MakerFactory
    from oodgan.evaluation.score import Job
    from oodgan.evaluation.summary import statistics_key, statistics_path
    from oodgan.metrics.regions import PARTS

    known = bool(protocol.sets) and statistics_path(statistics_key(pairs, protocol)).is_file()
    return Job(
        pairs=pairs,
        protocol=protocol,
        store=store,
        edit=edits,
        variants=rows,
        maker=MakerFactory(plain(cfg)),
        identity=_identity(cfg),
        masks=any(pair.masks for pair in pairs),
        parts=list(edits) if cfg.masks and all(name.lower() in PARTS for name in edits) else [],
        probes=_probes(cfg, edits) | judges.build(plain(cfg.get("judges")) or [], edits, protocol.resolution),
        photo_features=not known and not reals,
        reals=reals,
    )


def _reals(photos: Path, protocol: Any, only: Any) -> list[Any]:
    """The photos that FID compares edited ones with, when the protocol names an attribute."""
    from oodgan.evaluation.pairs import Pair, Photos, sides

    if protocol.attribute is None:
        return []
    files = Photos.of(photos).files
    _, names = sides(protocol, files if only is None else only.choose(files))
    return [Pair(index, name, files[name], {}) for index, name in enumerate(names)]


def _identity(cfg: DictConfig) -> list[Any]:
    """The identity metric of the configured recogniser, where it is not FaceNet, which the protocol measures anyway."""
    from functools import partial

    from oodgan.nn.facenet import FaceNet

    given = plain(cfg.get("identity"))
    if not given:
        return []
    metric = _identity_metric(given)  # what is wrong with a file is said before anything is scored
    return [] if isinstance(metric.recogniser, FaceNet) else [partial(_identity_metric, given)]


def _identity_metric(recogniser: dict[str, Any], **keywords: Any) -> Any:
    from hydra.utils import instantiate

    from oodgan.metrics.similarity import Identity

    return Identity(instantiate(recogniser, _partial_=True)(), **keywords)


def _probes(cfg: DictConfig, edits: dict[str, float]) -> dict[Any, Any]:
    from oodgan.directions.probes import SHIPPED_PROBES, load_probes

    attributes = plain(cfg.attributes) if cfg.attributes is not None else list(edits)
    if not attributes or not cfg.probes:
        return {}
    return load_probes(SHIPPED_PROBES if cfg.probes == "ffhq" else Path(cfg.probes), attributes, edits)


def _score(config: Mapping[str, Any], job: Job) -> None:
    from oodgan.evaluation.score import Scorer
    from oodgan.training.engine import trainer
    from oodgan.training.progress import Progress

    module = Scorer(job, int(config["batch_size"]), int(config["workers"]))
    if not module.pending:
        return
    if len(module.pending) < len(job.pairs):
        left = len(module.pending)
        print(f"evaluate: {len(job.pairs) - left} photos are scored already, {left} to go", file=sys.stderr)
    engine = trainer(config, folder=job.store.folder, callbacks=[Progress("evaluate")])
    try:
        engine.test(module, verbose=False)
    except SystemExit as stop:  # what Lightning makes of Ctrl-C; the command knows it by its own name
        raise KeyboardInterrupt from stop


def _write(cfg: DictConfig, job: Job, output: Path, mark: str) -> None:
    from oodgan.data.images import write_image
    from oodgan.evaluation import curves, judges, report, summary

    table = summary.load(job.store, len(job.pairs))
    found = summary.summarise(job, table)
    if job.protocol.sets:
        path = summary.statistics_path(summary.statistics_key(job.reals or job.pairs, job.protocol))
        summary.add_sets(found, job, _real_statistics(cfg, job, path))
    chosen = f" of the set {held['name']}" if (held := _set(cfg)) else ""
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
    equal = curves.equal_change(job, table, _at(cfg)) if several else {}
    chart = curves.draw(equal) if equal else None
    if chart:
        with replacing(output / "curves.png") as temporary:
            temporary.write_bytes(chart)
    write_text(output / "table.md", report.markdown(found, caption, equal))
    write_text(output / "report.html", report.page(found, job.pairs, job.columns, table, caption, equal, chart))
    result = {
        "protocol": job.protocol.as_dict(),
        "protocol_id": job.protocol.id,
        "count": len(job.pairs),
        "photos": summary.statistics_key(job.pairs, job.protocol),
        "set": held,
        "edits": dict(job.edit),
        "methods": found,
        "equal_change": equal,
        "notes": notes,
        "sheets_by": by,
        "fingerprint": mark,
    }
    manifest = Manifest("evaluate", plain(cfg), seed=job.protocol.seed, resolution=job.protocol.resolution)
    manifest.counts, manifest.metrics, manifest.fingerprint = {"photos": len(job.pairs)}, found, mark
    sources = _sources(cfg)
    manifest.inputs = {name: digest(path) for name, path in sources.items()}
    shutil.rmtree(output / "progress", ignore_errors=True)
    manifest.save(output)
    _log(cfg, found, output)
    tracker.log_artifact(output, list(sources.values()), only=("*.md", "*.csv", "*.html", "curves.png", "sheets/*"))
    tracker.finish()
    write_json(output / RESULT, result)


def _real_statistics(cfg: DictConfig, job: Job, path: Path) -> Mapping[str, Any]:
    from oodgan.editing.editor import _device
    from oodgan.evaluation import edited_fid, summary

    if not job.reals:
        return summary.real_statistics(job.store, path)
    device = _device(str(cfg.get("accelerator", "cpu")))
    return edited_fid.real_moments(job.reals, job.protocol, path, device)


def _notes(cfg: DictConfig) -> list[str]:
    """What a reader of the table must know about methods that are not quite what their name says."""
    from oodgan.evaluation.paper import differences

    return [differences(plain(cfg))] if "paper" in _built_in(cfg) else []


def _built_in(cfg: DictConfig) -> set[str]:
    """The built-in methods among those that are scored."""
    from oodgan.evaluation.methods import BUILT_IN, variants

    return {variant.source for variant in variants(plain(cfg.methods), None).values()} & set(BUILT_IN)


def _sources(cfg: DictConfig) -> dict[str, Path]:
    """The artifacts and weights files that made the pictures, as far as this command made them."""
    from oodgan.stages import _common as common

    if not _built_in(cfg):
        return {}
    found = common.used(cfg, "directions", "inverter", "diffcam", "deghoster")
    theirs = common.used(cfg.get("paper") or DictConfig({}), "diffcam", "deghoster")
    found |= {f"paper_{name}": path for name, path in theirs.items()}
    return {name: path for name, path in found.items() if path is not None}


def _log(cfg: DictConfig, found: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """The means to every logger that is on; to wandb the table and the sheets besides."""
    from PIL import Image

    from oodgan.tracking import loggers

    every = {f"{m}/{k}": e.get("mean", math.nan) for m, entries in found.items() for k, e in entries.items()}
    means = {name: mean for name, mean in every.items() if math.isfinite(mean)}
    for logger in loggers.build(plain(cfg.get("logger")), output, "evaluate", config=plain(cfg)):
        logger.log_metrics(means, step=0)
        if type(logger).__name__ == "WandbLogger":
            for path in sorted((output / "sheets").glob("*.png")):
                logger.log_image(f"sheets/{path.stem}", [Image.open(path).convert("RGB")])  # type: ignore[attr-defined]
            columns = ["method", *dict.fromkeys(k for entries in found.values() for k in entries)]
            rows = [[m, *(entries.get(k, {}).get("mean") for k in columns[1:])] for m, entries in found.items()]
            logger.log_table("evaluation", columns=columns, data=rows)  # type: ignore[attr-defined]
        logger.finalize("success")


def _show(output: Path) -> dict[str, Any]:
    print((output / "table.md").read_text(encoding="utf-8"))
    print(f"pictures and numbers: {output / 'report.html'}")
    return {"metrics": json.loads((output / RESULT).read_text(encoding="utf-8"))["methods"]}
