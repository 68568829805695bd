"""Import torch and Lightning in three quarters of the time."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_frozen = False


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's garbage collector while the block imports; later ones skip the imported objects.

    Importing torch and Lightning makes 600,000 objects that live as long as the process. Searching them for garbage
    takes a quarter of the time of the imports, and a second more when the process ends. Only the first block of a
    process has this effect, so that no results of former jobs are kept.
    """
    global _frozen
    if _frozen or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        _frozen = True
