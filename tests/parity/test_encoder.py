"""GradualStyleEncoder (IR-SE50) of the public pSp checkpoint."""

import torch

from oodgan.inversion.psp import GradualStyleEncoder


@torch.inference_mode()
def test_the_encoder_gives_the_published_codes(reference):
    with torch.device("meta"):
        encoder = GradualStyleEncoder(18).eval()
    encoder.load_state_dict(reference.weights("psp.encoder"), assign=True)
    reference.check("encoder.out", encoder(reference.rnd("face256", 2, 3, 256, 256).clamp(-1, 1)))
