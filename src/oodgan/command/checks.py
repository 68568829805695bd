"""Checks a composed configuration before a stage runs: every key exists, every value has the right type.

The type of a key follows from its values in the shipped configs: if these are numbers, a number is expected. Types that
the configs do not show are listed in `oodgan.command.keys`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from oodgan.command import keys, targets
from oodgan.command.words import readable
from oodgan.errors import UserError, nearest, unknown

_NO_GROUPS = ("stage", "experiment", "debug", "hparams_search", "hydra")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # OmegaConf's own takes eight times as long
_OF_WEIGHTS = ("root", "folder", "cache", "run", "sweep")  # safetensors opens only files with UTF-8 names
_ADDRESSES = ("root", "folder", "output", "cache")


def checked(cfg: DictConfig, conf: Path) -> DictConfig:
    """Check every key and value of `cfg`; return it with values converted to text or lists if these are expected.

    `conf` is the folder of the shipped configs.

    Raises:
        UserError: for the first key that is not used or has a value of the wrong type.
    """
    made = cfg.copy()
    with open_dict(made):
        _rename(made)
        known = shipped(conf)
        _look_at(made, "", known)
        for key, taken in _strange(OmegaConf.to_container(made, resolve=False), "", known):  # type: ignore[arg-type]
            raise UserError(f"unknown key {key}{nearest(key, [*known, *taken])}: leave it out, or correct its name")
    return made


# The shipped configs


@functools.lru_cache(maxsize=2)
def shipped(conf: Path) -> dict[str, list[Any]]:
    """{dotted key: its values in the shipped configs}, of all stages and choices together."""
    values_of: dict[str, list[Any]] = {}
    for path in sorted([conf / "config.yaml", *conf.glob("*/*.yaml")]):
        group = path.parent.name if path.parent != conf else ""
        if group == "hydra":
            continue
        text = path.read_text(encoding="utf-8")
        everywhere = "# @package _global_" in text.partition("\n")[0]
        plain = yaml.load(text, Loader=_LOADER)
        if isinstance(plain, dict):
            prefix = "" if everywhere else f"{group}." if group else ""
            for place, other in _placed(plain.pop("defaults", None) or []):
                below = prefix if place == "_here_" else f"{prefix}{place}."
                _note({below.rstrip("."): {}}, "", values_of)
                for option in conf.glob(f"{other}/*.yaml"):
                    values = yaml.load(option.read_text(encoding="utf-8"), Loader=_LOADER) or {}
                    _note({k: v for k, v in values.items() if k != "defaults"}, below, values_of)
            plain.pop("hydra", None)
            _note(plain, prefix, values_of)
    return values_of


def _placed(defaults: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield (place, group) of entries of a defaults list that insert another group: `/fit@fit.codes: x`."""
    for entry in defaults:
        for name in entry if isinstance(entry, dict) else ():
            other, at, place = str(name).removeprefix("override ").lstrip("/").partition("@")
            if at:
                yield place, other


