"""The published deghoster 128 -> 1024, StyleGAN2's discriminator and the training losses."""

import pytest
import torch
from torch.nn import functional as F

from oodgan.conversion.layouts import from_mmgen_discriminator, from_published_deghoster
from oodgan.deghost.discriminator import Discriminator
from oodgan.deghost.losses import GeneratorLoss, PerceptualLoss, discriminator_losses
from oodgan.deghost.network import Deghoster
from oodgan.generators.stylegan2 import StyleGAN2


@pytest.mark.slow
@torch.inference_mode()
def test_the_deghoster_gives_the_published_image(reference):
    network_state, generator_state = from_published_deghoster(reference.weights("deghosting"))
    generator = StyleGAN2(1024)
    generator.load_public(generator_state, latent_avg=torch.zeros(512))
    network = Deghoster(generator).eval()
    network.load_trained(network_state)
    image = network(reference.rnd("coarse128", 1, 3, 128, 128).clamp(-1, 1))
    reference.check("deghosting.pool64", F.interpolate(image, size=(64, 64), mode="area"))
    reference.check("deghosting.crop", image[:, :, 480:544, 480:544])
    reference.check("deghosting.stats", torch.stack([image.mean(), image.std(), image.min(), image.max()]))


@pytest.mark.slow
@torch.inference_mode()
def test_the_discriminator_gives_the_published_logits(reference):
    network = Discriminator(1024).eval()
    network.load_state_dict(from_mmgen_discriminator(reference.weights("discriminator")))
    reference.check("discriminator.logit", network(reference.rnd("real1024", 2, 3, 1024, 1024).clamp(-1, 1)))


@torch.inference_mode()
def test_the_losses_equal_the_published_ones(reference):
    loss = PerceptualLoss(pretrained=False)
    loss.features.network.load_state_dict(reference.weights("perceptual.vgg", prefix="vgg_layers."))
    fake = reference.rnd("fake128", 1, 3, 128, 128).clamp(-1, 1)
    reference.check("perceptual.loss", 0.01 * loss(fake, reference.rnd("real128", 1, 3, 128, 128).clamp(-1, 1)))
    logits = reference.rnd("logits", 4, 1)
    losses = [0.01 * GeneratorLoss()(logits), *discriminator_losses(logits, logits)]  # weighted as published
    reference.check("gan.losses", torch.stack(losses))
