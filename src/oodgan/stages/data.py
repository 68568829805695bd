"""Check or convert a data set: oodgan data check SOURCE, oodgan data convert SOURCE to=PLACE

    oodgan data check faces/                                    damage, sizes, duplicates, alignment, split
    oodgan data check CelebAMask-HQ data=celebamask             with CelebA-HQ's official split
    oodgan data convert ffhq.zip to=ffhq256 side=256            tar shards of 1000 images of 256 px
    oodgan data convert CelebAMask-HQ to=celeba.lmdb side=512   with masks and labels; also .zip and .parquet
    oodgan data convert shards/ to=faces kind=folder            images/, masks/ and labels.json

SOURCE is a folder of images, a zip archive (NVlabs' dataset_tool's too), WebDataset's tar shards, LMDB, parquet or
Arrow files, or CelebAMask-HQ as it is distributed. Damaged images are listed; `check` then ends with exit
code 1, and `convert` leaves them out. Names are kept, and with them the split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from oodgan.errors import UserError, unknown

POSITIONAL = ("action", "input")
ACTIONS = ("check", "convert")


def run(cfg: DictConfig) -> dict[str, Any]:
    """Run `cfg.action` on the data set `cfg.input`."""
    if cfg.action not in ACTIONS:
        raise unknown("action", str(cfg.action), ACTIONS)
    if cfg.input in (None, ""):
        raise UserError(f"{cfg.action} what? oodgan data {cfg.action} FOLDER_OR_FILE")
    return _check(cfg) if cfg.action == "check" else _convert(cfg)


def _check(cfg: DictConfig) -> dict[str, Any]:
    from dataclasses import asdict

    from hydra.utils import instantiate
    from rich.table import Table

    from oodgan.data.checking import check, lines
    from oodgan.data.opening import open_source
    from oodgan.files import write_json
    from oodgan.reporting.terminal import console
    from oodgan.training.progress import track

    source = open_source(str(cfg.input), check=False)
    checked = check(
        source,
        instantiate(cfg.data.split),
        int(cfg.faces),
        lambda items, total: track(items, "data: check", total, unit="images"),
    )
    table = Table("", str(cfg.input))
    for row in lines(checked):
        table.add_row(*row)
    console().print(table)
    for name, reason in list(checked.damaged.items())[:20]:
        console().print(f"damaged: {name}: {reason}", soft_wrap=True)
    if cfg.to:
        sizes = {f"{w}x{h}": n for (w, h), n in checked.sizes.items()}
        write_json(Path(str(cfg.to)).expanduser(), {**asdict(checked), "sizes": sizes})
    return {"exit_code": int(bool(checked.damaged or checked.masks_damaged)), "images": checked.images}


def _convert(cfg: DictConfig) -> dict[str, Any]:
    from oodgan.data.conversion import convert
    from oodgan.data.opening import open_source
    from oodgan.training.progress import track

    if not cfg.to:
        raise UserError("convert to where? to=FOLDER (tar shards), or to=FILE.zip, FILE.lmdb or FILE.parquet")
    count = convert(
        open_source(str(cfg.input)), str(cfg.to), cfg.kind, cfg.side, str(cfg.form), int(cfg.quality),
        int(cfg.per_shard), bool(cfg.replace),
        lambda items, total: track(items, "data: convert", total, unit="images"),
    )  # fmt: skip
    print(f"written: {cfg.to} ({count} images)")
    return {"images": count}
