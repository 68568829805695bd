"""Score methods on the same photos: metrics with confidence intervals, tables, and the images behind them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from oodgan.errors import UserError, unknown
from oodgan.stages import _evaluated as results
from oodgan.tracking.artifacts import hash_settings, plain

if TYPE_CHECKING:
    from oodgan.evaluation.methods import Variant
    from oodgan.evaluation.score import Job

READS = (
    "generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "parser",
    "metrics", "trainer", "logger", "search", "identity",
)  # fmt: skip


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Score photos not scored yet, then write `metrics.json`, `per_image.csv`, `table.md`, `report.html`, `sheets/`.

    Raises:
        UserError: wrong folders or pictures (see `oodgan.evaluation.pairs.match`), or an `output` that holds the result
            of another evaluation and `replace` is false.
    """
    from oodgan.evaluation import altered
    from oodgan.evaluation.methods import variants
    from oodgan.evaluation.pairs import match
    from oodgan.evaluation.photo_set import PhotoSet
    from oodgan.evaluation.protocol import Protocol
    from oodgan.evaluation.store import Store
    from oodgan.parsing.parser import chosen, decisive
    from oodgan.ranks import rank
    from oodgan.training.engine import described, local_processes
    from oodgan.training.spread import spread

    output = Path(cfg.output).absolute()
    protocol = Protocol.from_config(plain(cfg.metrics))
    rows = variants(plain(cfg.methods) or {}, plain(cfg.get("strengths")))
    altered.check(plain(cfg), rows.values())
    methods = {row: variant.source for row, variant in rows.items()}
    masks = Path(cfg.masks) if cfg.masks else None
    if masks is None and not chosen(cfg.get("parser")):
        protocol = _without_regions(protocol)
    edits = _edits(cfg, methods)
    maker = _maker(cfg, edits, rows)
    made = output / "made" / maker[:8]
    only = PhotoSet.read(cfg.set) if cfg.get("set") else None
    pairs = match(Path(cfg.photos), methods, protocol, made, masks, only)
    reals = _reals(Path(cfg.photos), protocol, only)
    settings: dict[str, Any] = {
        "protocol": protocol.as_dict(),
        "edits": edits,
        "methods": methods,
        "maker": maker,
        "at": results.at(cfg),
    }
    settings |= decisive(cfg.get("parser"))
    settings["set"] = results.named_set(cfg)
    settings["judge"] = [plain(cfg.get(key)) for key in ("attributes", "probes", "identity", "judges", "recogniser")]
    settings_hash = hash_settings(settings, _inputs([*pairs, *reals], output))
    if _finished(output, settings_hash, bool(cfg.get("replace")), made):
        return _show(output)
    job = _job(cfg, pairs, protocol, Store(output / "progress" / settings_hash[:16]), edits, rows, reals)
    if cfg.sheet_by and cfg.sheet_by not in job.columns:
        raise unknown("metric for sheet_by", str(cfg.sheet_by), job.columns)
    spread(local_processes(described(cfg)), _score, plain(cfg), job)
    if rank() != 0:
        return None
    results.write(cfg, job, output, settings_hash)
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


def _without_regions(protocol: Any) -> Any:
    """Return the protocol without metrics of regions, which need parsing masks."""
    from dataclasses import replace

    from oodgan.metrics.registry import build_per_image

    kept = [name for name in protocol.metrics if "labels" not in build_per_image(name).inputs]
    return replace(protocol, metrics=kept)


def _maker(cfg: DictConfig, edits: dict[str, float], rows: Mapping[str, Variant]) -> str:
    """Hash what the built-in methods' images depend on besides the photos: the editor's parts and the edits."""
    from oodgan.evaluation.methods import BUILT_IN
    from oodgan.evaluation.paper import PAPER
    from oodgan.parsing.parser import decisive

    if not {variant.source for variant in rows.values()} & set(BUILT_IN):
        return "none"

    parts = ("generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "search", "paper")
    config = {part: plain(cfg.get(part)) for part in parts}
    config |= decisive(cfg.get("parser"))
    changes = {variant.method: dict(variant.changes) for variant in rows.values() if variant.changes}
    made = {"parts": config, "edits": edits, "published": PAPER} | ({"methods": changes} if changes else {})
    return hash_settings(made, results.sources_of(cfg))


def _inputs(pairs: list[Any], output: Path) -> dict[str, str]:
    """Describe the input images by name, size and time. Computed images depend on the config, which is hashed too."""
    described = {}
    for pair in pairs:
        given = [path for path in pair.results.values() if output not in path.parents]
        given += [path for path in pair.masks.values() if output not in path.parents]
        files = [pair.photo, *given, *([pair.labels] if pair.labels else [])]
        described[pair.name] = " ".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files if p.is_file())
    return described


