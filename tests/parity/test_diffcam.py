"""Diff-CAM with ResNet-101, 17 classes, as in `diff_cam_weight.pt`."""

import torch

from oodgan.diffcam.network import DiffCAM


@torch.inference_mode()
def test_logits_and_class_activation_maps_equal_the_published_ones(reference):
    network = DiffCAM("resnet101", 17).eval()
    network.load_state_dict(reference.weights("diffcam"))
    inverted = reference.rnd("inv", 2, 3, 256, 256).clamp(-1, 1)
    edited = reference.rnd("man", 2, 3, 256, 256).clamp(-1, 1)
    reference.check("diffcam.logits", network(inverted, edited))
    reference.check("diffcam.cam", network.cam(inverted, edited, classes=[3, 15]))
