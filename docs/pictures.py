"""Draws docs/pictures/ with the shipped weights: python docs/pictures.py (minutes on a CPU).

The faces are scikit-image's astronaut (NASA, public domain) and samples of the embedded generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from skimage.data import astronaut

from oodgan import Editor
from oodgan.data import images
from oodgan.generators.protocol import sample_codes

FOLDER = Path(__file__).parent / "pictures"
STEPS = ("photo", "inverted", "edited", "mask", "coarse", "result")


def sheet(rows: Sequence[Sequence[Image.Image]], name: str, side: int = 256) -> None:
    """Write rows of pictures, scaled to `side`, as one JPEG."""
    whole = Image.new("RGB", (side * len(rows[0]), side * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            whole.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (x * side, y * side))
    FOLDER.mkdir(exist_ok=True)
    whole.save(FOLDER / name, quality=82, optimize=True)
    print(FOLDER / name)


def over(photo: Image.Image, mask: Image.Image) -> Image.Image:
    """The photo with the mask in red over it."""
    return Image.composite(Image.blend(photo, Image.new("RGB", photo.size, (255, 0, 0)), 0.55), photo, mask)


def main() -> None:
    editor = Editor.from_pretrained("mobile_ffhq")
    photo = Image.fromarray(astronaut())
    sample = images.to_pil(editor.generator.synthesis(sample_codes(editor.generator, 1, 12))[0])
    edits = [
        editor.edit(photo, {"eyeglasses": 1.0}),
        editor.edit(photo, {"smile": -1.0}),
        editor.edit(sample, {"beard": 1.0}, aligned=True),
    ]
    sheet([[edit.picture(step) for step in STEPS] for edit in edits], "steps.jpg", 216)
    names = ("smile", "eyeglasses", "mouth_open", "narrow_eyes", "bangs", "age")
    masked = [editor.edit(photo, {name: 1.0}) for name in names]
    kind, editor.masker.kind = editor.masker.kind, "paper"
    cams = [editor.edit(photo, {name: 1.0}) for name in names]
    rows = [[edit.edited for edit in masked], [over(e.photo, e.mask) for e in cams]]
    editor.masker.kind = kind
    sheet([*rows, [over(e.photo, e.mask) for e in masked], [e.result for e in masked]], "masks.jpg", 192)
    made = []
    for mode in ("paper", "poisson", "difference"):
        editor.composition = {"mode": mode}
        made.append(editor.edit(photo, {"smile": -1.0}).coarse)
    final = editor.edit(photo, {"smile": -1.0})
    face = [picture.crop((256, 400, 768, 912)) for picture in (final.photo, final.edited, *made, final.result)]
    sheet([face], "compositions.jpg", 216)
    sheet([[edit.result for edit in editor.sweep(photo, "age", [-1.0, -0.5, 0.0, 0.5, 1.0])]], "strengths.jpg", 256)


if __name__ == "__main__":
    main()
