"""List, download, verify or convert weights: oodgan weights list|fetch NAME|verify|convert FILE

    oodgan weights list                        names, licences, what needs them
    oodgan weights fetch mobile_ffhq           download, compare sha256, unpack (fetch all: everything)
    oodgan weights verify                      compare the cached files with their recorded hashes
    oodgan weights convert psp_ffhq_encode.pt output=psp_ffhq

Weights are stored in $OODGAN_CACHE (default ~/.cache/oodgan). Without a network, put the archives that `list`
names into a folder named by OODGAN_ARCHIVES.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from oodgan.errors import UserError, unknown
from oodgan.reporting.terminal import console
from oodgan.weights.fetch import fetch, folder_of, verify
from oodgan.weights.registry import REGISTRY, SHIPPED, entry

READS = ()
POSITIONAL = ("action", "*name")


def run(cfg: DictConfig) -> dict[str, Any]:
    """Run `cfg.action`. The exit code is 1 if a file is damaged."""
    actions = {"list": _list, "fetch": _fetch, "verify": _verify, "convert": _convert}
    if cfg.action not in actions:
        raise unknown("action", str(cfg.action), actions)
    names = [str(cfg.name)] if isinstance(cfg.name, str | int | float) else [str(name) for name in cfg.name or []]
    return actions[cfg.action](names, cfg)


def _list(names: Sequence[str], cfg: DictConfig) -> dict[str, Any]:
    table = Table("name", "version", "MB", "here", "licence", "use")
    table.columns[0].no_wrap = True
    table.columns[0].min_width = max(map(len, REGISTRY))
    for name in _known(names):
        item = entry(name)
        here = "yes" if folder_of(item).is_dir() else "no"
        table.add_row(name, item.version, f"{item.size / 1e6:.1f}", here, item.licence, item.use)
    for path in sorted(SHIPPED.glob("*.safetensors")) if not names else []:
        table.add_row(path.stem, "shipped", f"{path.stat().st_size / 1e6:.1f}", "yes", *_shipped(path))
    console().print(table)
    return {"weights": len(table.rows)}


def _shipped(path: Path) -> tuple[str, str]:
    """Return licence and use of a shipped file, from its metadata."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    use = about.get("part", about.get("format", "")).strip('"')
    made = about.get("generator", "").strip('"')
    return "Apache-2.0 (made with FFHQ-trained networks: non-commercial research)", f"{use} for {made}" if made else use


def _fetch(names: Sequence[str], cfg: DictConfig) -> dict[str, Any]:
    if not names:
        raise UserError(f"fetch what? oodgan weights fetch NAME, or fetch all; known: {', '.join(REGISTRY)}")
    for name in _known(names):
        if verify(name).startswith("damaged"):
            shutil.rmtree(folder_of(entry(name)))
        print(f"{name}: {fetch(name)}")
    return {}


def _verify(names: Sequence[str], cfg: DictConfig) -> dict[str, Any]:
    states = {name: verify(name) for name in _known(names)}
    for name, state in states.items():
        hint = f"; oodgan weights fetch {name} replaces it" if state.startswith("damaged") else ""
        print(f"{name:<20} {state}{hint}")
    damaged = sum(state.startswith("damaged") for state in states.values())
    return {"exit_code": int(damaged > 0), "damaged": damaged}


def _convert(names: Sequence[str], cfg: DictConfig) -> dict[str, Any]:
    from oodgan.conversion.convert import convert

    if len(names) != 1:
        raise UserError("convert one checkpoint file: oodgan weights convert FILE output=FOLDER")
    source = Path(names[0]).expanduser()
    output = Path(str(cfg.output)).expanduser() if cfg.output else Path(source.stem)
    print(f"written: {convert(source, output, cfg.to, bool(cfg.get('replace', False)))}")
    return {}


def _known(names: Sequence[str]) -> list[str]:
    if not names or list(names) == ["all"]:
        return list(REGISTRY)
    return [entry(name).name for name in names]
