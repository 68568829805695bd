"""The console for tables and messages that contain names of files and runs."""

from __future__ import annotations

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the caller handle a closed output; rich would exit with code 1."""
        raise


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: brackets and colons in the names of files and runs are no markup."""
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False)
