"""Where tables and messages with people's own names are printed."""

from __future__ import annotations

from rich.console import Console


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets and colons in the names of files and runs are no markup."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)