def groups(conf: Path) -> list[str]:
    """Return the config groups of the defaults list, without Hydra's own, stages and experiments."""
    named = yaml.safe_load((conf / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return [group for entry in named if isinstance(entry, dict) for group in entry if group not in _NO_GROUPS]


def _note(node: Mapping[Any, Any], prefix: str, values_of: dict[str, list[Any]]) -> None:
    for name, value in node.items():
        values_of.setdefault(f"{prefix}{name}", []).append(value)
        if prefix and "." not in prefix.rstrip("."):  # a group itself, whose name a stage's key may have too
            values_of.setdefault(prefix.rstrip("."), []).append({})
        if isinstance(value, dict):
            _note(value, f"{prefix}{name}.", values_of)


# Values


def _rename(node: Any) -> None:
    """Restore keys of mappings as typed (`oodgan.command.words.translate` encodes characters beyond ASCII)."""
    if isinstance(node, DictConfig):
        for name in [name for name in node if readable(str(name)) != str(name)]:
            node[readable(str(name))] = node.pop(name)
    if isinstance(node, DictConfig | ListConfig):
        for _, child in _children(node):
            _rename(child)


def _children(node: DictConfig | ListConfig) -> Iterator[tuple[Any, Any]]:
    """Yield (name, value) of a node, without missing values and interpolations."""
    names = list(node) if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        if not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            yield name, node[name]


def _look_at(node: DictConfig, prefix: str, known: Mapping[str, list[Any]]) -> None:
    for name, value in _children(node):
        key = f"{prefix}{name}"
        fitting = _fitting(key, value, [v for v in known.get(key, []) if v is not None])
        if fitting is not value:
            node[name] = fitting
        elif isinstance(value, DictConfig):
            _look_at(value, f"{key}.", known)


def _fitting(key: str, value: Any, theirs: list[Any]) -> Any:
    """Return the value converted for its key; `theirs` are the values in the shipped configs."""
    if value is None:
        if key in (*keys.NEVER_NULL, "seed") or key.endswith((".max_steps", ".lr")):
            raise UserError(f"{key}=null: a value is needed, such as {theirs[0] if theirs else 'a name'}")
        return value
    if keys.is_text(key):
        return _text(key, value)
    if key.rpartition(".")[2].startswith("_"):  # _target_ and similar keys
        return value
    _among_choices(key, value)
    lists = [v for v in theirs if isinstance(v, list)]
    if (lists and len(lists) == len(theirs)) or key in keys.LISTS:
        return value if keys.among(key, keys.ANYTHING) else _list(key, value, lists)
    least = next((n for pattern, n in keys.LEAST.items() if keys.among(key, (pattern,))), None)
    if least is not None and isinstance(value, int | float) and value < least:
        raise UserError(f"{key}={value}: at least {least} is expected")
    if key in keys.MAPPINGS and not isinstance(value, DictConfig):
        raise UserError(f"{key}={value}: names with their values are expected, {key}={{name: value, other: value}}")
    if key in keys.FILES and isinstance(value, DictConfig):
        _fit_for_files(key, value)
    if not keys.among(key, keys.ANYTHING) and not keys.is_texts(key):
        _of_their_kind(key, value, [v for v in theirs if not _refers(v)])
    return value


def _fit_for_files(key: str, names: DictConfig) -> None:
    for name in map(str, names):
        if not name.strip() or name.startswith(".") or any(c in name for c in "/\\\0"):
            raise UserError(f"{key}: {name!r} names files: it must not contain / or \\ or start with a dot")


def _text(key: str, value: Any) -> str:
    if isinstance(value, DictConfig | ListConfig):
        raise UserError(f"{key}={value}: one name or path is expected")
    text = str(value)
    if not text.strip() and key in (*keys.NEVER_NULL, "output", "sweep"):
        raise UserError(f"{key}= is empty: a name is needed")
    if key in _ADDRESSES and "://" in text:
        raise UserError(f"{key}={text}: results are written to folders of this machine (mount the remote one), not to "
                        "addresses")  # fmt: skip
    if (key in _OF_WEIGHTS or key.endswith(".weights")) and not _is_utf8(text):
        raise UserError(f"{key}={text} is not UTF-8: the folder needs a UTF-8 name, because weights are stored in it")
    return value if isinstance(value, str) else text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _among_choices(key: str, value: Any) -> None:
    if isinstance(value, DictConfig):  # an object by its _target_
        return
    words = _strategies() if key == "trainer.strategy" and value not in ("auto", "ddp") else keys.choices(key)
    if words and (str(value).lower() if isinstance(value, bool) else str(value)) not in words:
        raise unknown(f"value of {key}:", str(value), words)


def _strategies() -> list[str]:
    """Lightning's names, and those that were registered with it; importing it takes seconds."""
    from pytorch_lightning.strategies import StrategyRegistry

    return ["auto", *StrategyRegistry.available_strategies()]


def _list(key: str, value: Any, theirs: list[list[Any]]) -> Any:
    """Convert to a list: a single value to a list of one, a text with commas to several."""
    if isinstance(value, DictConfig) and not any(isinstance(item, dict) for items in theirs for item in items):
        raise UserError(f"{key}={value}: a list is expected, {key}=[a,b]")
    if isinstance(value, ListConfig):
        items = list(value)
    elif isinstance(value, str):
        items = [part.strip() for part in value.split(",") if part.strip()]
    else:
        items = [value]
    kinds = [item for items in theirs for item in items]
    if keys.is_texts(key):
        items = [item if isinstance(item, str | None) else str(item) for item in items]
    else:
        for item in items:
            _of_their_kind(key, item, kinds)
    return value if isinstance(value, ListConfig) and items == list(value) else items


def _of_their_kind(key: str, value: Any, theirs: list[Any]) -> None:
    """Raise UserError if all shipped values of a key have one type, and this value has another."""
    if not theirs or _refers(value):
        return
    kinds = {_kind(v) for v in theirs}
    kind, example = _kind(value), next(iter(theirs))
    if kinds == {"whole number"} and kind == "number" and value == int(value):
        return
    if kinds == {"whole number", "number"}:
        kinds = {"number"}
    if len(kinds) > 1 or kind in kinds or (kinds == {"number"} and kind == "whole number"):
        return
    (wanted,) = kinds
    if wanted == "text" and kind in ("number", "whole number", "yes or no"):
        return  # words that look like numbers: precision=32
    shown = str(value) if not isinstance(value, bool) else str(value).lower()
    more = f", such as {example}" if wanted in ("number", "whole number", "text") else ""
    words = {"yes or no": "true or false", "mapping": "a mapping {name: value}", "list": "a list [a,b]"}
    raise UserError(f"{key}={shown}: {words.get(wanted, 'a ' + wanted)} is expected{more}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "yes or no"
    if isinstance(value, int):
        return "whole number"
    if isinstance(value, float) or (isinstance(value, str) and _is_number(value)):
        return "number"
    if isinstance(value, dict | DictConfig):
        return "mapping"
    return "list" if isinstance(value, list | ListConfig) else "text"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refers(value: Any) -> bool:
    return isinstance(value, str) and ("${" in value or value == "???")


# Keys


def _strange(node: Mapping[Any, Any], prefix: str, known: Mapping[str, list[Any]]) -> Iterator[tuple[str, list[str]]]:
    """Return the dotted keys that are not used, each with the keys that the `_target_` next to it accepts.

    Raises:
        UserError: a `_target_` of the user's own that cannot be imported.
    """
    target = str(node.get("_target_") or "")
    if target not in ["", *known.get(f"{prefix}_target_", [])] and not _refers(target):
        targets.named(f"{prefix}_target_", target)
    for name, value in node.items():
        key = f"{prefix}{name}"
        if str(name).startswith("_") or key in keys.OPEN:
            if isinstance(value, dict) and key == "callbacks":
                yield from _strange_entries(value, f"{key}.", known)
            continue
        added = keys.among(prefix.rstrip("."), keys.NAMED) and isinstance(value, dict) and "_target_" in value
        fine, taken = key in known or added, None
        if not fine and target:
            taken = targets.keywords(targets.named(f"{prefix}_target_", target), keys.further(prefix))
            fine = taken is None or name in taken
        elif not fine:
            fine = not prefix and _referred_to(name, node)
        if not fine:
            yield key, [f"{prefix}{other}" for other in taken or ()]
        elif isinstance(value, dict) and (_has_children(key, known) or "_target_" in value):
            yield from _strange(value, f"{key}.", known)


def _strange_entries(
    node: Mapping[Any, Any], prefix: str, known: Mapping[str, list[Any]]
) -> Iterator[tuple[str, list[str]]]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            if "_target_" not in value and f"{prefix}{name}" not in known:
                yield f"{prefix}{name}", []
            else:
                yield from _strange(value, f"{prefix}{name}.", known)


def _has_children(key: str, known: Mapping[str, list[Any]]) -> bool:
    return any(other.startswith(f"{key}.") for other in known)


def _referred_to(name: Any, whole: Mapping[Any, Any]) -> bool:
    """Return whether other values refer to a key: `${name}`, `${oc.select:name,...}`."""
    return bool(re.search(rf"\$\{{(oc\.select:)?{re.escape(str(name))}[.,}}\[]", str(whole)))
