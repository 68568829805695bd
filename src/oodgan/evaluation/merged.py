"""Several evaluations of the same photos as one table and one chart.

`python -m oodgan.evaluation.merged scores/smile scores/age --methods plain,ours --metrics identity --chart curves.png`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oodgan.errors import UserError
from oodgan.evaluation import curves
from oodgan.evaluation.protocol import same_protocol
from oodgan.evaluation.report import markdown

Results = list[tuple[str, dict[str, Any]]]


def read(folders: Sequence[Path]) -> Results:
    """(name, `metrics.json`) of evaluations' folders.

    Raises:
        UserError: a folder without a result, two protocols, or different photos.
    """
    results: Results = []
    for folder in folders:
        try:
            results.append((str(folder), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no result of an evaluation: metrics.json cannot be read") from error
    same_protocol((label, values["protocol"]) for label, values in results)
    first, reference = results[0]
    for label, values in results[1:]:
        if values["photos"] != reference["photos"]:
            raise UserError(f"{first} and {label} measured different photos and share no table")
    return [(Path(label).name, values) for label, values in results]


def table(results: Results, methods: Sequence[str] = (), metrics: Sequence[str] = ()) -> str:
    """One Markdown table, of some methods and of metrics that begin in some way; all of them where none are named."""
    several = len(results) > 1
    rows = {
        (f"{label}: {row}" if several else row): {
            _without(values.get("edits") or {}, name) if several else name: entry
            for name, entry in scores.items()
            if not metrics or name.startswith(tuple(metrics))
        }
        for label, values in results
        for row, scores in values["methods"].items()
        if not methods or row.partition("@")[0] in methods
    }
    notes = dict.fromkeys(note for _, values in results for note in values.get("notes", ()) if _about(note, methods))
    reference = results[0][1]
    chosen = f" of the set {named['name']}" if (named := reference.get("set")) else ""
    caption = f"{reference['count']} photos{chosen}, protocol {reference['protocol_id']}."
    return markdown(rows, " ".join([caption, *notes]), equal_change(results, methods, metrics))


def equal_change(results: Results, methods: Sequence[str] = (), metrics: Sequence[str] = ()) -> dict[str, Any]:
    """What `curves.equal_change` found of all results, of some methods and metrics."""
    equal: dict[str, Any] = {}
    kept = _chosen(methods)
    for label, values in results:
        for attribute, held in values.get("equal_change", {}).items():
            name = f"{label}: {attribute}" if len(results) > 1 and label != attribute else attribute
            entries = {method: _select(entry, metrics) for method, entry in held["methods"].items() if kept(method)}
            equal[name] = {**held, "methods": entries}
    return equal


def _select(entry: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    keep = (*metrics, "change", "strength") if metrics else ("",)
    points = [{name: value for name, value in point.items() if name.startswith(keep)} for point in entry["points"]]
    likeness = {name: value for name, value in entry.get("likeness", {}).items() if name.startswith(keep)}
    return {"points": points, "likeness": likeness}


def _chosen(methods: Sequence[str]) -> Callable[[str], bool]:
    return lambda method: not methods or method in methods


def _without(edits: Mapping[str, float], name: str) -> str:
    """A metric's name without the attribute, which the row names: `change_smile_probe_1` is `change_probe_1`."""
    if len(edits) != 1:
        return name
    (attribute,) = edits
    return name.replace(f"_{attribute}_probe_", "_probe_")


def _about(note: str, methods: Sequence[str]) -> bool:
    """Whether a note is about the table as a whole or one of its methods."""
    subject = note.split("`")[1] if note.startswith("`") else None
    return subject is None or not methods or subject in methods


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m oodgan.evaluation.merged", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="outputs of `oodgan evaluate`")
    parser.add_argument("--methods", default="", help="comma-separated; default: all")
    parser.add_argument("--metrics", default="", help="beginnings of their names, comma-separated; default: all")
    parser.add_argument("--chart", type=Path, help="a PNG of likeness over change")
    given = parser.parse_args()
    methods, metrics = ([word for word in text.split(",") if word] for text in (given.methods, given.metrics))
    try:
        results = read(given.folders)
        print(table(results, methods, metrics))
        equal = equal_change(results, methods, metrics)
        if given.chart and equal:  # there is none where nothing was measured at several strengths
            given.chart.write_bytes(curves.draw(equal))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
