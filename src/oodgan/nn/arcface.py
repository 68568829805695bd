"""A face recogniser provided by the user: any ArcFace-like ONNX file, or an IR-SE50 checkpoint.

Faces are aligned to the five-point template that such networks are trained on. The landmarks of FFHQ-aligned images
have nearly the same positions, so one fixed similarity transform is used for all, and an edit cannot change the crop.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodgan.errors import UserError

# Eyes, nose and mouth corners (x, y) in a crop of 112 x 112 pixels (Deng et al. 2019); 8 columns less on both sides
# make the older 96-wide one.
TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
# The same points as shares of an FFHQ-aligned picture: medians over 24 photos (MTCNN).
FFHQ_POINTS = ((0.3765, 0.4886), (0.6282, 0.4888), (0.498, 0.6377), (0.3878, 0.7506), (0.6134, 0.7482))
HEIGHT = 112


class IRSE50(nn.Module):
    """IR-SE50 with its embedding layer, (B, 3, 112, 112) -> (B, 512), laid out as the public `model_ir_se50.pth`."""

    def __init__(self) -> None:
        super().__init__()
        from oodgan.nn.irse import Trunk

        trunk = Trunk()
        self.input_layer, self.body = trunk.input_layer, trunk.body
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )

    def forward(self, crops: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(crops)))


class OnnxRecogniser:
    """An ONNX network run by OpenCV: crops (B, 3, 112, width) in [-1, 1] RGB -> embeddings (B, D) on the CPU."""

    def __init__(self, path: Path) -> None:
        import cv2

        try:
            self.network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UserError(f"identity={path} cannot be read as ONNX") from error

    def __call__(self, crops: Tensor) -> Tensor:
        import cv2

        embeddings = []
        for crop in crops.cpu().numpy():
            self.network.setInput(np.ascontiguousarray(crop[None], dtype=np.float32))
            try:
                embeddings.append(torch.from_numpy(self.network.forward().reshape(-1).copy()))
            except cv2.error as error:
                raise UserError(f"identity: the network takes no {crop.shape[2]}x{crop.shape[1]} faces") from error
        return torch.stack(embeddings).to(crops.device)


def load(path: Path, device: str = "cpu") -> Any:
    """The network of a file: `.onnx` by OpenCV, else an IR-SE50 checkpoint or the folder that it was converted to.

    Raises:
        UserError: no such file, not ONNX, or another network's checkpoint.
    """
    path = file_of(path)
    if not path.is_file():
        raise UserError(f"identity={path}: there is no such file")
    if path.suffix.lower() == ".onnx":
        return OnnxRecogniser(path)
    from oodgan.weights.checkpoint import read

    content = read(path)
    network = IRSE50()
    try:
        network.load_state_dict(content.get("state_dict", content))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UserError(f"identity={path} is neither ONNX nor an IR-SE50 checkpoint (model_ir_se50.pth)") from error
    return network.eval().requires_grad_(False).to(device)


class ArcFace:
    """A recogniser from a user's file (`oodgan.nn.identity.Recogniser`).

    Args:
        path: `.onnx` (input (1, 3, 112, `width`) RGB, (x - 127.5) / 127.5), an IR-SE50 checkpoint, or the folder that
            `oodgan weights convert` made of one. Its name carries the file's and the first 8 digits of its hash.
        width: of its crops, 112 or 96.
    """

    def __init__(self, path: str | Path, width: int = HEIGHT) -> None:
        from oodgan.files import hash_of

        self.path, self.width = Path(path).expanduser().absolute(), width
        self.differentiable = not isinstance(recogniser(self.path), OnnxRecogniser)
        self.name = f"arcface_{self.path.stem}_{hash_of(file_of(self.path))[:8]}"

    def __call__(self, images: Tensor) -> Tensor:
        faces = template_crop(images.clamp(-1, 1), self.width)
        return F.normalize(recogniser(self.path, str(images.device))(faces), dim=1)

    def networks(self, device: str) -> tuple[nn.Module, ...]:
        return (recogniser(self.path, device),) if self.differentiable else ()


@lru_cache(maxsize=2)
def recogniser(path: Path, device: str = "cpu") -> Any:
    """`load`, cached for all callers."""
    return load(path, device)


def file_of(path: Path) -> Path:
    from oodgan.weights.trained import FILE

    return path / FILE if path.is_dir() else path


def template_crop(images: Tensor, width: int = HEIGHT) -> Tensor:
    """FFHQ-aligned pictures (B, 3, R, R) in [-1, 1] -> faces (B, 3, 112, width) on the template, in [-1, 1].

    Raises:
        UserError: the pictures are not square, so they cannot be aligned faces.
    """
    if images.shape[-1] != images.shape[-2]:
        size = f"{images.shape[-1]}x{images.shape[-2]}"
        raise UserError(f"identity needs FFHQ-aligned square faces, got {size}; align the photos first")
    to_picture = _similarity((HEIGHT - width) / 2)
    # Resized first to the resolution of the crop, to avoid aliasing.
    side = max(8, round(1 / float(np.hypot(*to_picture[:, 0]))))
    images = images.float()
    if images.shape[-1] > side:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(width), indexing="ij")
    points = torch.stack([columns + 0.5, rows + 0.5, torch.ones_like(rows)], -1).double() @ torch.from_numpy(
        to_picture.T
    )
    grid = (2 * points - 1).to(images)[None].expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _similarity(cut: float) -> np.ndarray:
    """(2, 3): crop pixels (x, y, 1) -> shares of the picture, the least-squares similarity of the five points.

    `cut` columns of the template are left out on both sides.
    """
    crop = np.array(TEMPLATE) - (cut, 0)
    x, y = crop.T
    zero, one = np.zeros(len(crop)), np.ones(len(crop))
    equations = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, right, down = np.linalg.lstsq(equations, np.array(FFHQ_POINTS).T.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, right], [b, a, down]])
