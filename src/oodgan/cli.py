"""The command: `oodgan <stage> key=value ...`, `-m` for sweeps.

Nothing heavy is imported before a stage is known, so that `oodgan --help` answers at once.
"""

from __future__ import annotations

import ast
import os
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
  oodgan edit input=photo.jpg 'edits={{smile: 1.0}}' output=edited
  oodgan diffcam experiment=demo trainer=gpu
  oodgan diffcam -m diffcam.fit.lr=1e-4,3e-4 seed=1,2
"""


def stage_names() -> list[str]:
    """The stages that exist: the modules of `oodgan.stages`."""
    folder = Path(__file__).parent / "stages"
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def _summary(stage: str) -> str:
    """First line of a stage's docstring, read without importing it."""
    source = (Path(__file__).parent / "stages" / f"{stage}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


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
        raise SystemExit(_run(stage, overrides))
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
