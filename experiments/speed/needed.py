"""What masks lose by decode=needed: the inverted image decoded only to a preview, against full decoding.

    python experiments/speed/needed.py generator=paper|mobile_ffhq [photos=4] [directions=4]

`paper` is the paper's architecture with random weights (its seconds count, its masks mean little); `mobile_ffhq` has
real weights, with the CAM of the shipped Diff-CAM as mask. Codes are samples. The preview (256 px) is compared with the
edited image decoded in full (`needed`, what the editor does), or as if both had been decoded to previews (`both`).
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan import Editor
from oodgan.compose import compose
from oodgan.generators import sample_codes

SIZE = 256


def timed(make: Any) -> tuple[Tensor, float]:
    """An image and the processor seconds that it took."""
    start = time.process_time()
    return make().clamp(-1, 1), time.process_time() - start


def compare(editor: Editor, photos: int, directions: int) -> None:
    """Print the medians (and worst) over photos and directions."""
    generator, found = editor.generator, {"needed": [], "both": []}
    seconds = []
    for code in sample_codes(generator, photos, seed=5).split(1):
        inverted, whole = timed(lambda code=code: generator.synthesis(code))
        small, part = timed(lambda code=code: generator.synthesis(code, size=SIZE))
        seconds.append([whole, part])
        for name in editor.names[:directions]:
            edited = editor.change(code, {name: 1.0})
            preview = generator.synthesis(editor.bank.apply(code, {name: 1.0}), size=SIZE).clamp(-1, 1)
            # The edited side is its area-resized full image either way: so both differ as the two previews do.
            other = F.interpolate(edited, (SIZE, SIZE), mode="area") + small - preview
            expected = editor.masker(inverted, edited, [name])
            for way, seen in (("needed", small), ("both", other)):
                mask = editor.masker(seen, edited, [name])
                images = [compose(inverted, inverted, edited, m, mode="paper") for m in (mask, expected)]
                inside, wanted = mask > 0.5, expected > 0.5
                overlap = (inside & wanted).sum() / (inside | wanted).sum().clamp(min=1)
                gap = (images[0] - images[1]).abs()
                found[way].append([float((mask - expected).abs().mean()), float(overlap), float(gap.mean())])
    print("processor seconds, full and preview:", [round(s, 2) for s in torch.tensor(seconds).median(0)[0].tolist()])
    for way, rows in found.items():
        table = torch.tensor(rows)
        median, low, high = table.median(0)[0], table.min(0)[0], table.max(0)[0]
        print(
            f"{way}: mask differs by {median[0]:.4f} on average (worst {high[0]:.4f}), overlap above 0.5 "
            f"{median[1]:.2f} (worst {low[1]:.2f}), coarse image differs by {median[2]:.4f} (worst {high[2]:.4f})"
        )


def main(words: list[str]) -> None:
    """Build the editor and compare."""
    settings = {"generator": "paper", "photos": "4", "directions": "4", **dict(word.split("=", 1) for word in words)}
    if settings["generator"] == "paper":
        from benchmark import build

        editor = build(1024, "cpu")
    else:
        words = ["diffcam.mask.kind=paper", "compose.mode=paper"]
        editor = Editor.from_pretrained(settings["generator"], *words, deghoster="none")
    with torch.no_grad():
        compare(editor, int(settings["photos"]), int(settings["directions"]))


if __name__ == "__main__":
    main(sys.argv[1:])
