"""What a `_target_` names, and which keywords it takes."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any

from oodgan.errors import UserError

_HANDS_ON = {
    "DDPStrategy": "torch.nn.parallel.DistributedDataParallel",
    "FSDPStrategy": "torch.distributed.fsdp.FullyShardedDataParallel",
    "WandbLogger": "wandb.init",
}
"""Classes of Lightning that hand further keywords on, and to what."""

_OF_SUMMARY_WRITER = {"comment", "purge_step", "max_queue", "flush_secs", "filename_suffix"}


def named(key: str, target: str) -> Any:
    """Return the class or function that `key`, a `_target_`, names.

    Raises:
        UserError: there is none.
    """
    try:
        return pkgutil.resolve_name(target)
    except Exception as error:  # importing it may fail in any way
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{key}={target} is not found: {reason}") from error


def keywords(target: Callable[..., Any], further: Iterable[str] = ()) -> set[str] | None:
    """Return the names of the keywords that a class or function accepts, and `further` ones; None: any."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    names = set(further) | {name for name, each in parameters.items() if each.kind is not each.VAR_KEYWORD}
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return names
    kind = getattr(target, "__name__", "")
    if kind == "TensorBoardLogger":  # to a class of a package that may not be installed
        return names | _OF_SUMMARY_WRITER
    return keywords(named(kind, _HANDS_ON[kind]), names) if kind in _HANDS_ON else None
