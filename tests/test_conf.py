"""Every option of every config group composes, and its `_target_` accepts its keys."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from oodgan.cli import stage_names
from oodgan.launch import compose, config_folder

CONF = config_folder()


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


# Groups that other groups place below their own keys.
PLACED = {"optimizer": "optimizer@diffcam.fit.module.optimizer", "scheduler": "scheduler@diffcam.fit.module.scheduler"}
ELSEWHERE = ("stage", "experiment", "hydra", "fit", "loader")
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ELSEWHERE)
CHOICES = [f"{PLACED.get(group, group)}={option}" for group in GROUPS for option in options(group)]
# Keys next to a `_target_` that are not passed to it: a loss's weight, a schedule's interval, our own trainer keys.
TAKEN = {"losses": {"weight", "inputs"}, "scheduler": {"interval", "monitor"}, "trainer": {"compile", "channels_last"}}
TAKEN["discriminator"] = {"weights"}


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and value of every part of a config that has a `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from targets(value, f"{path}[{i}]")


def check(cfg: Any) -> int:
    count = 0
    for path, part in targets(OmegaConf.to_container(cfg, resolve=False)):
        made = get_object(part["_target_"])
        takes = inspect.signature(made).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            taken = set().union(*(keys for name, keys in TAKEN.items() if name in path.split(".")))
            unknown = {key for key in part if not key.startswith("_")} - set(takes) - taken
            assert not unknown, f"{path}: {part['_target_']} takes no {', '.join(sorted(unknown))}"
        count += 1
    return count


@pytest.mark.parametrize("stage", options("stage"))
def test_every_stage_composes(stage: str) -> None:
    assert stage in stage_names(), "this config has no stage"
    cfg = compose(stage)
    assert cfg.stage == stage and check(cfg) > 4


def test_every_stage_of_the_command_has_a_config() -> None:
    assert set(stage_names()) == set(options("stage"))


@pytest.mark.parametrize("recipe", options("experiment"))
def test_every_recipe_composes_with_the_pipeline(recipe: str) -> None:
    cfg = compose("pipeline", [f"experiment={recipe}"])
    check(cfg)
    assert cfg.run and cfg.seed == 0
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_composes_and_its_targets_accept_its_keys(choice: str) -> None:
    cfg = compose("pipeline", [choice])
    check(cfg)
    group, _, option = choice.partition("=")
    path = CONF / group.partition("@")[0] / f"{option}.yaml"
    assert OmegaConf.load(path), "the option is empty"


@pytest.mark.parametrize(
    "group", ["generator", "inverter", "transfer", "directions", "diffcam", "compose", "deghoster", "data"]
)
def test_every_config_starts_with_a_description(group: str) -> None:
    for option in options(group):
        if group != "compose" or (CONF / group / f"{option}.yaml").stat().st_size:
            assert (CONF / group / f"{option}.yaml").read_text().startswith("#"), option


def test_recipes_only_change_existing_keys() -> None:
    """A misspelt key in a recipe would be added silently, so every key must also exist without the recipe."""
    for recipe in options("experiment"):
        made = OmegaConf.load(CONF / "experiment" / f"{recipe}.yaml")
        raw = {key: value for key, value in OmegaConf.to_container(made).items() if key != "defaults"}
        chosen = [
            f"{key.removeprefix('override /')}={value}"
            for entry in made.get("defaults", [])
            if isinstance(entry, dict) or OmegaConf.is_dict(entry)
            for key, value in dict(entry).items()
        ]
        plain = OmegaConf.to_container(compose("pipeline", chosen))
        assert not list(_unknown_keys(raw, plain, recipe))


_FREE = {"edits", "refine", "encoder", "network", "discriminator"}  # arguments of a constructor: see check()


def _unknown_keys(node: Any, known: Any, path: str) -> Iterator[str]:
    for key, value in node.items():
        if key not in known:
            if path.rpartition(".")[2] not in _FREE:
                yield f"{path}.{key}"
        elif isinstance(value, dict) and isinstance(known[key], dict):
            yield from _unknown_keys(value, known[key], f"{path}.{key}")


def test_the_config_folder_is_an_absolute_path_with_the_root_config() -> None:
    assert (CONF / "config.yaml").is_file() and Path(CONF).is_absolute()


def test_every_group_is_read_by_a_stage() -> None:
    """A stage lists the groups that it reads in `READS`; overrides of other groups are refused."""
    from oodgan.command.checks import groups
    from oodgan.command.usage import constant

    read = {group for stage in stage_names() for group in constant(stage, "READS")}
    assert read == set(groups(CONF)), "add a new group to READS of the stages that use it"


def test_parts_of_the_tiny_experiment_can_be_built() -> None:
    from oodgan.deghost.remover import build_network
    from oodgan.directions import build as build_bank
    from oodgan.generators import build as build_generator
    from oodgan.inversion.inverter import build_encoder

    cfg = compose("pipeline", ["experiment=tiny"])
    generator = build_generator(cfg.generator)
    assert generator.resolution == 32 and build_generator(cfg.generator).id == generator.id
    assert len(build_bank(cfg.directions, generator)) == cfg.directions.count
    assert build_encoder(cfg.inverter, generator).num_ws == generator.num_ws
    assert build_network(cfg.deghoster, generator).size == 32
