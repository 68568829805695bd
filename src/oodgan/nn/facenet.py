"""Identity of aligned faces: FaceNet 20180408-102900 (Inception-ResNet-v1, CASIA-WebFace, 512-d) in plain PyTorch.

The weights are the frozen graph of the registry's `facenet` entry; its output equals OpenCV's to 1e-4 (tested).
Everything here is differentiable, so it can be used as metric and as loss.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodgan.errors import UserError
from oodgan.nn.identity import Recogniser
from oodgan.nn.inception_resnet import InceptionResnetV1

NAME = "facenet_20180408"
INPUT_SIZE = 160
# (left, top, right, bottom) as fractions of the picture.  Mean MTCNN box of 24 FFHQ-aligned photos (eyes' middle at
# (0.515, 0.489), mouth's at (0.514, 0.747)) with a margin of 22/512 on each side, as the network's training crops had.
FFHQ_BOX = (0.197, 0.155, 0.823, 0.970)


@lru_cache(maxsize=4)
def facenet(device: str = "cpu") -> InceptionResnetV1:
    """The pretrained network on `device`: eval, frozen, fetched at first use and shared by all callers."""
    from oodgan.nn.graphdef import read_constants
    from oodgan.weights.fetch import fetch

    with torch.inference_mode(False):  # or the cached network could never serve as a loss
        network = InceptionResnetV1()
        network.load_tensorflow(read_constants(fetch("facenet") / "graph_final.pb"))
        return network.eval().requires_grad_(False).to(device)


def face_crop(images: Tensor, box: tuple[float, float, float, float] = FFHQ_BOX) -> Tensor:
    """The face of FFHQ-aligned pictures, (B, 3, R, R) in [-1, 1] -> (B, 3, 160, 160) in the network's own range.

    Slices `box` and resizes by antialiased bilinear interpolation, without keeping the aspect, as FaceNet's own
    alignment does.  The range is the fixed standardisation (x - 127.5) / 128 the checkpoint was trained with: on
    48 photos it separates people better than the wheel's per-image whitening (d' 9.5 against 7.3).

    Raises:
        UserError: the pictures are not square, so they cannot be aligned faces.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise UserError(f"identity needs FFHQ-aligned square faces, got {width}x{height}; align the photos first")
    left, top, right, bottom = (round(edge * width) for edge in box)
    face = images[..., top:bottom, left:right]
    face = F.interpolate(face.float(), size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
    return face * (127.5 / 128)


def identity_embedding(images: Tensor) -> Tensor:
    """Identity of FFHQ-aligned faces, (B, 3, R, R) RGB in [-1, 1] -> (B, 512) unit vectors; differentiable."""
    return facenet(str(images.device))(face_crop(images))


class FaceNet:
    """This network as `oodgan.nn.identity.Recogniser`."""

    name, differentiable = NAME, True

    def __call__(self, images: Tensor) -> Tensor:
        return identity_embedding(images)

    def networks(self, device: str) -> tuple[nn.Module, ...]:
        return (facenet(device),)


class IdentityLoss(nn.Module):
    """Mean of 1 - cosine of the identities of result and target.

    The network is no submodule: it stays out of optimisers and checkpoints and follows the images' device.

    Args:
        recogniser: FaceNet when None.

    Raises:
        UserError: no gradient reaches the pictures through this recogniser.
    """

    def __init__(self, recogniser: Recogniser | None = None) -> None:
        super().__init__()
        self.recogniser: Recogniser = recogniser or FaceNet()
        if not self.recogniser.differentiable:
            raise UserError(f"{self.recogniser.name} gives no gradients: use it as a metric, not as a loss")

    def forward(self, result: Tensor, target: Tensor) -> Tensor:
        """(B, 3, R, R) in [-1, 1] each -> scalar in [0, 2]; the gradient goes to `result` only."""
        with torch.no_grad():
            wanted = self.recogniser(target)
        return 1 - (self.recogniser(result) * wanted).sum(1).mean()
