# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train Diff-CAM and look at masks
#
# Diff-CAM learns to name an edit from the picture before and the picture after it; where it looks is the mask.
# Everything it learns from is drawn by the generator, so no data is needed. This is a very short run: the shipped one
# had many more pairs and steps (its card says how many).

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from skimage.data import astronaut

from oodgan import Editor
from oodgan.launch import compose
from oodgan.stages import diffcam
from oodgan.tracking.loggers import read_csv

# %% [markdown]
# A stage is a function of a configuration; `compose` makes the one that `oodgan diffcam key=value ...` would use. The
# stage writes to `runs/notebook/diffcam`, and running it again does nothing, as the artifact is there.

# %%
cfg = compose(
    "diffcam",
    [
        "run=notebook",
        "diffcam.fit.pairs=48",
        "diffcam.fit.held_out=8",
        "diffcam.fit.region_codes=2",
        "diffcam.fit.max_steps=60",
        "diffcam.fit.batch_size=8",
        "diffcam.fit.val_every=20",
        "diffcam.fit.mask_quality.samples=0",  # which would be measured at each validation
    ],
)
diffcam.run(cfg)
# %% [markdown]
# The training loss falls and the validation loss does not: 40 pairs are soon learnt by heart, and new edits are named
# no better. (`oodgan compare` and TensorBoard or Weights & Biases draw the same numbers.)

# %%
(history,) = Path("runs/notebook/diffcam/training").glob("*/metrics.csv")
curves = {}
for step, name, value in read_csv(history):
    curves.setdefault(name, []).append((step, value))
for name in ("train/loss", "val/loss"):
    plt.plot(*zip(*curves[name], strict=True), label=name)
plt.legend()
plt.xlabel("step")
# %% [markdown]
# One edit, and its mask by the shipped Diff-CAM and by the one trained above. A mask needs the pictures before and
# after and the names of the edit.

# %%
editor = Editor.from_pretrained("mobile_ffhq")
mine = Editor.from_pretrained("mobile_ffhq", "diffcam.weights=runs/notebook/diffcam/artifact")
edit = editor.edit(Image.fromarray(astronaut()), {"eyeglasses": 1.0})
pictures = {name: edit.tensors[name] for name in ("photo", "inverted", "edited")}
masks = {"shipped": edit.tensors["mask"], "mine": mine.mask(**pictures, edits=edit.edits)}

# %%
red = Image.new("RGB", (320, 320), (255, 0, 0))
sheet = Image.new("RGB", (960, 320))
sheet.paste(edit.edited.resize((320, 320)), (0, 0))
for i, mask in enumerate(masks.values(), start=1):
    grey = Image.fromarray((mask[0, 0].numpy() * 150).astype("uint8")).resize((320, 320))
    sheet.paste(Image.composite(red, edit.photo.resize((320, 320)), grey), (320 * i, 0))
sheet

# %% [markdown]
# Left: edited. Middle: the shipped mask, on the glasses. Right: the one trained above, which marks the eyes, some hair
# and little of the frame: 40 pairs do not teach more. `diffcam.fit.pairs=2400` without the other words trains a mask
# like the shipped one in a quarter of an hour of one core. `diffcam.mask.kind=paper` shows the class activation map
# alone, `diffcam.mask.threshold` and `feather` shape the mask without training, and `oodgan masks` measures masks.
