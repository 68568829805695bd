import pytest
import torch

from oodgan.generators.stylegan2 import tiny
from oodgan.inversion.refine import Refinement


@pytest.mark.network
def test_refinement_works_in_inference_mode_with_networks_loaded_in_inference_mode():
    from oodgan.metrics.lpips import lpips_distance
    from oodgan.nn.facenet import facenet, identity_embedding

    lpips_distance.cache_clear()
    facenet.cache_clear()
    generator = tiny()
    with torch.inference_mode():
        photos = generator.synthesis(generator.mean_w.expand(1, 8, -1)).clamp(-1, 1)
        photos = torch.nn.functional.interpolate(photos, (64, 64))
        identity_embedding(photos)
        lpips_distance("alex")(photos, photos)
        start = generator.mean_w.expand(1, 8, -1) + 0.3
        result = Refinement(steps=2, losses={"identity": 0.5, "lpips": 1.0})(generator, start, photos)
    assert torch.isfinite(result).all() and not torch.equal(result, start)
