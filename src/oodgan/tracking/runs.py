"""Reads finished runs (config, numbers, curves, images) from run folders, TensorBoard, MLflow or wandb."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodgan.errors import UserError
from oodgan.files import MANIFEST
from oodgan.foreign import reading
from oodgan.paths import FitFolder, StageFolder
from oodgan.remote import LARGE, local
from oodgan.tracking import mlflow
from oodgan.tracking.artifacts import Manifest

Curve = list[tuple[int, float]]


@dataclass
class Run:
    """One run: `config` is flat (dotted keys), `metrics` the final numbers, `curves` name -> [(step, value)]."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)
    state: str = "finished"
    group: str | None = None


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys; lists are kept.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def collect(places: Iterable[str | Path]) -> list[Run]:
    """Read the runs at `places`: run folders, or folders of runs such as a sweep's or a pipeline's.

    A folder of TensorBoard files, such as another project's `lightning_logs/version_0`, is a run too, and so is each
    in MLflow's folder `mlruns/EXPERIMENT`. A place may be remote (`oodgan.remote`).

    Raises:
        UserError: a place that does not exist or contains no run.
    """
    runs: list[Run] = []
    for place in places:
        folder = local(place, leave=LARGE)
        if not folder.is_dir():
            raise UserError(f"no run at {place}: there is no such folder")
        folders = [folder] if _is_run(folder) else sorted(filter(_is_run, folder.iterdir()), key=_natural)
        if not folders:
            raise UserError(f"no run in {place}: neither it nor a folder in it holds numbers or a manifest")
        runs += [read(f) for f in folders]
    return _distinct(runs)


def _is_run(folder: Path) -> bool:
    return StageFolder(folder).is_run() or _has_events(folder) or mlflow.is_run(folder)


def _has_events(folder: Path) -> bool:
    return any(folder.glob("events.out.tfevents.*"))


def _natural(path: Path) -> tuple[int, str]:
    return (int(path.name) if path.name.isdigit() else 1 << 60, path.name)


def read(folder: str | Path) -> Run:
    """Read one run folder; missing data stay empty."""
    stage = StageFolder(Path(folder))
    if mlflow.is_run(stage.path):
        return Run(**mlflow.read(stage.path))
    fits, itself = stage.fits(), FitFolder(stage.path)
    run = Run(name="/".join(stage.path.absolute().parts[-2:]), config=_config(stage, fits))
    if not stage.is_run() and _has_events(stage.path):
        run.curves = _events(stage.path)
        run.metrics = {name: curve[-1][1] for name, curve in run.curves.items()}
        return run
    for place in (itself, *fits):
        prefix = f"{place.phase}/" if len(fits) > 1 and place != itself and place.phase else ""
        run.metrics |= {prefix + k: v for k, v in _numbers(_json(place.metrics_json)).items()}
        for name, curve in _curves(place.metrics_csv).items():
            run.curves[prefix + name] = curve
    for folder in (stage.path, stage.artifact):
        if (folder / MANIFEST).is_file():
            run.metrics |= _numbers(Manifest.load(folder).metrics)
    job = _json(stage.job)
    if job:
        run.state, run.group = job["state"], stage.path.absolute().parent.name
        objective = (job.get("result") or {}).get("objective")
        if objective is not None:
            run.metrics["objective"] = float(objective)
    run.pictures = stage.pictures()[:8]
    return run


def _config(stage: StageFolder, fits: Sequence[FitFolder]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    for file in (stage.config, *(fit.config for fit in fits), stage.path / "hparams.yaml"):  # the last is Lightning's
        if file.is_file():
            with reading(file, "run's config"):
                return flatten(OmegaConf.to_container(OmegaConf.load(file), resolve=False))  # type: ignore[arg-type]
    for folder in (stage.artifact, stage.path):
        if (folder / MANIFEST).is_file():
            return flatten(Manifest.load(folder).config)
    return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        k: float(v)
        for k, v in flatten(values).items()
        if isinstance(v, int | float) and not k.endswith(("_step", "epoch"))
    }


def _curves(path: Path) -> dict[str, Curve]:
    from oodgan.tracking.loggers import read_csv

    curves: dict[str, Curve] = {}
    for step, name, value in read_csv(path):
        curves.setdefault(name, []).append((step, value))
    return curves


def _events(folder: Path) -> dict[str, Curve]:
    """The scalars of a folder's TensorBoard files."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise UserError(
            f"{folder} holds TensorBoard files; reading them needs pip install 'oodgan[tensorboard]' ({error})"
        ) from error
    with reading(folder, "TensorBoard files of"):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: all of them
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if name != "epoch"]
        return {name: [(event.step, float(event.value)) for event in events.Scalars(name)] for name in names}


def _distinct(runs: list[Run]) -> list[Run]:
    """Give runs of the same name a number."""
    seen: dict[str, int] = {}
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        if seen[run.name] > 1:
            run.name += f" ({seen[run.name]})"
    return runs


def from_mlflow(experiment: str, group: str | None = None) -> list[Run]:
    """The runs of an MLflow experiment, or of one group (a sweep) of it; errors as of `mlflow.of_experiment`."""
    return _distinct([Run(**entry) for entry in mlflow.of_experiment(experiment, group)])


def from_wandb(project: str, group: str | None = None) -> list[Run]:
    """The runs of a wandb project (`entity/project`), or of one group (a sweep) of it.

    Raises:
        UserError: not logged in, no such project, or no runs.
    """
    import wandb

    try:
        entries = list(wandb.Api().runs(project, filters={"group": group} if group else None))
        runs = [_from_api(entry) for entry in entries]
    except (wandb.Error, ValueError) as error:
        raise UserError(f"wandb does not give the runs of {project}: {error}") from error
    if not runs:
        raise UserError(f"wandb project {project} has no runs" + (f" in group {group}" if group else ""))
    return _distinct(runs)


def _from_api(entry: Any) -> Run:
    curves: dict[str, Curve] = {}
    for row in entry.scan_history():
        step = int(row.get("trainer/global_step", row.get("_step", 0)))
        for key, value in row.items():
            if isinstance(value, int | float) and not key.startswith(("_", "trainer/")) and key != "epoch":
                curves.setdefault(key, []).append((step, value))
    # The summary contains images and tables only as sizes.
    media = {k for k, v in dict(entry.summary).items() if hasattr(v, "get") and v.get("_type")}
    summary = {k: v for k, v in dict(entry.summary).items() if not k.startswith("_") and k not in media}
    return Run(entry.name, flatten(dict(entry.config)), _numbers(summary), curves, [], entry.state, entry.group)
