"""The published files, rebuilt from their layouts and converted, give the outputs of the authors' networks."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from oodgan.conversion.convert import convert, load_deghoster, load_diffcam
from oodgan.generators.stylegan2 import StyleGAN2
from oodgan.inversion.psp import PSP


@pytest.fixture
def folder():
    """Deleted after the test: these files take gigabytes, and pytest keeps its own folders for three runs."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.slow
@torch.inference_mode()
def test_converted_diff_cam_weights_give_the_published_logits(reference, folder):
    torch.save(reference.weights("diffcam"), folder / "diff_cam_weight.pt")
    network = load_diffcam(convert(folder / "diff_cam_weight.pt", folder / "out"))
    inverted = reference.rnd("inv", 2, 3, 256, 256).clamp(-1, 1)
    reference.check("diffcam.logits", network(inverted, reference.rnd("man", 2, 3, 256, 256).clamp(-1, 1)))


@pytest.mark.slow
@torch.inference_mode()
def test_converted_psp_weights_give_the_published_codes(reference, folder):
    state = {f"encoder.{name}": t for name, t in reference.weights("psp.encoder").items()}
    state |= {f"decoder.{name}": t for name, t in reference.weights("psp.decoder").items()}
    opts = {"encoder_type": "GradualStyleEncoder", "start_from_latent_avg": True, "output_size": 1024}
    torch.save({"state_dict": state, "latent_avg": torch.zeros(18, 512), "opts": opts}, folder / "psp.pt")
    del state
    out = convert(folder / "psp.pt", folder / "out")
    reference.check("encoder.out", PSP(weights=out)(reference.rnd("face256", 2, 3, 256, 256).clamp(-1, 1)))
    reference.check("mapping.w", StyleGAN2(weights=out / "generator").mapping(reference.rnd("z", 2, 512)))


@pytest.mark.slow
@torch.inference_mode()
def test_converted_deghosting_weights_give_the_published_image(reference, folder):
    torch.save(reference.weights("deghosting"), folder / "deghosting.pt")
    network = load_deghoster(convert(folder / "deghosting.pt", folder / "out"))
    image = network(reference.rnd("coarse128", 1, 3, 128, 128).clamp(-1, 1))
    reference.check("deghosting.pool64", F.interpolate(image, size=(64, 64), mode="area"))