def _finished(output: Path, settings_hash: str, replace: bool, made: Path) -> bool:
    try:
        held = json.loads((output / results.FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if held.get("settings_hash", held.get("fingerprint")) == settings_hash:
        return True
    if not replace:
        raise UserError(f"{output} holds the result of another evaluation; choose another output=, or replace=true")
    for folder in (output / "made").glob("*"):
        if folder != made:  # results of the same parts and edits are still valid
            shutil.rmtree(folder, ignore_errors=True)
    (output / results.FILE).unlink(missing_ok=True)
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
    from oodgan.parsing.parser import chosen

    parsed = bool(cfg.masks) or chosen(cfg.get("parser"))
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
        parts=list(edits) if parsed and all(name.lower() in PARTS for name in edits) else [],
        probes=_probes(cfg, edits) | judges.build(plain(cfg.get("judges")) or [], edits, protocol.resolution),
        photo_features=not known and not reals,
        reals=reals,
        parser=plain(cfg.get("parser")) if chosen(cfg.get("parser")) else None,
    )


def _reals(photos: Path, protocol: Any, only: Any) -> list[Any]:
    """Return the photos that FID compares with, if the protocol has an attribute."""
    from oodgan.evaluation.pairs import Pair, Photos, sides

    if protocol.attribute is None:
        return []
    files = Photos.of(photos).files
    _, names = sides(protocol, files if only is None else only.choose(files))
    return [Pair(index, name, files[name], {}) for index, name in enumerate(names)]


def _identity(cfg: DictConfig) -> list[Any]:
    """Return the identity metrics of `identity`, unless it is the protocol's FaceNet, and of `recogniser`.

    `identity` guides the refinement of codes, too; `recogniser` only measures.
    """
    from functools import partial

    from oodgan.nn.facenet import FaceNet

    given = [plain(cfg.get("identity"))]
    if cfg.get("recogniser"):
        given.append({"_target_": "oodgan.nn.arcface.ArcFace", **plain(cfg.recogniser)})
    metrics = {}
    for recogniser in filter(None, given):
        if not isinstance(_recogniser(recogniser), FaceNet):
            metric = _identity_metric(recogniser)  # report an invalid file before anything is scored
            metrics[metric.name] = partial(_identity_metric, recogniser)
    return list(metrics.values())


def _recogniser(given: dict[str, Any]) -> Any:
    from hydra.utils import instantiate

    return instantiate(given, _partial_=True)()


def _identity_metric(recogniser: dict[str, Any], **keywords: Any) -> Any:
    from oodgan.metrics.similarity import Identity

    return Identity(_recogniser(recogniser), **keywords)


def _probes(cfg: DictConfig, edits: dict[str, float]) -> dict[Any, Any]:
    from oodgan.directions.probes import SHIPPED_PROBES, load_probes

    attributes = plain(cfg.attributes) if cfg.attributes is not None else list(edits)
    if not attributes and cfg.probes not in (None, "ffhq"):
        raise UserError(f"probes={cfg.probes} measure nothing here: say which attributes, such as attributes=[smile]")
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
    except SystemExit as stop:  # Lightning converts Ctrl-C; convert it back for the command
        raise KeyboardInterrupt from stop


def _show(output: Path) -> dict[str, Any]:
    print((output / "table.md").read_text(encoding="utf-8"))
    print(f"pictures and numbers: {output / 'report.html'}")
    return {"metrics": json.loads((output / results.FILE).read_text(encoding="utf-8"))["methods"]}
