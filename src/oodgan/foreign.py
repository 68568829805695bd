"""Error handling for reading files of others: every error becomes one line that names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from oodgan.errors import UserError


@contextlib.contextmanager
def reading(path: str | Path | None, kind: str = "file") -> Iterator[None]:
    """Turn every error of the block into a `UserError` that begins with the kind and name of the file.

    Readers raise many kinds of errors for damaged and malicious files. A `UserError` of the block is kept, with the
    file's name prepended if it is not in the message. Without a path, only the kind is named.
    """
    label = kind if path is None else f"{kind} {path}"
    try:
        yield
    except UserError as error:
        if path is None or str(path) in str(error):
            raise
        raise UserError(f"{label}: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"no such {label}") from error
    except IsADirectoryError as error:
        raise UserError(f"{label} is a folder; a file is expected") from error
    except OSError as error:
        raise UserError(f"{label} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{label} needs more memory than is available; it may be damaged") from error
    except RecursionError as error:
        raise UserError(f"{label} cannot be read: it is nested too deeply") from error
    except Exception as error:
        raise UserError(f"{label} is damaged or has another format ({_brief(error)})") from error


def _brief(error: Exception) -> str:
    """Return the type of the error and the first line of its message, shortened."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
