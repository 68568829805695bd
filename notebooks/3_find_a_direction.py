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
# # Find a direction
#
# A direction is a step in the generator's latent space that changes one thing. There are two ways to find one:
# without labels, by looking at what the generator varies; and with labels, by asking what goes along with them.

# %%
import csv
from pathlib import Path

from PIL import Image

from oodgan import generators
from oodgan.data.images import read_image, to_pil, write_image
from oodgan.directions.bank import Bank
from oodgan.generators.protocol import sample_codes
from oodgan.launch import compose
from oodgan.stages import directions

# %% [markdown]
# ## Without labels
#
# SeFa takes the directions that the style layers answer to most. They have no names: the contact sheet shows what
# they do. The first one here breaks the picture at both ends: what the layers answer to most need not be a face.

# %%
cfg = compose(
    "directions", ["directions=sefa", "directions.count=3", "directions.layers=2-7", "run=sefa", "pictures=1"]
)
directions.run(cfg)
Image.open("runs/sefa/directions/artifact/pictures/sheet.jpg")

# %% [markdown]
# ## With labels
#
# Labels are a file with the columns file, attribute, value. Anything that can be told of a picture will do; here it
# is measured, so that nobody has to label: how warm the colours are. Real labels belong to real photos; samples of
# the generator stand for them here.

# %%
generator = generators.build(compose("edit").generator)
Path("faces").mkdir(exist_ok=True)
with open("labels.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["file", "attribute", "value"])
    for i, code in enumerate(sample_codes(generator, 40, seed=1, truncation=0.9)):
        write_image(generator.synthesis(code[None], size=256)[0].clamp(-1, 1), f"faces/{i:03}.png")
        red, _, blue = read_image(f"faces/{i:03}.png").mean((1, 2)).tolist()
        rows.writerow([f"{i:03}.png", "warm", red - blue])

# %% [markdown]
# The stage trains a probe on the labels, scores new samples with it, and solves for the direction in W. Strength 1 is a
# step of 4 here; without `step` the stage finds its length. A good direction takes some thousand samples and a check on
# others (`check.samples`); this is a sketch.

# %%
cfg = compose(
    "directions",
    [
        "directions=probe",
        "labels=labels.csv",
        "images=faces",
        "directions.attributes={warm: {layers: 6-15, step: 4.0}}",
        "directions.samples=40",
        "directions.holdout=0",
        "calibrate.samples=2",
        "check.samples=0",
        "pictures=1",
        "run=warm",
    ],
)
directions.run(cfg)
bank = Bank.load("runs/warm/directions/artifact")
bank.calibration["warm"]["step"], bank.range("warm")

# %% [markdown]
# What it does to a face that it has not seen, from -1.5 to 1.5:

# %%
code = sample_codes(generator, 1, seed=2)
sheet = Image.new("RGB", (5 * 192, 192))
for i, strength in enumerate((-1.5, -0.75, 0.0, 0.75, 1.5)):
    image = generator.synthesis(bank.apply(code, {"warm": strength}), size=256)[0].clamp(-1, 1)
    sheet.paste(to_pil(image).resize((192, 192)), (192 * i, 0))
sheet

# %% [markdown]
# To edit photos with it, Diff-CAM must know it: `oodgan diffcam directions=bank
# directions.path=runs/warm/directions/artifact`, then give `oodgan edit` the same two words and
# `diffcam.weights=...`.
