"""Rank variables are used only where those of one launcher are complete and consistent."""

from __future__ import annotations

import os

import pytest

from oodgan import ranks
from oodgan.errors import UserError

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "64",
    "LOCAL_WORLD_SIZE": "8", "RANK": "11", "LOCAL_RANK": "3",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "16",
}  # fmt: skip
ONE_TASK = {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "0"}
CHILD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "OODGAN_SPREAD": "1"}
KUBEFLOW = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "pod-0", "MASTER_PORT": "29500"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture
def set_variables(monkeypatch):
    """`set_variables(variables)`: set these launcher variables and remove all others."""

    def set_up(variables):
        for name in [n for n in os.environ if n.startswith("SLURM_") or n in (*TORCHRUN, *KUBEFLOW, ranks.SPREAD)]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_up


@pytest.mark.parametrize(
    ("variables", "rank", "place", "plugin"),
    [
        (TORCHRUN, 11, {"devices": 8, "num_nodes": 8}, "TorchElasticEnvironment"),
        (SRUN, 9, {"devices": 8, "num_nodes": 2}, "Step"),
        (ONE_TASK, 0, {}, "LightningEnvironment"),
        (CHILD, 1, {}, "LightningEnvironment"),
    ],
)
def test_a_complete_launcher_environment_is_used(set_variables, variables, rank, place, plugin):
    set_variables(variables)
    assert ranks.rank() == rank and ranks.placed() == place
    assert [type(p).__name__ for p in ranks.environments()] == [plugin]


@pytest.mark.parametrize(
    "variables",
    [
        KUBEFLOW,
        BATCH,
        {"RANK": "1"},
        {"LOCAL_RANK": "0"},
        {"SLURM_PROCID": "2", "SLURM_NTASKS": "1"},
        {**TORCHRUN, "RANK": "64"},
        {k: v for k, v in TORCHRUN.items() if k != "LOCAL_WORLD_SIZE"},
        {k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"},
        {**TORCHRUN, "WORLD_SIZE": "many"},
    ],
)
def test_leftover_launcher_variables_are_ignored_and_removed(set_variables, variables, capsys):
    set_variables(variables)
    assert ranks.world() is None and ranks.rank() == 0 and ranks.placed() == {}
    ranks.drop_strays()
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID"} & set(os.environ)
    output = capsys.readouterr().err
    assert output.count("note: ") == (output != "")


def test_a_missing_launcher_is_reported_once(set_variables, capsys):
    ranks._note.cache_clear()
    set_variables(BATCH)
    ranks.drop_strays()
    assert "SLURM gave this job 4 tasks, but srun did not start this command" in capsys.readouterr().err
    set_variables(KUBEFLOW)
    ranks.drop_strays()
    assert "RANK=1, WORLD_SIZE=2 are left in the environment" in capsys.readouterr().err
    set_variables(BATCH)
    ranks.drop_strays()
    assert capsys.readouterr().err == ""


def test_an_uneven_number_of_tasks_per_node_is_refused(set_variables):
    set_variables({**SRUN, "SLURM_STEP_NUM_TASKS": "15"})
    with pytest.raises(UserError, match="15 tasks on 2 nodes"):
        ranks.world()


def test_training_on_several_machines_needs_a_launcher(set_variables):
    from oodgan.training.engine import local_processes

    set_variables({})
    with pytest.raises(UserError, match="nodes=2"):
        local_processes({"num_nodes": 2, "devices": 1})
    assert local_processes({"devices": 3, "accelerator": "cpu"}) == 3
    set_variables(TORCHRUN)
    assert local_processes({"num_nodes": 8, "devices": 8}) == 1


def test_sweep_jobs_use_different_ports_instead_of_the_inherited_one(set_variables, monkeypatch):
    from oodgan.slurm import environment

    set_variables({**SRUN, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    assert environment().main_port == 29500, "set by the batch script"
    ports = []
    for number in ("7", "8"):
        set_variables({**SRUN, "SLURM_JOB_ID": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        ports.append(environment().main_port)
    assert ports == [12014, 12016] and os.environ["MASTER_PORT"] == "12016"
    assert environment().main_address == "n1"
