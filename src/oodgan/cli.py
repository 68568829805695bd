"""The command: `oodgan <stage> key=value ...`, `-m` for sweeps.

Heavy packages are imported only when a stage runs, so that `oodgan --help` is fast.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from oodgan.command import words
from oodgan.command.usage import constant, stage_names, stage_usage, usage
from oodgan.errors import UserError, nearest


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Exits with 0; 1 when some inputs of many failed, or for a bug; 2 for a mistake of the user; 130 for Ctrl-C, 143 for
    SIGTERM; 141 when the reader of the output has closed it.
    """
    _print_anything()
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("interrupted; finished results are kept, run the same command again to continue", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        _close_output()
        code = 141
    except Exception:
        _report_bug()
        code = 1
    raise SystemExit(code)


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("--complete", "--shell-completion", "-sc"):
        return _completion(arguments[0], arguments[1:])
    if "--version" in arguments:
        from oodgan.command.version import version_line

        print(version_line())
        return 0
    asks = any(word in ("-h", "--help") for word in arguments)
    options, rest = words.options([word for word in arguments if word not in ("-h", "--help")])
    if not rest and "--hydra-help" in options:
        rest = ["doctor"]  # Hydra's own text is the same for every stage
    if not rest:
        raise UserError("which stage? see oodgan --help")
    stage, *rest = rest
    if stage not in stage_names():
        raise UserError(f"unknown stage {stage!r}{nearest(stage, stage_names())}; see oodgan --help")
    if asks:
        print(stage_usage(stage, [*options, *rest]))
        return 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hydra otherwise prints tracebacks itself and exits with 1
    from oodgan import launch

    return launch.run(stage, [*options, *positional(stage, rest)])


def positional(stage: str, given: Sequence[str]) -> list[str]:
    """Turn positional arguments into overrides by the stage's `POSITIONAL`: names in order, `*name` takes the rest.

    Words with `=` that are not files, and words that start with `+` or `~`, are overrides already and are not changed.

    Raises:
        UserError: more arguments than the stage takes.
    """
    names = constant(stage, "POSITIONAL")
    plain: list[str] = []
    rest: list[str] = []
    for word in given:
        assigns = "=" in word and not os.path.exists(word)  # the name of a photo may contain =
        (rest if assigns or word.startswith(("+", "~")) else plain).append(word)
    overrides: list[str] = []
    for name in names:
        if name.startswith("*"):
            overrides += [f"{name[1:]}=[{','.join(map(words.quoted, plain))}]"] if plain else []
            plain = []
        elif plain:
            overrides.append(f"{name}={words.quoted(plain.pop(0))}")
    if plain:
        _cut_by_the_shell(rest)
        known = f"takes {' '.join(names)}" if names else "takes key=value only"
        raise UserError(f"oodgan {stage}: what is {plain[0]!r}? This stage {known}; see oodgan {stage} --help")
    return overrides + rest


def _cut_by_the_shell(overrides: Sequence[str]) -> None:
    """Raise the error for `edits={smile: 1}` without quotes, which the shell splits into two words."""
    for word in overrides:
        value = word.partition("=")[2]
        if value[:1] in ("{", "["):
            words.translate(word)


def _report_bug() -> None:
    """Print the traceback and, last, where the user will see it, the line that a bug report needs."""
    from oodgan.command.version import version_line

    traceback.print_exc()
    print(
        f"this is a bug in oodgan: please report the command, the lines above and this one: {version_line()}",
        file=sys.stderr,
    )


def _completion(option: str, rest: list[str]) -> int:
    from oodgan.command import completion

    if option == "--complete":
        candidates = completion.complete(rest[0] if rest else "")
        print("\n".join(candidates))
        return 0 if candidates else 1
    print(completion.script(rest[0] if rest else "bash"))
    return 0


def _print_anything() -> None:
    """Escape characters that the terminal cannot show, instead of failing when they are printed."""
    logging.raiseExceptions = False  # no traceback for each message when the output was closed
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # not a text stream of Python's own
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _close_output() -> None:
    """Close the output; otherwise Python would report the broken pipe again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
