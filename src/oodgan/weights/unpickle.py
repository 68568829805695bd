"""Reads pickles from untrusted sources safely: only allow-listed names are resolved."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oodgan.errors import UserError

NUMPY = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
    }
)


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that resolves only the names in `allow`, or the stand-ins given for names in `replace`."""

    def __init__(
        self,
        file: Any,
        allow: Iterable[tuple[str, str]] = NUMPY,
        replace: Mapping[tuple[str, str], Any] | None = None,
    ) -> None:
        super().__init__(file)
        self._allow = frozenset(allow)
        self._replace = dict(replace or {})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._replace:
            return self._replace[(module, name)]
        if (module, name) in self._allow:
            return super().find_class(_renamed(module), name)
        raise UserError(f"refused to load a pickle that asks for {module}.{name}: weights do not need it")


def _renamed(module: str) -> str:
    # numpy 2 keeps the old path only with a warning
    return module.replace("numpy.core", "numpy._core") if module.startswith("numpy.core") else module


def load_restricted(
    source: Path | str | bytes,
    allow: Iterable[tuple[str, str]] = NUMPY,
    replace: Mapping[tuple[str, str], Any] | None = None,
    name: str | None = None,
) -> Any:
    """Unpickle a file (or bytes, called `name` in errors) with an allow-list of (module, name) pairs.

    Raises UserError when the file is missing, or the pickle is damaged or asks for any other name.
    """
    name = name or ("the data" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from error
    try:
        return RestrictedUnpickler(io.BytesIO(data), allow, replace).load()
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # with damaged data, the allowed constructors can raise any error
        raise UserError(f"{name} is not a readable pickle: {type(error).__name__}") from error
