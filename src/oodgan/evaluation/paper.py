"""The configuration of the method `paper`: the published method, as far as the configured parts allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodgan.evaluation.altered import altered_config

PAPER: dict[str, dict[str, Any] | None] = {
    "diffcam": {"mask": {"kind": "paper"}},
    "compose": {"mode": "paper"},
    "deghoster": {"paste": False},
    "parser": None,
}


def paper_changes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Mask, composition and pasting as published, and the key `paper` of a composed config (plain values) on top.

    Weights stay those configured, unless `paper` names others. Without a deghoster there is none here either.
    """
    from omegaconf import OmegaConf

    given = dict(config.get("paper") or {})
    cleaned = (config.get("deghoster") or {}).get("network")
    published = dict(PAPER) if cleaned else {**PAPER, "deghoster": None}
    merged = OmegaConf.to_container(OmegaConf.merge(published, given))
    assert isinstance(merged, dict)
    return {str(name): value for name, value in merged.items()}


def paper_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A composed config (plain values) with `paper_changes`."""
    return altered_config(config, paper_changes(config), "paper")


def differences(config: Mapping[str, Any]) -> str:
    """Return a sentence for table captions: what `paper` is here, and how it differs from the published method."""
    paper = paper_config(config)
    network, deghoster = ((paper[part] or {}).get("network") or {} for part in ("diffcam", "deghoster"))
    backbone = str(network.get("backbone", "another network"))
    cam = "the published ResNet-101" if backbone == "resnet101" else f"{backbone} ({_weights(paper['diffcam'])})"
    return (
        f"`paper`: the CAM itself as mask, mask x edited + (1 - mask) x photo, {_deghosting(deghoster, paper)}; "
        f"Diff-CAM is {cam} and generator, inversion and directions are ours, not the authors'."
    )


def _weights(part: Mapping[str, Any]) -> str:
    return f"weights {part.get('weights')}"


def _deghosting(network: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    if not network:
        return "no deghosting"
    if str(network.get("_target_", "")).endswith(".Deghoster"):
        return f"the published deghoster ({_weights(paper['deghoster'])})"
    sees = "the coarse image alone" if network.get("sees") == "coarse" else "all pictures, not the coarse one alone"
    return f"our light deghoster ({_weights(paper['deghoster'])}), which sees {sees}"
