"""MLflow's runs: of a server or data base through its client, and of its folder `mlruns` without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from oodgan.errors import UserError
from oodgan.foreign import reading

Curve = list[tuple[int, float]]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of MLflow's file store: `meta.yaml` beside `metrics/` and `params/`."""
    return (folder / "meta.yaml").is_file() and (folder / "metrics").is_dir()


def read(folder: Path) -> dict[str, Any]:
    """A run of the file store: `name`, `state`, `config`, `metrics`, `curves`, `group`, as keywords of a `Run`."""
    with reading(folder, "MLflow run"):
        about = yaml.safe_load((folder / "meta.yaml").read_text(encoding="utf-8")) or {}
        tags = _files(folder / "tags")
        curves = {name: _curve(text) for name, text in _files(folder / "metrics").items()}
        return _run(
            str(tags.get("mlflow.runName") or about.get("run_name") or folder.name),
            _STATES.get(int(about.get("status") or 3), "finished"),
            _files(folder / "params"),
            {name: curve for name, curve in curves.items() if curve},
            tags,
        )


def of_experiment(experiment: str, group: str | None = None) -> list[dict[str, Any]]:
    """The runs of an experiment of the server that `MLFLOW_TRACKING_URI` names, or of one group (a sweep) of it.

    Raises:
        UserError: mlflow is not installed, no answer, no such experiment, or no runs.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise UserError(f"mlflow={experiment} needs MLflow: pip install mlflow ({error})") from error
    try:
        client = MlflowClient()
        named = client.get_experiment_by_name(experiment)
        if named is None:
            names = ", ".join(sorted(each.name for each in client.search_experiments()))
            raise UserError(f"MLflow has no experiment {experiment}; it has {names or 'none'}")
        chosen = f"tags.group = '{group}'" if group else ""
        entries, token = [], None
        while token != "":
            page = client.search_runs([named.experiment_id], chosen, page_token=token)
            entries += list(page)
            token = page.token or ""
        runs = [_of_client(client, entry) for entry in entries]
    except (MlflowException, OSError) as error:
        raise UserError(f"MLflow does not give the runs of {experiment}: {str(error).splitlines()[0]}") from error
    if not runs:
        raise UserError(f"MLflow experiment {experiment} has no runs" + (f" in group {group}" if group else ""))
    return runs


def _of_client(client: Any, entry: Any) -> dict[str, Any]:
    curves = {
        name: [(point.step, point.value) for point in client.get_metric_history(entry.info.run_id, name)]
        for name in entry.data.metrics
    }
    state = str(entry.info.status).lower()
    return _run(entry.info.run_name or entry.info.run_id, state, entry.data.params, curves, entry.data.tags)


def _run(
    name: str, state: str, params: Mapping[str, str], curves: Mapping[str, Curve], tags: Mapping[str, str]
) -> dict[str, Any]:
    config = {key.replace("/", "."): _value(text) for key, text in params.items()}  # as Lightning's logger joins keys
    kept = {name: sorted(curve) for name, curve in curves.items() if name != "epoch"}
    metrics = {name: curve[-1][1] for name, curve in kept.items()}
    group = tags.get("group") or None
    return {"name": name, "state": state, "config": config, "metrics": metrics, "curves": kept, "group": group}


def _value(text: str) -> Any:
    """A parameter, which MLflow keeps as text: `0.1` is a number again."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


_STATES = {1: "running", 2: "scheduled", 3: "finished", 4: "failed", 5: "killed"}


def _files(folder: Path) -> dict[str, str]:
    """Relative path -> text of the files below a folder; a metric's name may have slashes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def _curve(text: str) -> Curve:
    """A metric's lines `TIME VALUE STEP`."""
    points = [line.split() for line in text.splitlines() if line.strip()]
    return [(int(step), float(value)) for _, value, step in points]
