"""The command: `oodgan <stage> key=value ...`, `-m` for sweeps.

Nothing heavy is imported before a stage is known, so that `oodgan --help` answers at once.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

from oodgan import __version__
from oodgan.errors import UserError, nearest

_USAGE = """\
usage: oodgan STAGE [key=value ...]        one run
       oodgan STAGE -m key=a,b ...         a sweep over values
       oodgan STAGE --help                 the stage's keys
       oodgan --version

stages:
{stages}
examples:
  oodgan edit photo.jpg 'edits={{smile: 1.0}}' output=edited
  oodgan diffcam experiment=demo trainer=gpu
  oodgan diffcam -m diffcam.fit.lr=1e-4,3e-4 seed=1,2
"""

_TAKES_A_WORD = ("--cfg", "-c", "--package", "-p", "--info", "-i", "--config-dir", "-cd")  # options of Hydra


def stage_names() -> list[str]:
    """The stages that exist: the modules of `oodgan.stages`."""
    folder = Path(__file__).parent / "stages"
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def _parsed(stage: str) -> ast.Module:
    """A stage's source, read without importing it."""
    return ast.parse((Path(__file__).parent / "stages" / f"{stage}.py").read_text(encoding="utf-8"))


def _summary(stage: str) -> str:
    return (ast.get_docstring(_parsed(stage)) or "").partition("\n")[0]


def stage_usage(stage: str) -> str:
    """The text of `oodgan STAGE --help`: the stage's docstring and its keys as its config file explains them."""
    parts = [ast.get_docstring(_parsed(stage)) or stage]
    conf = next((f for f in _conf_folders() if (f / "config.yaml").is_file()), None)
    own = conf / "stage" / f"{stage}.yaml" if conf else None
    if own is not None and own.is_file():
        lines = own.read_text(encoding="utf-8").splitlines()
        cut = lines.index("hydra:") if "hydra:" in lines else len(lines)
        keys = [line for line in lines[:cut] if not line.startswith(("#", "stage:"))]
        parts += ["keys:\n" + "\n".join(f"  {line}" for line in keys)] if keys else []
    if conf is not None:
        shown = (
            "generator",
            "inverter",
            "transfer",
            "directions",
            "diffcam",
            "compose",
            "deghoster",
            "data",
            "trainer",
            "experiment",
        )
        options = {group: sorted(path.stem for path in (conf / group).glob("*.yaml")) for group in shown}
        parts.append("choices:\n" + "\n".join(f"  {g}={'|'.join(names)}" for g, names in options.items() if names))
    return "\n\n".join(parts) + "\n"


def _conf_folders() -> tuple[Path, Path]:
    here = Path(__file__).resolve().parent
    return here / "conf", here.parents[1] / "conf"


def positional(stage: str, words: list[str]) -> list[str]:
    """Turn plain words into overrides, by the stage's `POSITIONAL`: names in order, the last `*name` takes the rest.

    Words that hold `=` (and are no file) or begin with `-`, `+` or `~` are overrides and options, and stay as they are.

    Raises:
        UserError: more words than the stage takes.
    """
    names = _positional_names(stage)
    plain: list[str] = []
    rest: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        assigns = "=" in word and not os.path.exists(word)  # a photo's name may hold a = too
        kept = assigns or word.startswith(("-", "+", "~")) or before in _TAKES_A_WORD
        (rest if kept else plain).append(word)
    found: list[str] = []
    for name in names:
        if name.startswith("*"):
            found += [f"{name[1:]}=[{','.join(map(_quoted, plain))}]"] if plain else []
            plain = []
        elif plain:
            found.append(f"{name}={_quoted(plain.pop(0))}")
    if plain:
        known = f"takes {' '.join(names)}" if names else "takes key=value only"
        raise UserError(f"oodgan {stage}: what is {plain[0]!r}? This stage {known}; see oodgan {stage} --help")
    return found + rest


def _positional_names(stage: str) -> tuple[str, ...]:
    for node in _parsed(stage).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "POSITIONAL":
            return tuple(ast.literal_eval(node.value))
    return ()


def _quoted(word: str) -> str:
    # Hydra's quoted strings escape the quote, and backslashes only right before one.
    tail = len(word) - len(word.rstrip("\\"))
    word = word + "\\" * tail
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", word) + "'"


def usage() -> str:
    """The text of `oodgan --help`."""
    return _USAGE.format(stages="".join(f"  {stage:<12}{_summary(stage)}\n" for stage in stage_names()))


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (some of many failed) or 2 (a user's mistake)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        raise SystemExit(0)
    if arguments[0] == "--version":
        print(f"oodgan {__version__}")
        raise SystemExit(0)
    stage, *overrides = arguments
    try:
        if stage not in stage_names():
            raise UserError(f"unknown stage {stage!r}{nearest(stage, stage_names())}; see oodgan --help")
        if any(word in ("-h", "--help") for word in overrides):
            print(stage_usage(stage))
            raise SystemExit(0)
        raise SystemExit(_run(stage, positional(stage, overrides)))
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, run the same command again to go on", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def _run(stage: str, overrides: list[str]) -> int:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hydra otherwise prints tracebacks itself and exits with 1
    from oodgan import launch

    return launch.run(stage, overrides)
