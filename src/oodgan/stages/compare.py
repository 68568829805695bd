"""Compare training runs: settings that differ, final metrics, curves, pictures

`oodgan compare RUN RUN ...`, `oodgan compare sweep=NAME`, `oodgan compare wandb=ENTITY/PROJECT`,
`oodgan compare mlflow=EXPERIMENT`. A RUN is a run's folder, or a folder of runs, of TensorBoard files or of MLflow's
runs; also a URL such as s3://BUCKET/runs/rates.
Writes comparison.md, comparison.csv and comparison.html to `output`, and the table to the terminal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from oodgan.errors import UserError
from oodgan.files import write_text
from oodgan.paths import sweep_folder
from oodgan.reporting.terminal import console
from oodgan.tracking import compare, page, runs

READS = ()
POSITIONAL = ("*runs",)


def run(cfg: DictConfig) -> dict[str, Any] | None:
    runs = _runs(cfg)
    comparison = compare.compare(runs, cfg.columns, list(cfg.maximize or []))
    output = Path(cfg.output)
    title = cfg.title or f"Comparison of {cfg.sweep or cfg.wandb or cfg.mlflow or f'{len(runs)} runs'}"
    write_text(output / "comparison.md", comparison.table().markdown())
    write_text(output / "comparison.csv", compare.to_csv(comparison))
    write_text(output / "comparison.html", page.page(comparison, runs, title))
    terminal = console()
    terminal.print(comparison.table().terminal(terminal.width))
    terminal.print(f"wrote {output / 'comparison.html'}, .md and .csv", soft_wrap=True)
    return None


def _runs(cfg: DictConfig) -> list[runs.Run]:
    if cfg.wandb:
        return runs.from_wandb(cfg.wandb, cfg.sweep)
    if cfg.mlflow:
        return runs.from_mlflow(cfg.mlflow, cfg.sweep)
    places = [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs or [])
    if cfg.sweep:
        places.append(str(sweep_folder(cfg)))
    if not places:
        raise UserError("compare what? give run folders, sweep=NAME, wandb=ENTITY/PROJECT or mlflow=EXPERIMENT")
    return runs.collect(places)
