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
# # Edit your own photo
#
# Everything below runs on a CPU with the shipped weights. Put the path of a photo of one face where the demo's portrait
# stands (NASA's Eileen Collins, public domain, from scikit-image).

# %%
from PIL import Image
from skimage.data import astronaut

from oodgan import Editor

photo = Image.fromarray(astronaut())
editor = Editor.from_pretrained("mobile_ffhq")
editor.names

# %% [markdown]
# An edit is `{name: strength}`; strength 1 is the calibrated one and several names make one edit. Pictures are computed
# when they are asked for.

# %%
edit = editor.edit(photo, {"eyeglasses": 1.0})
edit.result.resize((384, 384))

# %% [markdown]
# The steps in between: what the generator makes of the photo, the edited picture, and where Diff-CAM saw the change.

# %%
steps = [edit.photo, edit.inverted, edit.edited, edit.mask.convert("RGB"), edit.coarse, edit.result]
sheet = Image.new("RGB", (192 * len(steps), 192))
for i, step in enumerate(steps):
    sheet.paste(step.resize((192, 192)), (192 * i, 0))
sheet

# %% [markdown]
# A further edit of the same photo is cheaper: it is inverted once.

# %%
smiling = editor.edit(photo, {"smile": 1.0, "eyeglasses": 1.0})
smiling.pasted

# %%
{step: round(seconds, 2) for step, seconds in smiling.seconds.items()}
