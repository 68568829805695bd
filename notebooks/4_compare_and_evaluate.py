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
# # Compare runs and evaluate
#
# Two different questions: which of my *trainings* went better (`compare`), and which *method* edits photos better
# (`evaluate`).

# %%
from pathlib import Path

from IPython.display import Markdown
from PIL import Image

from oodgan import generators
from oodgan.data.images import write_image
from oodgan.generators.protocol import sample_codes
from oodgan.launch import compose
from oodgan.stages import diffcam, evaluate
from oodgan.tracking import compare, page, runs

# %% [markdown]
# ## Trainings
#
# Four runs of the dry-run recipe: two learning rates, two seeds each. On the command line this is one sweep, `oodgan
# diffcam -m experiment=tiny diffcam.fit.lr=1e-4,1e-3 seed=1,2`.

# %%
for lr in (1e-4, 1e-3):
    for seed in (1, 2):
        diffcam.run(
            compose("diffcam", ["experiment=tiny", f"run=lr{lr}_{seed}", f"diffcam.fit.lr={lr}", f"seed={seed}"])
        )
found = runs.collect(sorted(Path("runs").glob("lr*/diffcam")))
comparison = compare.compare(found, ["val/loss", "val/accuracy"])
Markdown(comparison.table().markdown())

# %% [markdown]
# Only settings that differ are columns; runs that differ by their seed alone are one row with mean and standard
# deviation. The same as a page with curves:

# %%
Path("comparison.html").write_text(page.page(comparison, found, "two learning rates"))
# %% [markdown]
# ## Methods
#
# Photos are a folder of FFHQ-style crops; two faces of the generator stand for them here. A method is a built-in one,
# or a folder of pictures that another program made, named as the photos are.

# %%
generator = generators.build(compose("edit").generator)
Path("photos").mkdir(exist_ok=True)
for i, code in enumerate(sample_codes(generator, 2, seed=5)):
    write_image(generator.synthesis(code[None])[0].clamp(-1, 1), f"photos/{i}.png")
cfg = compose(
    "evaluate",
    [
        "photos=photos",
        "metrics=quick",
        "edits={smile: 1.0}",
        "methods={inversion: inversion, plain: plain, paper: paper, ours: ours}",
        "inverter.refine.steps=2",
        "output=scores",
    ],
)
scores = evaluate.run(cfg)["metrics"]

# %%
Markdown(Path("scores/table.md").read_text())

# %% [markdown]
# Each figure has its interval; the arrows say what is better. The pictures behind them, the worst and best first:

# %%
Image.open("scores/sheets/ours.png")

# %% [markdown]
# Two photos show how it works and nothing else. `metrics=protocol_v1` has all metrics; `metrics=celebahq_test` and
# `metrics=ffhq_test` are the official test sets. Results of two protocols are never put in one table.
