"""The texts of `oodgan --help` and `oodgan STAGE --help`, from the stages' sources and the config files.

Nothing heavy is imported, so that help is fast.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import yaml

_PACKAGE = Path(__file__).resolve().parents[1]
_STAGES = _PACKAGE / "stages"
_USAGE = """\
usage: oodgan STAGE [key=value ...]        one run
       oodgan STAGE -m key=a,b ...         a sweep over values
       oodgan STAGE --help                 the stage's keys and choices
       oodgan STAGE config=FOLDER          what an earlier run was configured to, once more; other words go before it
       oodgan STAGE --cfg job              the composed configuration (Hydra's options work in any place: --hydra-help)
       oodgan --shell-completion bash      completion of words, also for zsh and fish: eval "$(...)", or ... | source
       oodgan --version

stages:
{stages}
examples:
  oodgan edit photo.jpg 'edits={{smile: 1.0}}' output=edited
  oodgan diffcam experiment=demo trainer=gpu
  oodgan diffcam -m diffcam.fit.lr=1e-4,3e-4 seed=1,2
"""


def usage() -> str:
    """The text of `oodgan --help`."""
    return _USAGE.format(stages="".join(f"  {stage:<12}{_summary(stage)}\n" for stage in stage_names()))


def stage_names() -> list[str]:
    """Return the names of the stages: the modules of `oodgan.stages`."""
    return sorted(path.stem for path in _STAGES.glob("*.py") if not path.stem.startswith("_"))


def config_folders() -> tuple[Path, Path]:
    """Possible folders of the configs: inside the package if installed from a wheel, beside `src` in a checkout."""
    return _PACKAGE / "conf", _PACKAGE.parents[1] / "conf"


def constant(stage: str, name: str) -> tuple[str, ...]:
    """Return the tuple of strings assigned to `name` in a stage's module, without importing it; empty if absent."""
    for node in _parsed(stage).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return tuple(ast.literal_eval(node.value))
    return ()


def stage_usage(stage: str, words: Sequence[str] = ()) -> str:
    """The text of `oodgan STAGE --help`: its docstring, all keys with their comments, all choices of all groups.

    `words` may choose options (`diffcam=paper`), whose keys are then shown, and folders of configs (`--config-dir X`).
    """
    parts = [ast.get_docstring(_parsed(stage)) or stage]
    conf = next((f for f in config_folders() if (f / "config.yaml").is_file()), None)
    if conf is None:
        return "\n\n".join(parts) + "\n"
    own = _text(conf / "stage" / f"{stage}.yaml")
    parts += ["keys:\n" + _indented(own)] if own else []
    chosen = _defaults(conf) | {w.partition("=")[0]: w.partition("=")[2] for w in words if "=" in w}
    for group in constant(stage, "READS"):
        option = chosen.get(group, "")
        text = _text(conf / group / f"{option}.yaml")
        if text:
            parts.append(f"{group}={option}, keys {group}.KEY:\n" + _indented(text))
        for base, places in _bases(conf, conf / group / f"{option}.yaml", group).items():
            keys = ", ".join(f"{place}.KEY" for place in places)
            parts.append(f"from {base.parent.name}/{base.stem}, keys {keys}:\n" + _indented(_text(base)))
    parts.append("keys of every stage:\n" + _indented(_text(conf / "config.yaml")))
    folders = [conf, *_config_dirs(words)]
    parts.append("choices:\n" + "\n".join(f"  {g}={'|'.join(names)}" for g, names in _options(folders).items()))
    return "\n\n".join(parts) + "\n"


def _summary(stage: str) -> str:
    return (ast.get_docstring(_parsed(stage)) or "").partition("\n")[0]


def _parsed(stage: str) -> ast.Module:
    return ast.parse((_STAGES / f"{stage}.py").read_text(encoding="utf-8"))


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _text(path: Path) -> str:
    """Return the keys of a config file with their comments, without those of Hydra."""
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept: list[str] = []
    skipping = False
    for line in lines:
        if line and not line.startswith((" ", "#")):
            skipping = line.startswith(("defaults:", "hydra:", "stage:"))
        if not skipping and line.strip() and not line.startswith("# @package"):
            kept.append(line)
    return "\n".join(kept) if any(not line.startswith("#") for line in kept) else ""


def _bases(conf: Path, path: Path, place: str) -> dict[Path, list[str]]:
    """Return the base files in an option's defaults list, each with the places of its keys."""
    bases: dict[Path, list[str]] = {}
    if not path.is_file():
        return bases
    for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", ()):
        for base, where in _begins(conf, path, place, entry):
            bases.setdefault(base, []).append(where)
            for further, places in _bases(conf, base, where).items():
                bases.setdefault(further, []).extend(places)
    return bases


def _begins(conf: Path, path: Path, place: str, entry: str | dict[str, str]) -> list[tuple[Path, str]]:
    """Return files and places of one entry of a defaults list: `light`, or `/fit@fit.codes: default`."""
    if isinstance(entry, str):
        return [] if entry == "_self_" else [(path.with_name(f"{entry}.yaml"), place)]
    bases = []
    for key, option in entry.items():
        group, at, below = key.lstrip("/").partition("@")
        if at and not group.startswith("override"):
            bases.append((conf / group / f"{option}.yaml", place if below == "_here_" else f"{place}.{below}"))
    return bases


def _defaults(conf: Path) -> dict[str, str]:
    """{group: option} of the defaults list."""
    lines = (conf / "config.yaml").read_text(encoding="utf-8").partition("defaults:")[2].splitlines()
    pairs = [line.partition("#")[0].strip().lstrip("- ").partition(":") for line in lines if line.startswith("  - ")]
    return {group.strip(): option.strip() for group, colon, option in pairs if colon}


def _config_dirs(words: Sequence[str]) -> list[Path]:
    pairs = zip(words, [*words[1:], ""], strict=False)
    return [Path(after) for word, after in pairs if word in ("--config-dir", "-cd")]


def _options(folders: Sequence[Path]) -> dict[str, list[str]]:
    by_group: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            by_group.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(by_group.items()) if group != "stage"}
