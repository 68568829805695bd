"""Hydra sweeper for a persistent Optuna study: finished trials are kept, failed ones marked, poor ones pruned.

Hydra's own Optuna plugin starts `n_trials` new trials each time, and can neither prune nor resume an interrupted sweep.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from oodgan.errors import UserError
from oodgan.files import write_json
from oodgan.training.plugins import register_plugin
from oodgan.training.sweep import Pruned, read_job

TRIAL_FILE = "trial.json"


def register() -> None:
    """Make `StudySweeper` known to Hydra, which takes sweepers from its plugin namespace only.

    Raises:
        UserError: Optuna or its Hydra plugin is not installed.
    """
    try:
        import optuna
        from hydra_plugins.hydra_optuna_sweeper import _impl  # noqa: F401 (parses the search space)
    except ImportError as error:
        raise UserError(f"hydra=optuna needs the sweep extra: pip install 'oodgan[sweep]' ({error})") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    register_plugin("oodgan_study", StudySweeper)


class StudySweeper(Sweeper):
    """Gets trials from an Optuna study and runs them as Hydra jobs until `n_trials` are finished.

    Args:
        params: search space {key: Hydra sweep text}, to which the command line's sweeps are added.
        direction: minimize or maximize the stage's "objective".
        storage: Optuna storage URL; None keeps `study.db` (sqlite) in the sweep's folder.
        n_trials: total number of finished or pruned trials of the study.
        n_jobs: trials launched together.
        sampler: an Optuna sampler.
        pruner: an Optuna pruner, or None.
    """

    def __init__(
        self,
        params: Any = None,
        direction: str = "minimize",
        storage: str | None = None,
        n_trials: int = 20,
        n_jobs: int = 1,
        sampler: Any = None,
        pruner: Any = None,
    ) -> None:
        self.params, self.direction, self.storage = dict(params or {}), direction, storage
        self.n_trials, self.n_jobs, self.sampler, self.pruner = n_trials, n_jobs, sampler, pruner

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the missing trials; returns the best trial's parameters and value, or None."""
        from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        space, fixed = create_params_from_overrides([*(f"{k}={v}" for k, v in self.params.items()), *arguments])
        if not space:
            raise UserError("an Optuna sweep needs a search space: give key=interval(a,b) or choice(...) for some key")
        study = self._study(folder)
        missing = self.n_trials - len(_finished(study))
        print(f"study {study.study_name}: {len(_finished(study))} of {self.n_trials} trials finished", file=sys.stderr)
        self._again(study, missing)
        while missing > 0:
            count = min(self.n_jobs, missing)
            self._batch(study, folder, space, fixed, count)
            missing -= count
        return self._report(study, folder)

    def _study(self, folder: Path) -> Any:
        import optuna

        study = optuna.create_study(
            study_name=folder.name,
            storage=self._url(folder),
            sampler=self.sampler,
            pruner=self.pruner,
            direction=self.direction,
            load_if_exists=True,
        )
        state = optuna.trial.TrialState
        for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            study.tell(trial.number, state=state.FAIL)
        return study

    def _again(self, study: Any, missing: int) -> None:
        """Enqueue the parameters of trials that failed or were interrupted."""
        from optuna.trial import TrialState

        trials = study.trials
        known = [t.params or t.system_attrs.get("fixed_params") for t in trials if t.state != TrialState.FAIL]
        missing -= sum(t.state == TrialState.WAITING for t in trials)
        for trial in trials:
            if missing > 0 and trial.state == TrialState.FAIL and trial.params and trial.params not in known:
                study.enqueue_trial(trial.params)
                known.append(trial.params)
                missing -= 1

    def _url(self, folder: Path) -> str:
        return self.storage or f"sqlite:///{folder / 'study.db'}"

    def _batch(self, study: Any, folder: Path, space: dict[str, Any], fixed: dict[str, Any], count: int) -> None:
        trials = [study.ask(space) for _ in range(count)]
        for trial in trials:
            place = folder / str(trial.number)
            place.mkdir(parents=True, exist_ok=True)
            link = {"storage": self._url(folder), "study": study.study_name, "trial": trial.number}
            write_json(place / TRIAL_FILE, link)
        overrides = [tuple(f"{k}={v}" for k, v in {**trial.params, **fixed}.items()) for trial in trials]
        assert self.launcher is not None
        returns = self.launcher.launch(overrides, initial_job_idx=trials[0].number)
        for trial, job in zip(trials, returns, strict=True):
            self._tell(study, trial, folder / str(trial.number), job)

    def _tell(self, study: Any, trial: Any, place: Path, job: Any) -> None:
        from optuna.trial import TrialState

        note = read_job(place) or {}
        try:
            value = float(job.return_value)
        except Exception as error:
            reason = note.get("error") or f"{error}"
            print(f"trial {trial.number} failed: {' '.join(str(reason).split())[:300]}", file=sys.stderr)
            study.tell(trial, state=TrialState.FAIL)
            return
        if note.get("state") == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        elif value != value:
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, value)

    def _report(self, study: Any, folder: Path) -> Any:
        from optuna.trial import TrialState

        trials = study.trials
        failed = sum(t.state == TrialState.FAIL for t in trials)
        pruned = sum(t.state == TrialState.PRUNED for t in trials)
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        summary: dict[str, Any] = {"complete": len(complete), "pruned": pruned, "failed": failed, "best": None}
        if complete:
            best = study.best_trial
            summary["best"] = {"trial": best.number, "value": best.value, "params": best.params}
        (folder / "study.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(summary)), encoding="utf-8")
        print(f"study {study.study_name}: {len(complete)} complete, {pruned} pruned, {failed} failed", file=sys.stderr)
        if summary["best"]:
            print(f"best: trial {best.number}, {best.value:.6g} with {best.params}", file=sys.stderr)
        return summary["best"]


def _finished(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


class Pruner(pl.Callback):
    """Reports the monitored validation metric to the study and stops the trial when the study's pruner says so.

    Args:
        folder: the job's folder with `trial.json`.
        monitor: name of the metric.
    """

    def __init__(self, folder: str | Path, monitor: str) -> None:
        self.link = json.loads((Path(folder) / TRIAL_FILE).read_text(encoding="utf-8"))
        self.monitor = monitor
        self.pruned: tuple[float, int] | None = None

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics or trainer.state.fn != "fit":
            return
        value, step = float(trainer.callback_metrics[self.monitor]), trainer.global_step
        stop = trainer.is_global_zero and step < trainer.max_steps and self._hopeless(value, step)
        if trainer.strategy.broadcast(stop):
            self.pruned = (value, step)
            trainer.should_stop = True

    def _hopeless(self, value: float, step: int) -> bool:
        import optuna

        study = optuna.load_study(study_name=self.link["study"], storage=self.link["storage"], pruner=self._pruner())
        number = self.link["trial"]
        trial = optuna.trial.Trial(study, study.trials[number]._trial_id)
        trial.report(value, step)
        return bool(trial.should_prune())

    def _pruner(self) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.utils import instantiate

        return instantiate(HydraConfig.get().sweeper.pruner) if HydraConfig.initialized() else None

    def finish(self) -> None:
        """Raise `Pruned` if the study pruned the trial."""
        if self.pruned is not None:
            raise Pruned(*self.pruned)


def pruner_here(monitor: str | None, mode: str | None = "min") -> Sequence[Pruner]:
    """Return the pruner of the running Hydra job if it is a trial of a study, else None.

    Raises:
        UserError: the study minimises a metric that is better when larger, or the reverse.
    """
    from hydra.core.hydra_config import HydraConfig

    if monitor is None or not HydraConfig.initialized() or HydraConfig.get().runtime is None:
        return ()
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not (folder / TRIAL_FILE).is_file():
        return ()
    wanted = "maximize" if mode == "max" else "minimize"
    direction = str(HydraConfig.get().sweeper.direction)
    several = "stage=pipeline" in HydraConfig.get().overrides.task  # whose trainings have monitors of their own
    if direction != wanted and not several:
        raise UserError(
            f"hydra.sweeper.direction={direction}, but fit.mode={mode} says that {monitor} is better the other way: "
            f"hydra.sweeper.direction={wanted}"
        )
    return (Pruner(folder, monitor),)
