"""StyleGAN2 of 1024 px: mapping and decoder of the public pSp checkpoint."""

import torch
from torch.nn import functional as F

from oodgan.generators.stylegan2 import StyleGAN2


def pool(image: torch.Tensor) -> torch.Tensor:
    return F.interpolate(image, size=(64, 64), mode="area")


def crop(image: torch.Tensor) -> torch.Tensor:
    return image[:, :, 480:544, 480:544]


def stats(image: torch.Tensor) -> torch.Tensor:
    return torch.stack([image.mean(), image.std(), image.min(), image.max()])


@torch.inference_mode()
def test_mapping_and_synthesis_give_the_published_outputs(reference):
    generator = StyleGAN2(1024)
    generator.load_public(reference.weights("psp.decoder"), latent_avg=torch.zeros(512))
    reference.check("mapping.w", generator.mapping(reference.rnd("z", 2, 512)))
    image = generator.synthesis(reference.rnd("wplus", 1, 18, 512))
    reference.check("decoder.pool64", pool(image))
    reference.check("decoder.crop", crop(image))
    reference.check("decoder.stats", stats(image))
