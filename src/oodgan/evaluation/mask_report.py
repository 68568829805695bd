"""The measured masks as a Markdown table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from oodgan.evaluation.intervals import number
from oodgan.reporting.tables import Table
from oodgan.tracking.sheet import sheet

if TYPE_CHECKING:
    from oodgan.evaluation.mask_quality import MaskQuality

HEADS = {
    "share_consistent_15": "mass in the 15 %",
    "iou_consistent_15": "IoU with it",
    "share_on_parts": "mass on the parts",
    "edit_kept": "edit kept",
    "area": "area",
    "named_right": "named right",
}
COLUMNS = (
    "Means and 95 % bootstrap intervals. *mass in the 15 %*: of the mask's mass, what lies on the 15 % of the pixels "
    "that the attribute changes most consistently (spatial LPIPS of the mean change over the samples); *IoU*: of the "
    "mask above 0.5 and these pixels; *mass on the parts*: on the face parts that a local attribute is about, dilated "
    "by 6 % of the width; *edit kept*: change of the attribute from photo to composed picture over that from inverted "
    "to edited, by probes, before any deghosting; *area*: of the whole picture; *named right*: Diff-CAM's first guess "
    "is the edit."
)


def markdown(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], caption: str) -> str:
    """A table for each set of faces {title: {attribute: {kind: {metric: entry}}}}, one row an attribute and kind."""
    blocks = []
    for title, attributes in tables.items():
        rows = [
            [attribute, kind, *(number(entries.get(metric)) for metric in HEADS)]
            for attribute, kinds in attributes.items()
            for kind, entries in kinds.items()
        ]
        table = Table(["attribute", "masks", *HEADS.values()], rows, numbers=range(2, 2 + len(HEADS)))
        blocks.append(f"### {title}\n\n{table.markdown()}")
    return "\n".join([*blocks, caption + "\n"])


def picture(measured: MaskQuality) -> Image.Image:
    """A row an attribute: mean face, consistent change, its 15 %, and the mean mask of each kind over the mean face."""
    face = (measured.mean_face.clamp(-1, 1) + 1) / 2
    rows = []
    for name, seen in measured.consistent.items():
        change = seen.map()
        shown = [face, _over(face, change / change.max().clamp(min=1e-9)), _over(face, seen.region().float())]
        shown += [_over(face, mask) for mask in measured.mean_masks(name).values()]
        rows.append([_picture(x) for x in shown])
    columns = ["mean face", "change", "its 15 %", *measured.kinds]
    return sheet(rows, columns, list(measured.consistent), size=160)


def _over(face: Tensor, heat: Tensor) -> Tensor:
    """A heat map (h, w) in [0, 1] in red over a dimmed face (3, H, W)."""
    heat = F.interpolate(heat[None, None].to(face), face.shape[1:], mode="bilinear", align_corners=False)[0]
    red = torch.tensor([1.0, 0.15, 0.1]).to(face)[:, None, None]
    return (0.75 * face) * (1 - heat) + red * heat


def _picture(x: Tensor) -> Image.Image:
    return Image.fromarray((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
