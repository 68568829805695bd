"""The card of a bank: a Markdown file with numbers and images, written by the stage `directions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from oodgan.data.images import to_pil, write_image
from oodgan.directions.bank import Bank
from oodgan.directions.calibrate import Check
from oodgan.directions.features import render
from oodgan.generators.protocol import Generator
from oodgan.reporting.tables import Table

_MARGIN = 110


@torch.no_grad()
def contact_sheet(
    generator: Generator, bank: Bank, codes: Tensor, strengths: Sequence[float] = (-1, 0, 1), side: int = 112
) -> Image.Image:
    """One labelled row per direction: for each code (N, L, 512) the strengths side by side, in cells of `side` px."""
    columns = len(codes) * len(strengths)
    sheet = Image.new("RGB", (_MARGIN + columns * side, 18 + len(bank) * side), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        draw.text((_MARGIN + column * side + 4, 3), f"{strengths[column % len(strengths)]:+g}", fill="black")
    unedited = [_cell(generator, code[None], side) for code in codes]
    for row, name in enumerate(bank.names):
        top = 18 + row * side
        draw.text((4, top + side // 2 - 6), name, fill="black")
        for i, code in enumerate(codes):
            for j, strength in enumerate(strengths):
                edited = unedited[i] if strength == 0 else None
                cell = edited or _cell(generator, bank.apply(code[None], {name: float(strength)}), side)
                sheet.paste(cell, (_MARGIN + (i * len(strengths) + j) * side, top))
    return sheet


def _cell(generator: Generator, code: Tensor, side: int) -> Image.Image:
    return to_pil(render(generator, code, 256)).resize((side, side), Image.Resampling.LANCZOS)


def heat_map(result: Check, path: Path) -> None:
    """Draw the entanglement matrix: directions in rows, probes in columns, in standard deviations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 0.55 * len(result.probes), 1.2 + 0.42 * len(result.names)), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    picture = axes.imshow(result.moves.numpy(), cmap="RdBu_r", vmin=-3, vmax=3)
    axes.set_xticks(range(len(result.probes)), result.probes, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(result.names)), result.names, fontsize=8)
    for i, row in enumerate(result.moves.tolist()):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7)
    figure.colorbar(picture, label="movement at strength 1 (sd)")
    figure.tight_layout()
    figure.savefig(path)


def write_pictures(generator: Generator, bank: Bank, codes: Tensor, folder: Path, result: Check | None) -> list[str]:
    """`sheet.jpg` and, with a check, `entanglement.png` in `folder`; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    write_image(contact_sheet(generator, bank, codes), folder / "sheet.jpg", quality=82)
    if result is None:
        return ["sheet.jpg"]
    heat_map(result, folder / "entanglement.png")
    return ["sheet.jpg", "entanglement.png"]


def write_card(
    bank: Bank, path: Path, command: str, pictures: Sequence[str], result: Check | None, extra: Mapping[str, Any]
) -> Path:
    """Write the card. `extra` may have `compose` and `published` results; `pictures` are paths relative to the card."""
    parts = [_head(bank, command), _table(bank, result), *(f"![{Path(p).stem}]({p})\n" for p in pictures)]
    if result is not None:
        parts.append(_matrix(result))
    parts.append(_curves(bank))
    if extra.get("compose"):
        parts.append(_compose(extra["compose"]))
    if extra.get("published"):
        parts.append(_published(extra["published"]))
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    return path


def _head(bank: Bank, command: str) -> str:
    how = "\n".join(f"- {key}: {value}" for key, value in bank.provenance.items())
    return (
        f"# Directions `{bank.id}`\n\n{len(bank)} named edits in W+ ({bank.num_ws} layers) of the latent space "
        f"`{bank.space}`, measured on `{bank.generator}`.\nStrength 1 is the calibrated step; negative "
        f"strengths reverse the edit.\n\nMade by\n\n```\n{command}\n```\n\n{how}\n"
    )


def _table(bank: Bank, result: Check | None) -> str:
    head = ["name", "step in W", "layers", "useful range", "r of probe", "r from W"]
    rows = []
    for name in bank.names:
        note = bank.calibration.get(name, {})
        low, high = bank.range(name)
        moved = [str(i) for i, row in enumerate(bank[name]) if bool(row.any())]
        row = [name, f"{float(bank[name].norm(dim=1).max()):.2f}", f"{moved[0]} to {moved[-1]}", f"{low:g} to {high:g}"]
        row += [str(note.get("probe_r", "")), str(note.get("w_r", ""))]
        if result is not None:
            other, value = result.strongest_other(name)
            identity = float(result.identity[result.names.index(name)])
            row += [f"{result.own(name):+.2f}", f"{other} {value:+.2f}", f"{identity:.2f}"]
        rows.append(row)
    if result is None:
        return Table(head, rows).markdown()
    head += ["own change", "largest other change", "identity"]
    return (
        f"Checked at strength 1 on {result.samples} held-out samples, by probes trained on other faces than the "
        "directions. Changes are in standard deviations of the score over real faces; identity is the median FaceNet "
        "similarity to the unedited face.\n\n" + Table(head, rows).markdown()
    )


def _matrix(result: Check) -> str:
    rows = [[n, *(f"{v:+.2f}" for v in row.tolist())] for n, row in zip(result.names, result.moves, strict=True)]
    return "## Changes of all attributes\n\n" + Table(["direction", *result.probes], rows).markdown()


def _curves(bank: Bank) -> str:
    parts = []
    for kind, title in (("samples", "on samples"), ("photos", "on inverted real photos")):
        known = {n: c[kind] for n, c in bank.calibration.items() if kind in c}
        if not known:
            continue
        strengths = next(iter(known.values()))["strength"]
        rows = [
            [n, *(f"{m:+.2f} / {i:.2f}" for m, i in zip(c["move"], c["identity"], strict=True))]
            for n, c in known.items()
        ]
        parts.append(
            f"## Change / identity by strength, {title}\n\n"
            + Table(["direction", *(f"{s:+g}" for s in strengths)], rows).markdown()
        )
    return "\n".join(parts)


def _compose(pairs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            " + ".join(entry["pair"]),
            *(f"{k:.2f}" for k in (*entry["kept"], *entry["kept_learnt"])),
            f"{entry['identity']:.2f}",
        ]
        for entry in pairs
    ]
    head = ["pair", "first", "second", "first, training probes", "second, training probes", "identity"]
    explanation = (
        "Change in the combined edit, relative to the edit alone; by independent probes, and by those used in training:"
    )
    return f"## Two edits at once\n\n{explanation}\n\n" + Table(head, rows).markdown()


def _published(comparisons: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(comparison["name"]),
            *(f"{comparison[k]:.2f}" for k in ("identity", "ours", "published", "published_strength")),
        ]
        for comparison in comparisons
    ]
    head = ["name", "identity", "change, ours", "change, published", "at strength"]
    return "## Against published directions at equal identity\n\n" + Table(head, rows).markdown()
