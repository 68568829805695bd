"""The exception for mistakes of the user, and messages that suggest the right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct. The command prints it as one line and exits with code 2.

    The message names what is wrong, the value, and what would be right.
    """


def nearest(word: str, words: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the word closest to `word`, or `""` when none is close.

    >>> nearest("smlie", ["smile", "beard"])
    " (did you mean 'smile'?)"
    >>> nearest("zzz", ["smile", "beard"])
    ''
    """
    close = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, word: str, words: Iterable[str]) -> UserError:
    """Return the error for an unknown name, with the nearest and all known names.

    >>> str(unknown("direction", "smlie", ["beard", "smile"]))
    "unknown direction 'smlie' (did you mean 'smile'?); known: beard, smile"
    """
    known = sorted(str(w) for w in words)
    return UserError(f"unknown {kind} {word!r}{nearest(word, known)}; known: {', '.join(known) or 'none'}")
