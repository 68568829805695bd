"""Identity with a user's recogniser: the crop, both file formats, and the metric's name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oodgan.errors import UserError
from oodgan.metrics.similarity import Identity
from oodgan.nn.arcface import FFHQ_POINTS, IRSE50, TEMPLATE, ArcFace, recogniser, template_crop


def spot(x, y, size=512):
    """A bright spot in a dark picture, at (x, y) as fractions of its size."""
    across = (torch.arange(size) + 0.5) / size
    distance = (across[None] - x).square() + (across[:, None] - y).square()
    return (2 * torch.exp(-distance / (2 * 0.012**2)) - 1).expand(1, 3, size, size)


@pytest.mark.parametrize("width", [112, 96])
def test_the_crop_moves_landmarks_to_the_template(width):
    errors = []
    for (x, y), (column, row) in zip(FFHQ_POINTS, TEMPLATE, strict=True):
        crop = template_crop(spot(x, y), width)
        assert crop.shape == (1, 3, 112, width)
        at = int((crop[0, 0] + 1).argmax())
        errors.append(((at % width - (column - (112 - width) / 2)) ** 2 + (at // width - row) ** 2) ** 0.5)
    assert max(errors) < 4  # FFHQ's mean face differs slightly from the template
    with pytest.raises(UserError, match="square"):
        template_crop(torch.zeros(1, 3, 64, 32))


def test_an_irse50_checkpoint_is_loaded_as_a_recogniser(tmp_path):
    torch.manual_seed(0)
    network = IRSE50()
    torch.save(network.state_dict(), tmp_path / "model_ir_se50.pth")
    metric = Identity(ArcFace(tmp_path / "model_ir_se50.pth"))
    assert metric.name.startswith("identity_arcface_model_ir_se50_") and len(metric.name.rpartition("_")[2]) == 8
    images = torch.rand(2, 3, 128, 128) * 2 - 1
    values = metric.per_image(images, torch.stack([images[0], images[1].flip(1)]))
    assert float(values[0]) == pytest.approx(1, abs=1e-6) and float(values[1]) < 0.999
    names = {name for name, _ in network.named_parameters()}
    assert {"input_layer.0.weight", "body.23.res_layer.5.fc2.weight", "output_layer.3.weight"} <= names


def test_unsupported_recogniser_files_are_one_line_errors(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    for name, message in (("none.onnx", "no such file"), ("other.pth", "neither ONNX"), ("broken.onnx", "as ONNX")):
        with pytest.raises(UserError, match=message):
            Identity(ArcFace(tmp_path / name))


class Bottleneck(nn.Module):
    """MobileFaceNet's inverted residual, named as in the checkpoint."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        wide = inputs * expansion
        self.connect = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.PReLU(wide),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv(x) if self.connect else self.conv(x)


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, padding, grouped=False, linear=False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=inputs if grouped else 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        if not linear:
            self.prelu = nn.PReLU(outputs)

    def forward(self, x):
        x = self.bn(self.conv(x))
        return self.prelu(x) if hasattr(self, "prelu") else x


class MobileFaceNet(nn.Module):
    """The 1 M recogniser of the shared folder, 112 x 96 -> 128 numbers."""

    def __init__(self):
        super().__init__()
        self.conv1 = Block(3, 64, 3, 2, 1)
        self.dw_conv1 = Block(64, 64, 3, 1, 1, grouped=True)
        blocks, inputs = [], 64
        for expansion, outputs, count, stride in (
            (2, 64, 5, 2),
            (4, 128, 1, 2),
            (2, 128, 6, 1),
            (4, 128, 1, 2),
            (2, 128, 2, 1),
        ):
            for i in range(count):
                blocks.append(Bottleneck(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = Block(128, 512, 1, 1, 0)
        self.linear7 = Block(512, 512, (7, 6), 1, 0, grouped=True, linear=True)
        self.linear1 = Block(512, 128, 1, 1, 0, linear=True)

    def forward(self, x):
        x = self.conv2(self.blocks(self.dw_conv1(self.conv1(x))))
        return self.linear1(self.linear7(x)).flatten(1)


def test_mobilefacenet_as_onnx_separates_different_people(shared, tmp_path):
    """A real recogniser as ONNX: photos of different people, and of the same person with a small change."""
    pytest.importorskip("onnx", reason="onnx writes the file")
    from oodgan.data.images import read_image

    network = MobileFaceNet()
    held = torch.load(shared / "weights" / "mobilefacenet_068.ckpt", map_location="cpu", weights_only=True)
    network.load_state_dict(held["net_state_dict"])
    path = tmp_path / "mobilefacenet.onnx"
    torch.onnx.export(network.eval(), (torch.zeros(1, 3, 112, 96),), str(path), dynamo=False)
    files = sorted((shared / "data" / "celebahq512" / "images").glob("*.jpg"))[:6]
    photos = torch.stack([F.interpolate(read_image(file)[None], (256, 256), mode="area")[0] for file in files])
    metric = Identity(ArcFace(path, width=96))
    assert metric.name.startswith("identity_arcface_mobilefacenet_")
    result = recogniser(path)(template_crop(photos[:2], 96))
    with torch.no_grad():
        torch.testing.assert_close(result, network(template_crop(photos[:2], 96)), atol=1e-3, rtol=1e-3)
    same = metric.per_image((photos * 0.9 + 0.05).roll(1, 3), photos)
    others = metric.per_image(photos.roll(1, 0), photos)
    assert float(same.min()) > 0.8 and float(others.max()) < 0.45 and float(others.mean()) < 0.2


def test_loss_metric_and_refinement_use_the_same_recogniser(tmp_path):
    from omegaconf import OmegaConf

    from oodgan.errors import UserError
    from oodgan.inversion.refine import Refinement
    from oodgan.launch import compose
    from oodgan.nn.arcface import IRSE50
    from oodgan.nn.facenet import IdentityLoss

    torch.manual_seed(0)
    torch.save(IRSE50().state_dict(), tmp_path / "mine.pth")
    cfg = compose("inversion", ["identity=arcface", f"identity.path={tmp_path}/mine.pth"])
    losses = OmegaConf.to_container(cfg.inverter.fit.images.module.losses, resolve=True)
    metrics = OmegaConf.to_container(cfg.callbacks.metrics.metrics, resolve=True)
    chosen = {"_target_": "oodgan.nn.arcface.ArcFace", "path": f"{tmp_path}/mine.pth", "width": 112}
    assert losses["identity"]["recogniser"] == metrics["identity"]["recogniser"] == chosen
    refinement = Refinement(**dict(cfg.inverter.refine))
    assert isinstance(refinement.recogniser, ArcFace)
    recogniser = ArcFace(tmp_path / "mine.pth")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    result = images.flip(0).requires_grad_(True)
    loss = IdentityLoss(recogniser)(result, images)
    loss.backward()
    assert result.grad.abs().sum() > 0
    metric = Identity(recogniser)
    metric.update(images.flip(0), images)
    assert metric.compute().item() == pytest.approx(1 - loss.item(), abs=1e-5)
    assert metric.name.startswith("identity_arcface_mine_")
    recogniser.differentiable = False
    with pytest.raises(UserError, match="gives no gradients"):
        IdentityLoss(recogniser)
